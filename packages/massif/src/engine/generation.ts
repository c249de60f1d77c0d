/** A request's answer as it comes: tokens of its choices in the order in which they were made. Leaving the loop ends it. */
import { MassifError } from "../common/index.ts";
import type { MaskCounts } from "./choice.ts";
import type { GeneratedToken, PromptToken } from "./request.ts";
import type { Job } from "./scheduler.ts";

/** What became of a request, in milliseconds of the engine's clock. */
export interface Trace {
  arrived: number;
  /** Its first step. */
  admitted?: number;
  firstToken?: number;
  finished?: number;
  /** Times that it was sent back to wait. */
  preemptions: number;
  /** Blocks of its prompt that were found in the cache. */
  blocksFound: number;
  /** The enforcer's work, of each choice. */
  masks: readonly MaskCounts[];
}

export class Generation implements AsyncIterable<GeneratedToken> {
  /** What its random numbers come from. */
  readonly seed: number;
  readonly promptTokens: number;
  /** Tokens of the prompt that were found in the cache; known with the first token. */
  cachedTokens = 0;
  /** Tokens of all choices so far. */
  completionTokens = 0;
  /** When asked for: of every token of the prompt given those before it; NaN for the first. Complete at the end. */
  promptLogprobs: Float32Array | undefined;
  /** When asked for the likeliest too: every token of the prompt but the first. */
  promptTokensSeen: PromptToken[] | undefined;
  readonly trace: Trace = { arrived: 0, preemptions: 0, blocksFound: 0, masks: [] };
  readonly #cancel: () => void;
  readonly #signal: AbortSignal | undefined;
  #tokens: GeneratedToken[] = [];
  #ended = false;
  #error: unknown;
  #wake: (() => void) | undefined;
  #onEnd: (() => void) | undefined;

  /** @internal `cancel` is called when the reader leaves before the end. */
  constructor(seed: number, promptTokens: number, cancel: () => void, signal?: AbortSignal) {
    this.seed = seed;
    this.promptTokens = promptTokens;
    this.#cancel = cancel;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#abort);
  }

  readonly #abort = (): void => this.cancel(this.#signal?.reason);

  /** Whether nothing more will come. */
  get ended(): boolean {
    return this.#ended;
  }

  /** @internal A step computes for it. */
  began(now: number, { cached, preemptions }: Job, blockSize: number): void {
    const { trace } = this;
    trace.preemptions = Math.max(trace.preemptions, preemptions);
    if (trace.admitted !== undefined) return;
    trace.admitted = now;
    this.cachedTokens = cached;
    trace.blocksFound = cached / blockSize;
  }

  /** @internal */
  push(token: GeneratedToken, now: number): void {
    this.trace.firstToken ??= now;
    this.#tokens.push(token);
    this.completionTokens++;
    this.#wake?.();
  }

  /** @internal No tokens after this. */
  end(error?: unknown, now?: number): void {
    if (this.#ended) return;
    this.#ended = true;
    if (now !== undefined) this.trace.finished = now;
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#error = error;
    this.#wake?.();
    this.#onEnd?.();
  }

  /** Ends it now: its slots and blocks are free at once, and who reads gets `engine.cancelled`. */
  cancel(reason?: unknown): void {
    if (this.#ended) return;
    this.#cancel();
    this.end(new MassifError("engine.cancelled", { found: "the request was cancelled", cause: reason }));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GeneratedToken, void, undefined> {
    for await (const tokens of this.batches()) yield* tokens;
  }

  /** The tokens that have come since the last look, at least one. The first come at once; then a reader who gives a `pace`
   *  looks no more often than every so many milliseconds, and at the end: each look costs it as much as many tokens. */
  async *batches(pace = 0): AsyncGenerator<GeneratedToken[], void, undefined> {
    try {
      for (;;) {
        const tokens = this.#tokens;
        this.#tokens = [];
        if (tokens.length) {
          yield tokens;
          if (pace && !this.#ended) await this.#rest(pace);
        }
        if (this.#tokens.length) continue;
        if (this.#error !== undefined) throw this.#error;
        if (this.#ended) return;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      }
    } finally {
      this.cancel();
    }
  }

  /** Ends with the time, or with the last token. */
  async #rest(milliseconds: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.#onEnd = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#onEnd = undefined;
  }
}
