/** Time as it is passed in: real in use, virtual in tests. */
import { aborted } from "./errors.ts";

export interface Clock {
  /** Milliseconds since some beginning. */
  now(): number;
  /** Calls back after `ms` milliseconds; what it returns takes that back. */
  after(ms: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
};

/** Waits. Throws `llm.aborted` at once when the signal fires. */
export function sleep(ms: number, clock: Clock, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(signal));
    const stop = () => {
      cancel();
      reject(aborted(signal!));
    };
    const cancel = clock.after(ms, () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    });
    signal?.addEventListener("abort", stop, { once: true });
  });
}
