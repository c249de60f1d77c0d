/** One request for one or more answers, whichever dialect asked: model, slot, key, events, numbers. */
import { MassifError } from "../common/index.ts";
import {
  type ChatRequest,
  estimateUsage,
  type ModelEvent,
  type RawEvent,
  type RawRequest,
  type Usage,
} from "../llm/index.ts";
import { merge, streams, totalUsage } from "./answers.ts";
import type { Backend } from "./backend.ts";
import { ApiError, CLIENT_GONE, toApiError } from "./errors.ts";
import type { Explanation } from "./explain.ts";
import type { Key } from "./keys.ts";
import { Metrics } from "./metrics.ts";
import { Slots } from "./slots.ts";

export interface ServiceOptions {
  /** Requests at once. Default 256. */
  running?: number;
  /** Requests that wait. Default 1024. */
  waiting?: number;
  /** Milliseconds of some clock. Default `performance.now`. */
  now?: () => number;
}

/** What is asked, in no dialect. */
export interface Call {
  model: string;
  chat: ChatRequest;
  /** Answers. */
  n: number;
  stream: boolean;
  /** The answer carries what became of the request. */
  explain: boolean;
}

export interface Caller {
  requestId: string;
  key?: Key;
  /** Gets a slot only where nobody else waits for one. */
  low?: boolean;
  /** Told the version of the weights that answer. */
  onWeights?(version: number): void;
  /** Fires when the client is gone. */
  signal: AbortSignal;
}

export interface Tagged {
  choice: number;
  event: ModelEvent;
}

interface TaggedRaw {
  choice: number;
  event: RawEvent;
}

export class Service {
  readonly metrics = new Metrics();
  readonly slots: Slots;
  readonly now: () => number;
  readonly #backends: Backend[] = [];
  /** Draining: no new requests. */
  closing = false;
  readonly #closing = new AbortController();
  /** Fires when the server begins to end. */
  readonly ending = this.#closing.signal;
  /** Undefined once everything is loaded; then the reason why not. */
  loading: string | undefined;
  readonly #underWay = new Map<AbortController, string>();
  #onIdle: (() => void)[] = [];

  constructor({ running = 256, waiting = 1024, now = () => performance.now() }: ServiceOptions = {}) {
    this.slots = new Slots({ running, waiting });
    this.now = now;
  }

  add(backend: Backend): void {
    this.#backends.push(backend);
  }

  get backends(): readonly Backend[] {
    return this.#backends;
  }

  /** The backend that answers to a name. Throws 404, and 503 while loading or closing. */
  backend(name: string): Backend {
    if (this.closing) throw new ApiError(503, "the server is shutting down", { retryAfter: 1000 });
    if (this.loading !== undefined) throw new ApiError(503, this.loading, { code: "loading", retryAfter: 5000 });
    const found =
      this.#backends.find(({ names }) => names.includes(name)) ??
      this.#backends.find(({ names }) => names.includes("*"));
    if (found) return found;
    const known = this.#backends.map(({ names }) => names[0]).join(", ");
    const trouble = { param: "model", code: "model_not_found" };
    throw new ApiError(404, `there is no model ${JSON.stringify(name.slice(0, 200))} here, but ${known}`, trouble);
  }

