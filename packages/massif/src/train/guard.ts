/** What to do with a step whose numbers are wrong: skip its batch; after several in a row go back to the last checkpoint. */
import type { Gradients } from "./trainer.ts";

export interface GuardConfig {
  /** Nats above the recent mean. */
  spike: number;
  patience: number;
}

/** JSON; part of the checkpoint, so that a resumed run judges as the uninterrupted one. */
export interface GuardState {
  recent: number[];
  skipped: number;
}

const WINDOW = 32;

export class Guard {
  readonly #config: GuardConfig;
  #recent: number[] = [];
  #skipped = 0;

  constructor(config: GuardConfig) {
    this.#config = config;
  }

  /** Why the step must not be applied, or undefined. A good step enters the recent mean. */
  judge({ loss, gradNorm, maxLogits }: Pick<Gradients, "loss" | "gradNorm" | "maxLogits">): string | undefined {
    const trouble = this.#trouble(loss, gradNorm, maxLogits);
    if (trouble) {
      this.#skipped++;
      return trouble;
    }
    this.#skipped = 0;
    this.#recent.push(loss);
    if (this.#recent.length > WINDOW) this.#recent.shift();
    return undefined;
  }

  #trouble(loss: number, gradNorm: number, maxLogits: number[][]): string | undefined {
    if (!Number.isFinite(loss)) return `the loss is ${loss}`;
    if (!Number.isFinite(gradNorm)) return `the gradient norm is ${gradNorm}`;
    const logit = maxLogits.flat().find((max) => Number.isNaN(max) || max === Infinity);
    if (logit !== undefined) return `an attention logit is ${logit}`;
    if (this.#recent.length < WINDOW / 2) return undefined;
    const mean = this.#recent.reduce((a, b) => a + b, 0) / this.#recent.length;
    if (loss > mean + this.#config.spike)
      return `the loss ${loss.toFixed(3)} is far above the recent mean ${mean.toFixed(3)}`;
    return undefined;
  }

  /** Whether so many steps were skipped in a row that the weights themselves are suspect. */
  get exhausted(): boolean {
    return this.#skipped >= this.#config.patience;
  }

  get state(): GuardState {
    return { recent: [...this.#recent], skipped: this.#skipped };
  }

  set state({ recent, skipped }: GuardState) {
    this.#recent = [...recent];
    this.#skipped = skipped;
  }
}
