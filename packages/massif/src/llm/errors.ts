/** What can go wrong with a model that is asked. Stable codes:
 *  `llm.aborted` the request's signal fired · `llm.timeout` connect, first byte or idle · `llm.connect` no connection ·
 *  `llm.rate-limit` 429 · `llm.http` any other status · `llm.upstream` an error said within a stream · `llm.cut` a stream
 *  that ended before its message · `llm.protocol` what is not the OpenAI protocol · `llm.unsupported` a field of the
 *  request that this model cannot honour · `llm.context` a prompt that is too long · `llm.budget`, `llm.replay`,
 *  `llm.script` wrappers and scripts · `llm.smollm2` the small model is not installed. */
import { MassifError, type Trouble } from "../common/index.ts";

export type LlmErrorCode =
  `llm.${"aborted" | "timeout" | "connect" | "rate-limit" | "http" | "upstream" | "cut" | "protocol" | "unsupported" | "context" | "budget" | "replay" | "script" | "smollm2"}`;

/** What an upstream said of its error: enough for a gateway to pass it on. */
export interface UpstreamTrouble {
  status?: number;
  /** The upstream's id of the request. */
  requestId?: string;
  /** Milliseconds after which to ask again, as the upstream said. */
  retryAfter?: number;
  /** The members of OpenAI's error object, as far as they were given. */
  error?: { message?: string; type?: string; code?: string; param?: string };
}

export class LlmError extends MassifError {
  declare readonly code: LlmErrorCode;
  readonly upstream: UpstreamTrouble;

  constructor(code: LlmErrorCode, trouble: Trouble, upstream: UpstreamTrouble = {}) {
    super(code, trouble);
    this.name = "LlmError";
    this.upstream = upstream;
  }
}

export const aborted = (signal: AbortSignal): LlmError =>
  new LlmError("llm.aborted", { found: "the request was aborted", cause: signal.reason });
