/**
 * One POST to an upstream: connection, time-outs, abort, retries before the first byte, errors. Over node:http, because
 * fetch knows no connect time-out, ends every answer that takes five minutes to begin, and copies each chunk.
 */
import { randomUUID } from "node:crypto";
import { Agent, type ClientRequest, type IncomingMessage, request as requestHttp } from "node:http";
import { request as requestHttps, Agent as SecureAgent } from "node:https";
import { Random } from "../common/index.ts";
import { type Clock, sleep, systemClock } from "./clock.ts";
import { aborted, LlmError, type LlmErrorCode, type UpstreamTrouble } from "./errors.ts";

/** Milliseconds. */
export interface Timeouts {
  /** Until there is a connection. Default 10 s. */
  connect?: number;
  /** From there until the first byte of the body; an answer that is no stream begins when it is complete. Default
   *  10 min. */
  firstByte?: number;
  /** Between two reads of the body; comments that keep the stream alive count. Default 2 min. */
  idle?: number;
}

export interface Retries {
  /** How often to ask again. Default 2. */
  most?: number;
  /** The first wait, doubled each time, of which a random half to whole is waited. Default 500 ms. */
  base?: number;
  /** Longest wait; an upstream that asks for a longer one is not asked again. Default 60 s. */
  longest?: number;
}

export interface HttpOptions {
  /** With version: `http://127.0.0.1:8000/v1`. */
  baseURL: string;
  /** Sent as a bearer token. It stands in no error. */
  apiKey?: string;
  headers?: Readonly<Record<string, string>>;
  timeouts?: Timeouts;
  retries?: Retries;
  clock?: Clock;
  /** For the jitter of retries. Default: another in each process, for two that fail together should not ask together. */
  random?: Random;
}

export interface HttpAnswer {
  contentType: string;
  requestId?: string;
  /** The version of the weights that answer, where the upstream says it. */
  weights?: string;
  /** Pieces of the body; leaving the loop closes the connection. `next(ms)` waits no longer than that for this one. */
  body: HttpBody;
}

export type HttpBody = AsyncGenerator<Uint8Array, void, number | undefined>;

/** An upstream's address, and its connections, kept alive until disposed. */
export class Http {
  readonly host: string;
  readonly #options: HttpOptions;
  readonly #base: URL;
  readonly #agent: Agent;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #secrets: string[];

