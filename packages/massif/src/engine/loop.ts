/** Steps one after the other, each in a turn of its own of the event loop; and the pauses between them. */
import { MassifError } from "../common/index.ts";
import type { Scheduler } from "./scheduler.ts";

/** What becomes of requests that have begun: they end first, are cancelled, or go on from the tokens that they have. */
export type UnderWay = "finish" | "abort" | "recompute";

export interface LoopOptions {
  scheduler: Scheduler;
  /** Computes the next step; whether there was one. */
  step(): boolean;
  /** Whether steps may be taken, if it is not paused. */
  mayStep(): boolean;
  /** Cancels what has begun. */
  abort(why: string): void;
}

export class Loop {
  readonly #options: LoopOptions;
  #paused = false;
  #turning = false;
  /** Called when nothing is under way any more. */
  #drained: (() => void) | undefined;

  constructor(options: LoopOptions) {
    this.#options = options;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** After the step under way. */
  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.wake();
  }

  /** There may be something to compute. */
  wake(): void {
    if (this.#turning || this.#paused || !this.#options.mayStep()) return;
    this.#turning = true;
    setImmediate(() => this.#turn());
  }

  /** What is under way may have ended. */
  settle(): void {
    if (!this.#drained || this.#options.scheduler.underWay) return;
    this.#drained();
    this.#drained = undefined;
  }

  /** Makes a change that no request sees: what is under way is dealt with first, what waits goes on waiting until it is made.
   *  Throws `engine.updating` where another one is awaited, and `engine.paused` where requests that ought to end cannot. */
  async change<T>(underWay: UnderWay, why: string, make: () => T): Promise<T> {
    const { scheduler } = this.#options;
    if (scheduler.draining) throw new MassifError("engine.updating", { found: `${why} while it is changed already` });
    if (underWay === "recompute") scheduler.retract();
    else await this.#drain(underWay, why);
    try {
      return make();
    } finally {
      scheduler.draining = false;
      this.wake();
    }
  }

  async #drain(underWay: UnderWay, why: string): Promise<void> {
    const { scheduler, abort } = this.#options;
    if (underWay === "abort") abort(why);
    if (!scheduler.underWay) return;
    if (this.#paused)
      throw new MassifError("engine.paused", {
        found: "requests are under way in a paused engine",
        fix: "resume it, or abort them",
      });
    scheduler.draining = true;
    await new Promise<void>((resolve) => {
      this.#drained = resolve;
    });
  }

  #turn(): void {
    this.#turning = !this.#paused && this.#options.mayStep() && this.#options.step();
    this.settle();
    if (this.#turning) setImmediate(() => this.#turn());
  }
}
