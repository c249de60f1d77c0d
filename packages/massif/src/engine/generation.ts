/** A request's answer as it comes: tokens of its choices in the order in which they were made. Leaving the loop ends it. */
import { MassifError } from "../common/index.ts";
import type { GeneratedToken } from "./request.ts";

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
  readonly #cancel: () => void;
  readonly #signal: AbortSignal | undefined;
  #tokens: GeneratedToken[] = [];
  #ended = false;
  #error: unknown;
  #wake: (() => void) | undefined;

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

  /** @internal */
  push(token: GeneratedToken): void {
    this.#tokens.push(token);
    this.completionTokens++;
    this.#wake?.();
  }

  /** @internal No tokens after this. */
  end(error?: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#signal?.removeEventListener("abort", this.#abort);
    this.#error = error;
    this.#wake?.();
  }

  /** Ends it now: its slots and blocks are free at once, and who reads gets `engine.cancelled`. */
  cancel(reason?: unknown): void {
    if (this.#ended) return;
    this.#cancel();
    this.end(new MassifError("engine.cancelled", { found: "the request was cancelled", cause: reason }));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GeneratedToken, void, undefined> {
    try {
      for (;;) {
        const tokens = this.#tokens;
        this.#tokens = [];
        yield* tokens;
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
}
