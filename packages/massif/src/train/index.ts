export * from "./data/index.ts";
export * from "./guard.ts";
export * from "./pretrain.ts";
export * from "./recipe.ts";
export * from "./run/index.ts";
export * from "./snapshot.ts";
export * from "./tape.ts";
export * from "./trainer.ts";
