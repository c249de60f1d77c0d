/** The inference engine. */
export { bytesPerPosition } from "./cache.ts";
export { type EngineModelOptions, engineModel } from "./chat/language-model.ts";
export { Engine, type EngineOptions } from "./engine.ts";
export type { Generation } from "./generation.ts";
export type { EngineMetrics } from "./metrics.ts";
export { type OpenOptions, openEngine } from "./open.ts";
export type { Pin } from "./pins.ts";
export type { Finish, GeneratedToken, GenerateRequest, Likely } from "./request.ts";