  /** Every event of all answers, as they come. Leaving the loop, or the caller's signal, ends the request at the model at
   *  once. Throws ApiError. `explanation` is filled in on the way. */
  run(call: Call, caller: Caller, explanation?: Explanation): AsyncGenerator<Tagged, void, undefined> {
    const backend = this.backend(call.model);
    const asked = { n: call.n, chat: call.chat, maxTokens: call.chat.sampling?.maxTokens };
    return this.#serve(
      backend,
      caller,
      asked,
      (signal) => streams(backend, call, caller, signal, explanation),
      explanation,
    );
  }

  /** The same of bare continuations, one a choice. */
  runRaw(
    backend: Backend,
    requests: readonly RawRequest[],
    caller: Caller,
  ): AsyncGenerator<TaggedRaw, void, undefined> {
    const asked = { n: requests.length, maxTokens: requests[0]?.sampling.maxTokens };
    const onWeights = caller.onWeights && { onWeights: caller.onWeights };
    const open = (signal: AbortSignal) => requests.map((request) => backend.raw!({ ...request, signal, ...onWeights }));
    return this.#serve(backend, caller, asked, open);
  }

  /** Work that is no stream of events, in a slot, at a key's cost, counted. */
  async task<T>(
    backend: Backend,
    caller: Caller,
    run: (signal: AbortSignal) => Promise<{ value: T; usage: Usage }>,
  ): Promise<T> {
    const done: T[] = [];
    const events = async function* (signal: AbortSignal): AsyncGenerator<RawEvent, void, undefined> {
      const { value, usage } = await run(signal);
      done.push(value);
      yield { type: "usage", usage };
      yield { type: "finish", reason: "stop" };
    };
    for await (const _ of this.#serve(backend, caller, { n: 1, maxTokens: undefined }, (signal) => [events(signal)]));
    return done[0]!;
  }

  async *#serve<E extends ModelEvent | RawEvent>(
    backend: Backend,
    caller: Caller,
    { n, chat, maxTokens }: { n: number; chat?: ChatRequest; maxTokens: number | undefined },
    open: (signal: AbortSignal) => readonly AsyncIterable<E>[],
    explanation?: Explanation,
  ): AsyncGenerator<{ choice: number; event: E }, void, undefined> {
    const labels = { model_name: backend.names[0]!, engine: "0" };
    const { metrics, now } = this;
    const arrived = now();
    const controller = new AbortController();
    const gone = () => controller.abort(caller.signal.reason);
    caller.signal.addEventListener("abort", gone, { once: true });
    if (caller.signal.aborted) gone();
    const leave = caller.key?.enter(Date.now());
    this.#underWay.set(controller, caller.requestId);
    let release: (() => void) | undefined;
    /** When the first and the latest event with something said came. */
    let [first, last]: (number | undefined)[] = [];
    const usages: (Usage | undefined)[] = [];
    const said: ModelEvent[][] = Array.from({ length: n }, () => []);
    const counted = (choice: number): Usage | undefined =>
      usages[choice] ?? (chat && said[choice]!.length ? estimateUsage(chat, said[choice]!) : undefined);
    try {
      release = await this.slots.acquire(controller.signal, caller.low);
      const started = now();
      metrics.observe("vllm:request_queue_time_seconds", labels, (started - arrived) / 1000);
      metrics.observe("vllm:request_params_n", labels, n);
      if (maxTokens !== undefined) metrics.observe("vllm:request_params_max_tokens", labels, maxTokens);
      if (explanation) explanation.queue_ms = started - arrived;
      for await (const tagged of merge(open(controller.signal))) {
        const { choice, event } = tagged;
        const at = now();
        if (event.type === "usage") usages[choice] = event.usage;
        else if (event.type === "start") {
          if (typeof event.weights === "number") caller.onWeights?.(event.weights);
        } else if (event.type === "finish") {
          if (!usages[choice] && chat) {
            // Every dialect owes its client a usage.
            usages[choice] = estimateUsage(chat, said[choice]!);
            yield { choice, event: { type: "usage", usage: usages[choice] } as E };
          }
          metrics.add("vllm:request_success_total", { ...labels, finished_reason: event.reason });
        } else if (event.type === "problem") explanation?.problems.push({ choice, code: event.code, text: event.text });
        else if (event.type !== "prompt") {
          if (first === undefined) {
            first = at;
            metrics.observe("vllm:time_to_first_token_seconds", labels, (at - arrived) / 1000);
            if (explanation) explanation.first_event_ms = at - arrived;
          }
          last = at;
          if (event.type !== "tokens") said[choice]!.push(event);
        }
        yield tagged;
      }
      metrics.observe("vllm:e2e_request_latency_seconds", labels, (now() - arrived) / 1000);
    } catch (error) {
      const told = caller.signal.aborted
        ? new ApiError(CLIENT_GONE, "the client is gone")
        : abortedHere(toApiError(error));
      const finished_reason = told.status === CLIENT_GONE ? "abort" : "error";
      metrics.add("vllm:request_success_total", { ...labels, finished_reason });
      throw told;
    } finally {
      controller.abort();
      caller.signal.removeEventListener("abort", gone);
      this.#underWay.delete(controller);
      release?.();
      leave?.();
      const usage = totalUsage(said.map((_, choice) => counted(choice)));
      metrics.add("vllm:prompt_tokens_total", labels, usage.promptTokens);
      metrics.add("vllm:generation_tokens_total", labels, usage.completionTokens);
      // An event may have many tokens: between them lies an answer's mean.
      const gaps = usage.completionTokens - n;
      if (gaps > 0 && first !== undefined)
        metrics.observe("vllm:inter_token_latency_seconds", labels, (n * (last! - first)) / gaps / 1000, gaps);
      caller.key?.spend(usage.promptTokens + usage.completionTokens, Date.now());
      if (explanation) {
        explanation.total_ms = now() - arrived;
        explanation.cached_tokens = usage.cachedTokens ?? 0;
      }
      if (!this.#underWay.size) for (const idle of this.#onIdle.splice(0)) idle();
    }
  }

  /** Tokens of a conversation's prompt. Throws 400 where the prompt is made elsewhere. */
  countTokens(model: string, chat: ChatRequest): number {
    const prompt = this.backend(model).prompt?.(chat);
    if (!prompt) throw new ApiError(400, "model: its prompts are made upstream; start the gateway with --tokenizer");
    return prompt.ids.length;
  }

  /** Ends requests that are under way or wait: those with these ids, or all. Returns how many. */
  abort(ids?: ReadonlySet<string>): number {
    const chosen = [...this.#underWay].filter(([, id]) => !ids || ids.has(id));
    for (const [controller] of chosen)
      controller.abort(new MassifError("server.aborted", { found: "aborted by an admin" }));
    return chosen.length;
  }

  /** Takes no more requests, waits so long for those under way, then ends them. */
  async drain(milliseconds: number): Promise<void> {
    this.closing = true;
    this.#closing.abort();
    if (!this.#underWay.size) return;
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([
      new Promise<void>((resolve) => this.#onIdle.push(resolve)),
      new Promise<void>((resolve) => {
        timer = setTimeout(resolve, milliseconds);
      }),
    ]);
    clearTimeout(timer);
    for (const controller of this.#underWay.keys())
      controller.abort(new MassifError("server.closing", { found: "the server shuts down" }));
  }
}

/** Who is still there is told that the server gave up, not the client. */
function abortedHere(error: ApiError): ApiError {
  if (error.status !== CLIENT_GONE) return error;
  const trouble = { code: "aborted", retryAfter: 1000, cause: error };
  return new ApiError(503, "the server aborted the request: ask again", trouble);
}
