/** How many requests run at once, and how many may wait for their turn. */
import { ApiError, CLIENT_GONE } from "./errors.ts";

export class Slots {
  readonly running: number;
  readonly waiting: number;
  #held = 0;
  readonly #queue = new Set<() => void>();

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
   *  and 499 when `signal` fires while waiting: the place in the queue is free at once. */
  async acquire(signal?: AbortSignal): Promise<() => void> {
    if (signal?.aborted) throw new ApiError(CLIENT_GONE, "the client is gone");
    if (this.#held < this.running) this.#held++;
    else {
      if (this.#queue.size >= this.waiting) {
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
          this.#queue.delete(turn);
          reject(new ApiError(CLIENT_GONE, "the client is gone"));
        };
        this.#queue.add(turn);
        signal?.addEventListener("abort", leave, { once: true });
      });
    }
    let mine = true;
    return () => {
      if (!mine) return;
      mine = false;
      const [next] = this.#queue;
      if (!next) this.#held--;
      else {
        // The slot goes over to the next: nobody can come between.
        this.#queue.delete(next);
        next();
      }
    };
  }
}
