/** How many requests run at once, and how many may wait for their turn. */
import { ApiError, CLIENT_GONE } from "./errors.ts";

export class Slots {
  readonly running: number;
  readonly waiting: number;
  #held = 0;
  readonly #queue = new Set<() => void>();
  /** Those who wait until the queue is empty. */
  readonly #low = new Set<() => void>();

  constructor({ running, waiting }: { running: number; waiting: number }) {
    this.running = running;
    this.waiting = waiting;
  }

  get held(): number {
    return this.#held;
  }

  get queued(): number {
    return this.#queue.size;
  }

  /** Waits for a slot, first come first served; what it returns gives the slot back. Throws 429 where the queue is full,
   *  and 499 when `signal` fires while waiting: the place in the queue is free at once. `low` comes after everyone else,
   *  and takes no place in the queue. */
  async acquire(signal?: AbortSignal, low = false): Promise<() => void> {
    if (signal?.aborted) throw new ApiError(CLIENT_GONE, "the client is gone");
    if (this.#held < this.running) this.#held++;
    else {
      const queue = low ? this.#low : this.#queue;
      if (!low && queue.size >= this.waiting) {
        throw new ApiError(429, `${this.#held} requests run and ${this.#queue.size} wait; try again later`, {
          code: "rate_limit_exceeded",
          retryAfter: 1000,
        });
      }
      await new Promise<void>((resolve, reject) => {
        const turn = () => {
          signal?.removeEventListener("abort", leave);
          resolve();
        };
        const leave = () => {
          queue.delete(turn);
          reject(new ApiError(CLIENT_GONE, "the client is gone"));
        };
        queue.add(turn);
        signal?.addEventListener("abort", leave, { once: true });
      });
    }
    let mine = true;
    return () => {
      if (!mine) return;
      mine = false;
      const queue = this.#queue.size ? this.#queue : this.#low;
      const [next] = queue;
      if (!next) this.#held--;
      else {
        // The slot goes over to the next: nobody can come between.
        queue.delete(next);
        next();
      }
    };
  }
}
