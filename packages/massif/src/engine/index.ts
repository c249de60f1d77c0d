export * from "./enforcer/index.ts";
