import { expect, test } from "vitest";
import type { Trajectory } from "../chat/index.ts";
import { IGNORE } from "../train/index.ts";
import { microBatches, sequenceOf } from "./sequences.ts";

/** Two turns: tokens 2–3 by weights 4, token 5 by weights 5. */
const tokens: NonNullable<Trajectory["tokens"]> = {
  tokenizer: "t",
  template: "instruct-v2",
  ids: [10, 11, 12, 13, 14, 15],
  sources: ["user", "template", "assistant", "assistant", "tool", "assistant"],
  logprobs: [null, null, -0.5, -0.25, null, -1],
  turns: [
    { message: 1, start: 2, end: 4, finish: "tool_calls", weights: 4 },
    { message: 3, start: 5, end: 6, finish: "stop", weights: 5 },
  ],
};
const row = (more: Partial<Trajectory> = {}) => ({ id: "a", tokens, ...more }) as Trajectory;

test("what the model wrote is learned, with the log-probabilities it was sampled with", () => {
  const { ids, learn, sampled, advantage } = sequenceOf(row(), 0.5);
  expect([...ids]).toEqual(tokens.ids);
  expect([...learn]).toEqual([0, 0, 1, 1, 0, 1]);
  expect([...sampled]).toEqual([0, 0, -0.5, -0.25, 0, -1]);
  expect(advantage).toBe(0.5);
});

test("of a partial rollout only what the weights of now wrote, or all of it and which is fresh", () => {
  expect([...sequenceOf(row(), 1, { version: 5 }).learn]).toEqual([0, 0, 0, 0, 0, 1]);
  const kept = sequenceOf(row(), 1, { version: 5, stale: "ratio" });
  expect([...kept.learn]).toEqual([0, 0, 1, 1, 0, 1]);
  expect([...kept.fresh]).toEqual([0, 0, 0, 0, 0, 1]);
});

test("text alone is not learned", () => {
  const { logprobs: _, ...without } = tokens;
  expect(() => sequenceOf(row({ tokens: without }), 1)).toThrow(/rl\.tokens|no log-probabilities/);
});

test("every target knows its place, its sequence and its token", () => {
  const sequences = [sequenceOf(row(), 1), sequenceOf(row(), 2, { version: 4 }), sequenceOf(row(), 3)];
  // Five inputs each, the first of them shared: two sequences to a row of 9.
  const batches = microBatches(sequences, { rows: 1, seqLen: 9 });
  expect(batches.map(({ rows }) => rows.seqLen)).toEqual([9, 5]);
  for (const { rows, at, sequence, token } of batches) {
    expect([...rows.targets].filter((t) => t !== IGNORE)).toHaveLength(at.length);
    for (const [i, position] of at.entries())
      expect(rows.targets[position]).toBe(sequences[sequence[i]!]!.ids[token[i]!]);
  }
  const seen = batches.flatMap(({ sequence, token }) => [...sequence].map((s, i) => `${s}:${token[i]}`)).sort();
  expect(seen).toEqual(["0:2", "0:3", "0:5", "1:2", "1:3", "2:2", "2:3", "2:5"]);
});

test("a micro-batch is as long as the longest sequence", () => {
  expect(microBatches([sequenceOf(row(), 1)], { rows: 1, seqLen: 3 })[0]!.rows.seqLen).toBe(5);
});