  /** Throws `llm.connect` for an address that is none. */
  constructor(options: HttpOptions) {
    const base = URL.parse(options.baseURL.replace(/\/*$/, "/"));
    if (!base || !/^https?:$/.test(base.protocol)) {
      throw new LlmError("llm.connect", {
        found: `the address of the upstream is ${JSON.stringify(options.baseURL)}`,
        expected: "http://HOST:PORT/v1 or https://HOST/v1",
      });
    }
    this.#options = options;
    this.#base = base;
    this.host = base.host;
    const kept = { keepAlive: true, proxyEnv: process.env };
    this.#agent = base.protocol === "https:" ? new SecureAgent(kept) : new Agent(kept);
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? new Random(randomUUID());
    const secrets = [options.apiKey ?? "", base.password, ...Object.values(options.headers ?? {})];
    this.#secrets = secrets.filter((secret) => secret.length >= 4);
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }

  /** What the upstream answers to `body`, with a status of 2xx and the first byte there. Throws `llm.connect`,
   *  `llm.timeout`, `llm.rate-limit`, `llm.http`, `llm.aborted`; the body throws `llm.cut` too. */
  async post(path: string, body: unknown, signal?: AbortSignal): Promise<HttpAnswer> {
    const { most = 2, base = 500, longest = 60_000 } = this.#options.retries ?? {};
    const bytes = Buffer.from(JSON.stringify(body));
    for (let again = 0; ; again++) {
      try {
        return await this.#ask(path, bytes, signal);
      } catch (error) {
        const wait = error instanceof LlmError && retryable(error) ? error.upstream.retryAfter : -1;
        const backoff = Math.min(base * 2 ** again, longest) * (0.5 + this.#random.float() / 2);
        if (wait === -1 || again >= most || (wait ?? 0) > longest) throw error;
        await sleep(wait ?? backoff, this.#clock, signal);
      }
    }
  }

  async #ask(path: string, bytes: Buffer, signal: AbortSignal | undefined): Promise<HttpAnswer> {
    if (signal?.aborted) throw aborted(signal);
    const { connect = 10_000, firstByte = 600_000, idle = 120_000 } = this.#options.timeouts ?? {};
    const url = new URL(path, this.#base);
    const send = url.protocol === "https:" ? requestHttps : requestHttp;
    const outgoing = send(url, { method: "POST", agent: this.#agent, headers: this.#headers(bytes) });
    outgoing.setNoDelay(true);
    const watch = new Watch(outgoing, this.#clock, this.host, signal);
    let answered = false;
    try {
      watch.arm("no connection", connect);
      outgoing.on("socket", (socket) => {
        const connected = () => watch.arm("no first byte", firstByte);
        if (socket.connecting) socket.once(url.protocol === "https:" ? "secureConnect" : "connect", connected);
        else connected();
      });
      const incoming = await new Promise<IncomingMessage>((resolve, reject) => {
        outgoing.on("response", resolve).on("error", reject).end(bytes);
      });
      answered = true;
      const requestId = header(incoming, "x-request-id") ?? header(incoming, "request-id");
      const pieces = incoming[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
      const status = incoming.statusCode!;
      if (status < 200 || status > 299) {
        watch.arm("no end of the error's text", Math.min(idle, 10_000));
        throw this.#refused(status, incoming, requestId, await beginning(pieces));
      }
      const first = await pieces.next();
      watch.disarm();
      const contentType = header(incoming, "content-type") ?? "";
      const weights = header(incoming, "x-weight-version");
      return { contentType, requestId, weights, body: this.#body(first, pieces, watch, idle) };
    } catch (cause) {
      watch.end();
      // A kept connection that the upstream had closed (llama.cpp does so without saying): another one, at once.
      if (outgoing.reusedSocket && !answered && !watch.reason) return this.#ask(path, bytes, signal);
      throw this.#told(cause, watch, "llm.connect", `the connection to ${this.host} failed`);
    }
  }

  async *#body(first: IteratorResult<Buffer>, pieces: AsyncIterator<Buffer>, watch: Watch, idle: number): HttpBody {
    let whole = false;
    try {
      for (let next = first; !next.done; ) {
        const patience = yield next.value;
        // Only while we wait for the upstream: a slow reader of ours is no silence of theirs.
        watch.arm("silence within the answer", patience ?? idle);
        next = await pieces.next();
        watch.disarm();
      }
      whole = true;
    } catch (cause) {
      throw this.#told(cause, watch, "llm.cut", `${this.host} closed the connection within its answer`);
    } finally {
      // After the last byte the connection goes back to the agent; anything earlier closes it.
      watch.end(whole);
    }
  }

  #headers(bytes: Buffer): Record<string, string | number> {
    const { apiKey, headers } = this.#options;
    return {
      "content-type": "application/json",
      "content-length": bytes.length,
      accept: "text/event-stream, application/json",
      "user-agent": "massif",
      ...(apiKey && { authorization: `Bearer ${apiKey}` }),
      ...headers,
    };
  }

  /** A MassifError as it is; what the watch did; anything else as `code`. */
  #told(cause: unknown, watch: Watch, code: LlmErrorCode, found: string): LlmError {
    if (watch.reason) return watch.reason;
    if (cause instanceof LlmError) return cause;
    const told = cause as NodeJS.ErrnoException;
    const what = told.code ?? told.message;
    const fix = told.code === "ECONNREFUSED" ? `start the upstream, or check its address` : undefined;
    return new LlmError(code, { found: this.redact(`${found}: ${what}`), fix, cause });
  }

  #refused(status: number, incoming: IncomingMessage, requestId: string | undefined, text: string): LlmError {
    const error = readError(this.redact(text));
    const retryAfter = readRetryAfter(incoming);
    const advice = header(incoming, "x-should-retry");
    const upstream: UpstreamTrouble & { retry?: boolean } = { status, error };
    if (requestId) upstream.requestId = requestId;
    if (retryAfter !== undefined) upstream.retryAfter = retryAfter;
    if (advice === "true" || advice === "false") upstream.retry = advice === "true";
    const said = error.message ? `: ${error.message}` : "";
    const found = `${this.host} answered ${status}${said}${requestId ? ` (request ${requestId})` : ""}`;
    return new LlmError(codeOf(status, error), { found, fix: fixes[status] }, upstream);
  }

  /** A text of the upstream's without our secrets, which some repeat. */
  redact(text: string): string {
    return this.#secrets.reduce((text, secret) => text.replaceAll(secret, "[secret]"), text);
  }
}

/** OpenAI's, llama.cpp's and vLLM's ways to say that a prompt is too long. */
function codeOf(status: number, { code, type, message = "" }: NonNullable<UpstreamTrouble["error"]>): LlmErrorCode {
  if (status === 429) return "llm.rate-limit";
  const long = code === "context_length_exceeded" || type === "exceed_context_size_error";
  if (status === 400 && (long || /maximum context length|exceeded model token limit/.test(message)))
    return "llm.context";
  return "llm.http";
}

const fixes: Record<number, string> = {
  301: "give the address that it moved to",
  302: "give the address that it moved to",
  307: "give the address that it moved to",
  308: "give the address that it moved to",
  401: "give the right apiKey",
  404: "check the address (does it end in /v1?) and the model's name",
};

/** Destroys a request when time is up or the signal fires, and remembers why. */
class Watch {
  reason: LlmError | undefined;
  #cancel: (() => void) | undefined;
  readonly #outgoing: ClientRequest;
  readonly #clock: Clock;
  readonly #host: string;
  readonly #signal: AbortSignal | undefined;
  readonly #abort = () => this.#destroy(aborted(this.#signal!));

  constructor(outgoing: ClientRequest, clock: Clock, host: string, signal: AbortSignal | undefined) {
    this.#outgoing = outgoing;
    this.#clock = clock;
    this.#host = host;
    this.#signal = signal;
    // Destroyed with its error taken elsewhere or nowhere: it must not be thrown by the emitter as well.
    outgoing.on("error", () => {});
    signal?.addEventListener("abort", this.#abort, { once: true });
  }

  arm(what: string, ms: number): void {
    this.disarm();
    this.#cancel = this.#clock.after(ms, () =>
      this.#destroy(new LlmError("llm.timeout", { found: `${this.#host}: ${what} for ${ms / 1000} s` })),
    );
  }

  disarm(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  end(whole = false): void {
    this.disarm();
    this.#signal?.removeEventListener("abort", this.#abort);
    if (!whole) this.#outgoing.destroy();
  }

  #destroy(reason: LlmError): void {
    this.reason ??= reason;
    this.#outgoing.destroy(reason);
  }
}

/** What may go well another time: no connection, no first byte in time, 408, 409, 429 and 5xx (as OpenAI's own clients),
 *  unless the upstream says otherwise (`x-should-retry`). */
function retryable({ code, upstream }: LlmError): boolean {
  const { retry, status } = upstream as UpstreamTrouble & { retry?: boolean };
  if (retry !== undefined) return retry;
  if (status === undefined) return code === "llm.connect" || code === "llm.timeout";
  return status === 408 || status === 409 || status === 429 || (status >= 500 && status !== 501);
}

function header(incoming: IncomingMessage, name: string): string | undefined {
  const value = incoming.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** `retry-after-ms`, or `retry-after` in seconds or as a date, in milliseconds. */
function readRetryAfter(incoming: IncomingMessage): number | undefined {
  const ms = Number.parseFloat(header(incoming, "retry-after-ms") ?? "");
  if (ms >= 0) return ms;
  const text = header(incoming, "retry-after") ?? "";
  if (/^\s*\d+(\.\d+)?\s*$/.test(text)) return Number(text) * 1000;
  // Both dates are the upstream's, so that its clock may be wrong.
  const [until, now] = [Date.parse(text), Date.parse(header(incoming, "date") ?? "")];
  return Number.isNaN(until) || Number.isNaN(now) ? undefined : Math.max(0, until - now);
}

async function beginning(pieces: AsyncIterator<Buffer>): Promise<string> {
  const read: Buffer[] = [];
  let length = 0;
  try {
    for (let next = await pieces.next(); !next.done && length < 65536; next = await pieces.next())
      length += read[read.push(next.value) - 1]!.length;
  } catch {
    // The status says more than a text that was cut.
  }
  return Buffer.concat(read).toString();
}

/** What an error says, in OpenAI's form, SGLang's flat one, FastAPI's `detail`, or as it stands. */
export function readError(body: unknown): NonNullable<UpstreamTrouble["error"]> {
  let value = body;
  if (typeof value === "string") {
    try {
      value = JSON.parse(value);
    } catch {
      return body ? { message: String(body).trim().slice(0, 500) } : {};
    }
  }
  const isTree = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;
  const text = (value: unknown) =>
    value == null ? undefined : typeof value === "string" ? value : JSON.stringify(value);
  const outer = isTree(value) ? value : { message: value };
  const inner = isTree(outer.error) ? outer.error : { ...outer, message: outer.message ?? outer.error ?? outer.detail };
  const { message, type, code, param } = inner;
  const fields = { message: text(message), type: text(type), code: text(code), param: text(param) };
  return Object.fromEntries(Object.entries(fields).filter(([, field]) => field !== undefined));
}
