/** What went wrong, as HTTP says it: one error inside, each dialect's body outside (serving-and-agent.md §2.6, §4.6). */
import { MassifError } from "../common/index.ts";
import { LlmError } from "../llm/index.ts";

interface ApiTrouble {
  /** The field of the request: `tools[0].function.name`. */
  param?: string;
  /** OpenAI's `code`, where the status does not say enough. */
  code?: string;
  /** Milliseconds after which to ask again. */
  retryAfter?: number;
  /** What Anthropic's clients read beside the message: how to go on without. */
  details?: Readonly<Record<string, unknown>>;
  cause?: unknown;
}

/** A refusal with its HTTP status. The message goes to the client. */
export class ApiError extends MassifError {
  readonly status: number;
  readonly param: string | undefined;
  readonly apiCode: string | undefined;
  readonly retryAfter: number | undefined;
  readonly details: ApiTrouble["details"];

  constructor(status: number, found: string, { param, code, retryAfter, details, cause }: ApiTrouble = {}) {
    super(`server.${status}`, { found, cause });
    this.name = "ApiError";
    this.status = status;
    this.param = param;
    this.apiCode = code;
    this.retryAfter = retryAfter;
    this.details = details;
  }
}

export const invalid = (param: string, message: string): ApiError =>
  new ApiError(400, `${param}: ${message}`, { param, code: "invalid_value" });

/** The client is gone: nobody reads the answer. The number is nginx's. */
export const CLIENT_GONE = 499;

const BUSY = 1000;

/** Statuses of MassifError codes by their longest known beginning. What is not here is our own failure. */
const statuses: readonly (readonly [prefix: string, status: number, code?: string])[] = [
  ["llm.aborted", CLIENT_GONE],
  ["engine.cancelled", CLIENT_GONE],
  ["llm.timeout", 504, "upstream_timeout"],
  ["llm.connect", 503, "upstream_unreachable"],
  ["llm.rate-limit", 429, "rate_limit_exceeded"],
  ["llm.budget", 429, "insufficient_quota"],
  ["llm.unsupported", 400, "unsupported_parameter"],
  ["llm.context", 400, "context_length_exceeded"],
  ["llm.", 502, "upstream_error"],
  ["engine.queue-full", 429, "rate_limit_exceeded"],
  ["engine.too-long", 400, "context_length_exceeded"],
  ["engine.too-many", 400, "invalid_value"],
  ["engine.request", 400, "invalid_value"],
  ["engine.unsupported", 400, "unsupported_parameter"],
  ["engine.asleep", 503, "asleep"],
  ["engine.paused", 409, "paused"],
  ["engine.updating", 409, "updating"],
  ["engine.weights", 400, "invalid_weights"],
  ["engine.closed", 503, "closed"],
  ["checkpoint.", 400, "invalid_weights"],
  ["schema.budget", 400, "schema_budget"],
  ["schema.", 400, "invalid_schema"],
  ["chat.special", 500],
  ["chat.", 400, "invalid_value"],
];

/** Statuses of an upstream that are the client's to mend. A key that the upstream refuses is ours, not the client's. */
const passed = new Set([400, 404, 408, 409, 413, 422, 429]);

export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof LlmError && error.code === "llm.http" && passed.has(error.upstream.status ?? 0)) {
    const { status, error: said } = error.upstream;
    return new ApiError(status === 422 ? 400 : status!, said?.message ?? error.trouble.found, {
      ...(said?.param && { param: said.param }),
      ...(said?.code && { code: said.code }),
      cause: error,
    });
  }
  if (error instanceof MassifError) {
    const row = statuses.find(([prefix]) => error.code.startsWith(prefix));
    if (row && row[1] !== 500) {
      const [, status, code] = row;
      const retryAfter = error instanceof LlmError ? error.upstream.retryAfter : undefined;
      const { found, expected } = error.trouble;
      return new ApiError(status, expected ? `${found} (expected ${expected})` : found, {
        ...(code && { code }),
        ...(status === 429 || status === 503 ? { retryAfter: retryAfter ?? BUSY } : {}),
        cause: error,
      });
    }
  }
  if (error instanceof DOMException && error.name === "AbortError") return new ApiError(CLIENT_GONE, "aborted");
  // What it was goes to the log only: it may name files, addresses, other people's texts.
  return new ApiError(500, "the server failed; its log tells more under the request id", { cause: error });
}

/** OpenAI's words for a status. */
const openAiTypes: Record<number, string> = {
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  409: "conflict_error",
  429: "rate_limit_error",
  503: "overloaded_error",
};

export function openAiError(error: ApiError): { error: Record<string, string | null> } {
  const { status, message, param, apiCode } = error;
  const type = openAiTypes[status] ?? (status < 500 ? "invalid_request_error" : "server_error");
  return { error: { message, type, param: param ?? null, code: apiCode ?? null } };
}

/** Anthropic's words for a status. */
const anthropicTypes: Record<number, string> = {
  401: "authentication_error",
  402: "billing_error",
  403: "permission_error",
  404: "not_found_error",
  413: "request_too_large",
  429: "rate_limit_error",
  503: "overloaded_error",
  504: "timeout_error",
};

export function anthropicError(error: ApiError, requestId: string): Record<string, unknown> {
  const { status, message, details } = error;
  const type = anthropicTypes[status] ?? (status < 500 ? "invalid_request_error" : "api_error");
  return { type: "error", error: { type, message, ...(details && { details }) }, request_id: requestId };
}
