export * from "./checkpoints.ts";
export * from "./folder.ts";
export * from "./provenance.ts";
export { readRows } from "./step-log.ts";
