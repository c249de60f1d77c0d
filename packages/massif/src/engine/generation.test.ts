import { expect, test, vi } from "vitest";
import { Generation } from "./generation.ts";

const token = (id: number) => ({ choice: 0, id, text: `${id}`, logprob: 0, sampledLogprob: 0, version: 0 });

test("a reader with a pace gets the first token at once, what comes meanwhile together, and the end at once", async () => {
  vi.useFakeTimers();
  try {
    const generation = new Generation(0, 1, () => {});
    const looks: { at: number; ids: number[] }[] = [];
    const began = Date.now();
    const reading = (async () => {
      for await (const tokens of generation.batches(40))
        looks.push({ at: Date.now() - began, ids: tokens.map(({ id }) => id) });
    })();
    for (let id = 0; id < 6; id++) {
      generation.push(token(id), 0);
      await vi.advanceTimersByTimeAsync(10);
    }
    // Quiet for longer than the pace: the next is told at once.
    await vi.advanceTimersByTimeAsync(100);
    generation.push(token(6), 0);
    await vi.advanceTimersByTimeAsync(5);
    generation.push(token(7), 0);
    generation.end();
    await reading;
    expect(looks).toEqual([
      { at: 0, ids: [0] },
      { at: 40, ids: [1, 2, 3] },
      { at: 80, ids: [4, 5] },
      { at: 160, ids: [6] },
      { at: 165, ids: [7] },
    ]);
  } finally {
    vi.useRealTimers();
  }
});
