export * from "./environment.ts";
export { readSplit, record, showSplit } from "./play.ts";
export { compileWorld, readWorld, type World } from "./world.ts";
export { WorldEnvironment } from "./world-environment.ts";
