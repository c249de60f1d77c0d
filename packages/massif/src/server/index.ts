/** OpenAI's, Anthropic's and the Responses API over any `LanguageModel`. */
export { createApp } from "./app.ts";
export type { Backend, Format, Gauges } from "./backend.ts";
export { type EngineBackendOptions, engineBackend } from "./engine.ts";
export { ApiError } from "./errors.ts";
export { type Gateway, type GatewayOptions, openGateway } from "./gateway/gateway.ts";
export { type UpstreamOptions, Upstreams, type UpstreamsOptions } from "./gateway/upstreams.ts";
export { type CallOutcome, VerifiedModel, type VerifiedOptions } from "./gateway/verified.ts";
export type { AppOptions } from "./http.ts";
export { type KeyOptions, Keys } from "./keys.ts";
export { type Listening, type ListenOptions, listen } from "./listen.ts";
export { type Search, type SearchResult, searchEndpoint } from "./moonshot/web-search.ts";
export { Service, type ServiceOptions } from "./service.ts";
export { Validator } from "./validate.ts";
export { builtInSchemas, readBaseline, readCase, schemaCase } from "./verifier/cases.ts";
export { passes, type Verification, verificationTable, verifyEndpoint } from "./verifier/verifier.ts";
export type { Control } from "./weights/control.ts";
