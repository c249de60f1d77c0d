/** Several upstreams as one `LanguageModel`: the one that has the conversation's beginning in its cache, if it is not busier
 *  than the others; not one that fails; another where one fails before it says anything. */
import { createHash } from "node:crypto";
import { MassifError } from "../../common/index.ts";
import {
  type ChatRequest,
  type LanguageModel,
  LlmError,
  type ModelEvent,
  type RawEvent,
  type RawRequest,
  type RawUpstream,
} from "../../llm/index.ts";

export interface UpstreamOptions {
  model: LanguageModel;
  /** The same for bare text. */
  raw?: RawUpstream;
  /** What metrics call it. */
  name: string;
  /** Whether it is well: asked every now and then. Throws, or false: not. */
  probe?: (signal: AbortSignal) => Promise<boolean>;
}

export interface UpstreamsOptions {
  /** What answers, as provenance has it. */
  name: string;
  /** Milliseconds of some clock. Default `performance.now`. */
  now?: () => number;
  /** Failures in a row after which an upstream is left alone. Default 3. */
  failures?: number;
  /** Milliseconds that it is left alone at first, doubled each time up to 16-fold. Default 5 s. */
  rest?: number;
  /** Requests that an upstream may have more than the idlest before the cache counts no longer. Default 8. */
  imbalance?: number;
  /** Told of each attempt. */
  onAttempt?: (upstream: string, outcome: "ok" | "failed" | "aborted") => void;
}

interface Upstream extends UpstreamOptions {
  running: number;
  failures: number;
  /** Left alone until then; then one request may try. */
  closedUntil: number;
  rests: number;
  healthy: boolean;
  /** Hashes of beginnings of conversations that it has answered, the latest last. */
  seen: Map<string, true>;
}

/** Beginnings remembered of each upstream. */
const REMEMBERED = 50_000;

/** Errors after which another upstream may do better: it is not the request's fault. */
const elsewhere = (error: unknown): boolean =>
  error instanceof LlmError &&
  (["llm.connect", "llm.timeout", "llm.rate-limit", "llm.cut", "llm.protocol", "llm.upstream"].includes(error.code) ||
    (error.code === "llm.http" && !((error.upstream.status ?? 500) < 500 && error.upstream.status !== 408)));

/** One that is busy is well. */
const isFailure = (error: unknown): boolean => !(error instanceof LlmError && error.code === "llm.rate-limit");

export class Upstreams implements LanguageModel {
  readonly name: string;
  readonly #upstreams: Upstream[];
  readonly #options: Required<Omit<UpstreamsOptions, "onAttempt">> & Pick<UpstreamsOptions, "onAttempt">;

