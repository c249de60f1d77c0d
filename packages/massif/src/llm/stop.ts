/** Stop strings in a stream: nothing that may become one is let out before it is clear that it does not. */
export class StopScanner {
  /** The stop string that was found. */
  stop: string | undefined;
  #held = "";
  readonly #stops: readonly string[];

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter(Boolean);
  }

  /** The text that is certain. After a stop there is none. */
  push(text: string): string {
    if (this.stop !== undefined) return "";
    this.#held += text;
    let at = this.#held.length;
    // Of several the one that is complete first, so that it does not matter how the text comes.
    let end = Infinity;
    for (const stop of this.#stops) {
      const found = this.#held.indexOf(stop);
      if (found < 0 || found + stop.length > end || (found + stop.length === end && found >= at)) continue;
      [at, end, this.stop] = [found, found + stop.length, stop];
    }
    if (this.stop === undefined) {
      for (const stop of this.#stops) {
        for (let length = Math.min(stop.length - 1, this.#held.length); length > 0; length--) {
          if (!this.#held.endsWith(stop.slice(0, length))) continue;
          at = Math.min(at, this.#held.length - length);
          break;
        }
      }
    }
    const certain = this.#held.slice(0, at);
    this.#held = this.stop === undefined ? this.#held.slice(at) : "";
    return certain;
  }

  /** What was held back, if the text ends here. */
  end(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }
}
