export * from "./data/index.ts";
export * from "./run/index.ts";
