/** The one loop over a model and an environment; then tools, sandbox, context, sessions. */
export * from "./episode.ts";
export * from "./episodes.ts";
export type { TokenLogOptions } from "./token-log.ts";
