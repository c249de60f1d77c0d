/** The one loop over a model and an environment; what demonstrates, evaluates and fine-tunes by it. */
export * from "./demonstrations.ts";
export * from "./episode.ts";
export * from "./episodes.ts";
export * from "./finetune.ts";
export * from "./report.ts";
export * from "./rollouts.ts";
export type { TokenLogOptions } from "./token-log.ts";
