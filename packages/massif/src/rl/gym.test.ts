import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Progress } from "../common/index.ts";
import { CLOCK_KEYS, type MetricsRow } from "../train/index.ts";
import { gym } from "./gym.ts";
import { RlRecipe } from "./recipe.ts";
import { emptyModel } from "./testing.ts";

let model: Awaited<ReturnType<typeof emptyModel>>;
beforeAll(async () => {
  model = await emptyModel();
});
afterAll(() => model.remove());

/** A model that knows nothing can learn one thing: that short answers are punished less. */
const recipe = (more: object = {}) =>
  RlRecipe.parse({
    model: model.folder,
    worlds: [{ world: "style-rubric", maxTokens: 32 }],
    steps: 6,
    groups: 8,
    groupSize: 16,
    length: { weight: 1, warmup: 0 },
    optimizer: { learningRate: 0.02 },
    trust: { bound: 20 },
    finalRatio: 1,
    batch: { rows: 4, seqLen: 256 },
    evaluation: { every: 3, episodes: 8, lastEpisodes: 8 },
    checkpoint: { every: 2 },
    ...more,
  });

/** `stopAt`: interrupted after that step, as by Ctrl-C. */
const run = (
  dir: string,
  more: object = {},
  { stopAt, resume = false }: { stopAt?: number; resume?: boolean } = {},
) => {
  const stop = new AbortController();
  const write = (text: string) => text.startsWith(`RL ${stopAt}/`) && stop.abort();
  const progress = new Progress({ stream: { write }, everySeconds: 0 });
  return gym(recipe(more), { base: "/", dir: join(model.folder, dir), progress, resume, signal: stop.signal });
};

const rowsOf = (dir: string): MetricsRow[] =>
  readFileSync(join(model.folder, dir, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as MetricsRow);

const clocks = [...CLOCK_KEYS, "rolloutSeconds", "rolloutTokensPerSecond"];
const withoutClock = (rows: MetricsRow[]) =>
  rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !clocks.includes(key))));

test("reward rises; rollout and trainer agree at every step; a run in two parts is the run in one", async () => {
  const whole = await run("whole");
  expect(whole).toMatchObject({ step: 6, finished: true });
  const rows = rowsOf("whole").slice(1);
  const lengths = rows.map(({ length }) => length as number);
  // A mean of 128 lengths up to 32 wavers by 0.7.
  expect(lengths.at(-1)!).toBeLessThan(lengths[0]! - 4);
  // Same weights, same process: only the order of sums differs, and in attention, which is in float64, not even that.
  expect(Math.max(...rows.map(({ mismatch }) => mismatch as number))).toBeLessThan(2e-6);
  expect(rows.map(({ routingEqual }) => routingEqual)).toEqual(rows.map(() => 1));
  const events = readFileSync(join(model.folder, "whole", "events.jsonl"), "utf8");
  expect(events).toContain('"event":"rollouts","step":0,"path":"one operator a step"');

  expect(await run("parts", {}, { stopAt: 3 })).toMatchObject({ step: 3, finished: false });
  expect(await run("parts", {}, { resume: true })).toMatchObject({ step: 6, finished: true });
  expect(withoutClock(rowsOf("parts"))).toEqual(withoutClock(rowsOf("whole")));
});

test("every objective takes a step; terms have metrics of their own", async () => {
  for (const name of ["pmd-loo", "square", "reinforce", "grpo", "dr-grpo", "dapo", "gspo", "cispo"]) {
    await run(name, { steps: 1, objective: { name }, groups: 2, evaluation: { episodes: 1, lastEpisodes: 1 } });
    const [, row] = rowsOf(name);
    expect(row, name).toMatchObject({ updates: 2 });
    expect(row!.mismatch as number, name).toBeLessThan(1e-5);
    expect(row!.gradNorm as number, name).toBeGreaterThan(0);
  }
  await run("terms", {
    steps: 2,
    ptx: { weight: 0.1, rows: 1 },
    budget: { penalty: 0.5 },
    temperature: { first: 1.5, last: 0.8 },
    groups: 2,
  });
  const rows = rowsOf("terms").slice(1);
  expect(rows.map(({ temperature }) => temperature)).toEqual([1.5, 0.8]);
  for (const row of rows) {
    expect(row["reward/budget"]).toBeCloseTo(-0.5 * (row.truncated as number), 12);
    // About log of the vocabulary: the model knows nothing.
    expect(row.ptxLoss as number).toBeGreaterThan(3);
    expect(row.mismatch as number).toBeLessThan(1e-5);
  }
});

test("an update that moves too far is scaled back to the bound", async () => {
  await run("bounded", { steps: 2, trust: { bound: 0.05, probe: 64 }, evaluation: { lastEpisodes: 1 } });
  for (const row of rowsOf("bounded").slice(1)) {
    expect(row.moved as number).toBeGreaterThan(0.05);
    expect(row.movedBounded as number).toBeLessThanOrEqual(0.05);
    expect(row.scaledBack).toBe(2);
  }
});
