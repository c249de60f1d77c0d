export * from "./errors.ts";
export * from "./lines.ts";
export * from "./random.ts";
