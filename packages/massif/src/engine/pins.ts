/** Prefixes whose blocks stay in the cache, whatever else is asked: of each the time until which, by its owner. */
import type { Pages, Sequence } from "./pages.ts";

/** A prefix that is held. */
export interface Pin extends Disposable {
  /** Tokens that the blocks hold: whole blocks only. */
  readonly tokens: number;
  /** False once the engine had to let it go: for other weights, or because a request needed the room. */
  readonly held: boolean;
}

export class Pins {
  readonly #pages: Pages;
  readonly #held = new Map<Pin, Sequence>();

  constructor(pages: Pages) {
    this.#pages = pages;
  }

  /** Holds what is cached of a sequence without blocks; a match never takes the last token, so it needs one more. */
  hold(seq: Sequence): Pin {
    const tokens = this.#pages.match(seq);
    const held = this.#held;
    const release = (pin: Pin) => this.#release(pin);
    const pin: Pin = {
      tokens,
      get held() {
        return held.has(pin);
      },
      [Symbol.dispose]() {
        release(pin);
      },
    };
    held.set(pin, seq);
    return pin;
  }

  /** Lets the oldest go; whether there was one. */
  releaseOldest(): boolean {
    const [oldest] = this.#held.keys();
    if (oldest) this.#release(oldest);
    return oldest !== undefined;
  }

  releaseAll(): void {
    for (const pin of [...this.#held.keys()]) this.#release(pin);
  }

  #release(pin: Pin): void {
    const seq = this.#held.get(pin);
    if (!seq) return;
    this.#held.delete(pin);
    this.#pages.release(seq);
  }
}
