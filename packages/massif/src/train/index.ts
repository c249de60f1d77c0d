export * from "./data/index.ts";
export * from "./run/index.ts";
export * from "./tape.ts";
export * from "./trainer.ts";
