/** What an engine holds, has done, and how fast it is. */

export interface EngineMetrics extends Counts {
  running: number;
  waiting: number;
  blocks: { total: number; held: number; cached: number };
  /** Share of prompt tokens that were found in the cache. */
  hitRate: number;
  promptTokens: number;
  cachedTokens: number;
  preemptions: number;
  /** Generated, over the last ten seconds. */
  tokensPerSecond: number;
  version: number;
  paused: boolean;
}

interface Counts {
  generatedTokens: number;
  requests: number;
  /** Steps that guessed for a sequence, tokens guessed, and those that were right. */
  drafts: number;
  draftTokens: number;
  acceptedTokens: number;
  steps: number;
}

const RATE_WINDOW = 10_000;

export class Meter {
  readonly counts: Counts = {
    ...{ generatedTokens: 0, requests: 0, steps: 0 },
    ...{ drafts: 0, draftTokens: 0, acceptedTokens: 0 },
  };
  readonly #recent: { at: number; tokens: number }[] = [];

  generated(tokens: number, now: number): void {
    this.counts.generatedTokens += tokens;
    this.#recent.push({ at: now, tokens });
    this.#forgetBefore(now - RATE_WINDOW);
  }

  tokensPerSecond(now: number): number {
    this.#forgetBefore(now - RATE_WINDOW);
    const tokens = this.#recent.reduce((sum, recent) => sum + recent.tokens, 0);
    return tokens ? (1000 * tokens) / Math.max(1, now - this.#recent[0]!.at) : 0;
  }

  #forgetBefore(at: number): void {
    const old = this.#recent.findIndex((recent) => recent.at >= at);
    this.#recent.splice(0, old < 0 ? this.#recent.length : old);
  }
}
