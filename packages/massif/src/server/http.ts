/** What every route shares: who asks, under which id, how errors are told, how streams begin and end. */
import { randomUUID } from "node:crypto";
import type { Context } from "hono";
import { type BodyLimits, bodyLimits, readJson } from "./body.ts";
import { ApiError, anthropicError, CLIENT_GONE, openAiError, toApiError } from "./errors.ts";
import { type Key, Keys } from "./keys.ts";
import type { Search } from "./moonshot/web-search.ts";
import { keptSecret } from "./secret.ts";
import type { Caller, Service } from "./service.ts";
import { frame, sseResponse } from "./sse.ts";

export interface AppOptions {
  service: Service;
  keys?: Keys;
  limits?: Partial<BodyLimits>;
  /** Fields that are not known are dropped; otherwise each is a 400. */
  ignoreUnknown?: boolean;
  /** Allows `explain`, which shows prompts. */
  debug?: boolean;
  /** Origins that browsers may ask from. Default none. */
  cors?: readonly string[];
  /** Weights may be loaded from folders under this one; without it the RL routes are off. */
  weightsRoot?: string;
  /** Folder of files, batches and stored completions; without it the first two are off, and the third is in memory. */
  state?: string;
  /** Run folders, or folders that hold some, for the studio's run view. */
  runs?: readonly string[];
  /** Worlds whose user a person may play: shipped ones by name, or files. */
  worlds?: readonly string[];
  /** Answers Moonshot's `$web_search`, which without it is a 400. */
  search?: Search;
  version?: string;
  /** Signs thinking, and seals summaries. Default: that of the folder `state`, otherwise another in each process. */
  secret?: string;
  /** Milliseconds. Defaults 15 s and 2 min. */
  keepAlive?: number;
  stall?: number;
  /** Unix time in seconds. */
  unixTime?: () => number;
  newId?: () => string;
  /** One line a request, and what our own failures were. */
  log?: (line: Record<string, unknown>) => void;
}

export type App = Required<Omit<AppOptions, "weightsRoot" | "limits" | "state" | "search">> & {
  limits: BodyLimits;
  weightsRoot: string | undefined;
  state: string | undefined;
  search: Search | undefined;
};

export const resolveOptions = (given: AppOptions): App => ({
  keys: new Keys(),
  ignoreUnknown: false,
  debug: false,
  cors: [],
  runs: [],
  worlds: [],
  version: "0.1.0",
  secret: given.state === undefined ? randomUUID() : keptSecret(given.state),
  keepAlive: 15_000,
  stall: 120_000,
  unixTime: () => Math.floor(Date.now() / 1000),
  newId: () => randomUUID().replaceAll("-", ""),
  log: () => {},
  ...given,
  limits: { ...bodyLimits, ...given.limits },
  weightsRoot: given.weightsRoot,
  state: given.state,
  search: given.search,
});

export interface Env {
  /** `weights`: the version that answered. */
  Variables: { requestId: string; key: Key | undefined; started: number; weights: number | undefined };
}
export type Ctx = Context<Env>;

const isAnthropic = (c: Ctx): boolean => c.req.path.startsWith("/v1/messages");

export const body = (c: Ctx, app: App): Promise<Record<string, unknown>> => readJson(c.req.raw, app.limits);

/** The name of the model in a body. Throws 400. */
export function modelIn(fields: Record<string, unknown>): string {
  if (typeof fields.model !== "string")
    throw new ApiError(400, "model: the name of a model", { param: "model", code: "invalid_value" });
  return fields.model;
}

/** Requests that the server makes to itself, for a key: they come after all others. */
const inner = new WeakMap<Request, { key: Key | undefined }>();

export function innerRequest(request: Request, key: Key | undefined): Request {
  inner.set(request, { key });
  return request;
}

/** Whose request it is. Throws 401. */
export const keyOf = (c: Ctx, { keys }: App): Key | undefined => {
  const own = inner.get(c.req.raw);
  return own ? own.key : keys.of(c.req.raw.headers);
};

export const callerOf = (c: Ctx): Caller => {
  const key = c.get("key");
  const low = inner.has(c.req.raw);
  const onWeights = (version: number) => c.set("weights", version);
  return {
    requestId: c.get("requestId"),
    signal: c.req.raw.signal,
    onWeights,
    ...(key && { key }),
    ...(low && { low }),
  };
};

/** A signal that fires when the client is gone, and when `abort` is called. */
export function leaving(c: Ctx): { caller: Caller; abort: (reason: unknown) => void } {
  const caller = callerOf(c);
  const controller = new AbortController();
  return {
    caller: { ...caller, signal: AbortSignal.any([caller.signal, controller.signal]) },
    abort: (reason) => controller.abort(reason),
  };
}

/** An error as this path's dialect tells it. */
export function errorResponse(c: Ctx, app: App, thrown: unknown): Response {
  const error = toApiError(thrown);
  logFailure(c, app, error);
  const told = isAnthropic(c) ? anthropicError(error, c.get("requestId")) : openAiError(error);
  const { retryAfter } = error;
  // A client's patience is ended by a number of seconds, OpenAI's by milliseconds too.
  const wait: Record<string, string> =
    retryAfter === undefined
      ? {}
      : { "retry-after": String(Math.max(1, Math.ceil(retryAfter / 1000))), "retry-after-ms": String(retryAfter) };
  // Anthropic's clients know 529 for an overloaded server.
  const status = isAnthropic(c) && error.status === 503 ? 529 : error.status;
  return Response.json(told, { status, headers: wait });
}

function logFailure(c: Ctx, app: App, error: ApiError): void {
  if (error.status < 500) return;
  const cause = error.cause instanceof Error ? (error.cause.stack ?? error.cause.message) : undefined;
  app.log({ level: "error", request_id: c.get("requestId"), status: error.status, message: error.message, cause });
}

/** A stream of frames, whose errors after the first byte are told as this path's dialect does. */
export function stream(
  c: Ctx,
  app: App,
  frames: AsyncGenerator<string, void>,
  abort: (reason: unknown) => void,
  headers: Record<string, string> = {},
): Promise<Response> {
  return sseResponse(frames, {
    keepAlive: app.keepAlive,
    stall: app.stall,
    headers,
    onGone: (reason) => {
      app.service.metrics.add("massif:disconnects_total", {});
      abort(reason);
    },
    onError(thrown) {
      const error = toApiError(thrown);
      if (error.status === CLIENT_GONE) return "";
      logFailure(c, app, error);
      if (isAnthropic(c)) return frame(anthropicError(error, c.get("requestId")), "error");
      if (c.req.path.startsWith("/v1/responses"))
        return frame({ type: "error", sequence_number: 0, ...openAiError(error).error }, "error");
      return frame(openAiError(error));
    },
  });
}