  /** Throws `gateway.empty` without upstreams. */
  constructor(upstreams: readonly UpstreamOptions[], options: UpstreamsOptions) {
    if (!upstreams.length) throw new MassifError("gateway.empty", { found: "a gateway without upstreams" });
    this.name = options.name;
    this.#options = { now: () => performance.now(), failures: 3, rest: 5000, imbalance: 8, ...options };
    this.#upstreams = upstreams.map((upstream) => ({
      ...upstream,
      ...{ running: 0, failures: 0, closedUntil: 0, rests: 0, healthy: true, seen: new Map() },
    }));
  }

  /** How each upstream is. */
  get state(): { name: string; running: number; open: boolean }[] {
    return this.#upstreams.map((upstream) => ({
      ...{ name: upstream.name, running: upstream.running },
      open: this.#isOpen(upstream),
    }));
  }

  /** Throws what the last upstream threw; `llm.connect` where all are left alone. */
  stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    return this.#attempt(beginningsOf(request), request.signal, ({ model }) => model.stream(request));
  }

  /** The same for bare text, by its first words. */
  raw(request: RawRequest): AsyncGenerator<RawEvent, void, undefined> {
    const hash = createHash("sha256").update(JSON.stringify(request.prompt.slice(0, 256)));
    return this.#attempt([hash.digest("hex")], request.signal, ({ raw }) => raw!.stream(request));
  }

  async *#attempt<E extends ModelEvent | RawEvent>(
    beginnings: readonly string[],
    signal: AbortSignal | undefined,
    open: (upstream: Upstream) => AsyncIterable<E>,
  ): AsyncGenerator<E, void, undefined> {
    const tried = new Set<Upstream>();
    for (;;) {
      const upstream = this.#choose(beginnings, tried);
      tried.add(upstream);
      let said = false;
      let done = false;
      upstream.running++;
      try {
        for await (const event of open(upstream)) {
          // What only tells who answers can be told again by another.
          if (event.type === "start") {
            if (!said) this.#remember(upstream, beginnings);
          } else said = true;
          if (event.type === "finish") done = true;
          yield event;
        }
        this.#succeeded(upstream);
        return;
      } catch (error) {
        if (signal?.aborted) throw error;
        if (elsewhere(error) && isFailure(error)) this.#failed(upstream);
        else if (!elsewhere(error)) this.#succeeded(upstream);
        done = true;
        if (said || !elsewhere(error) || tried.size === this.#upstreams.length) throw error;
      } finally {
        upstream.running--;
        if (!done) this.#options.onAttempt?.(upstream.name, "aborted");
      }
    }
  }

  /** Asks every upstream how it is, at once. */
  async probe(milliseconds = 5000): Promise<void> {
    const ask = async (upstream: Upstream) => {
      if (!upstream.probe) return;
      try {
        upstream.healthy = await upstream.probe(AbortSignal.timeout(milliseconds));
      } catch {
        upstream.healthy = false;
      }
    };
    await Promise.all(this.#upstreams.map(ask));
  }

  #isOpen({ healthy, closedUntil }: Upstream): boolean {
    return healthy && closedUntil <= this.#options.now();
  }

  #choose(beginnings: readonly string[], tried: ReadonlySet<Upstream>): Upstream {
    const left = this.#upstreams.filter((upstream) => !tried.has(upstream));
    const open = left.filter((upstream) => this.#isOpen(upstream));
    if (!open.length) {
      // The last resort of the first attempt: probes may be wrong, and someone must be the first to try again.
      if (left.length && !tried.size) return left.reduce((a, b) => (b.closedUntil < a.closedUntil ? b : a));
      throw new LlmError("llm.connect", { found: `no upstream of ${this.name} is well`, fix: "ask again later" });
    }
    const idlest = Math.min(...open.map(({ running }) => running));
    const fair = open.filter(({ running }) => running <= idlest + this.#options.imbalance);
    for (const beginning of beginnings) {
      const knows = fair.filter(({ seen }) => seen.has(beginning));
      if (knows.length) return knows.reduce((a, b) => (b.running < a.running ? b : a));
    }
    // Nobody knows it. Those that are equally idle share conversations by their first words.
    const idle = open.filter(({ running }) => running === idlest);
    return idle[Number.parseInt((beginnings.at(-1) ?? "0").slice(0, 8), 16) % idle.length]!;
  }

  #remember({ seen }: Upstream, beginnings: readonly string[]): void {
    for (const beginning of beginnings) {
      seen.delete(beginning);
      seen.set(beginning, true);
    }
    for (const [oldest] of seen) {
      if (seen.size <= REMEMBERED) break;
      seen.delete(oldest);
    }
  }

  #succeeded(upstream: Upstream): void {
    upstream.failures = upstream.rests = 0;
    upstream.closedUntil = 0;
    this.#options.onAttempt?.(upstream.name, "ok");
  }

  #failed(upstream: Upstream): void {
    this.#options.onAttempt?.(upstream.name, "failed");
    if (++upstream.failures < this.#options.failures) return;
    upstream.closedUntil = this.#options.now() + this.#options.rest * 2 ** Math.min(upstream.rests++, 4);
  }
}

/** Hashes of a conversation's beginnings, the longest first: tools and one message, and two, and so on. A key of the
 *  client's own stands before all. */
function beginningsOf({ tools, messages, metadata }: ChatRequest): string[] {
  const hash = createHash("sha256");
  hash.update(JSON.stringify([metadata?.prompt_cache_key ?? "", tools ?? []]));
  const beginnings = messages.map((message) => {
    hash.update(JSON.stringify(message));
    return hash.copy().digest("hex");
  });
  return beginnings.reverse();
}
