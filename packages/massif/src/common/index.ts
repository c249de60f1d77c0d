export * from "./config.ts";
export * from "./errors.ts";
export * from "./lines.ts";
export * from "./progress.ts";
export * from "./random.ts";
export * from "./wilson.ts";
