import { appendFileSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { CLOCK_KEYS, openRun, type Run, type RunOptions } from "./folder.ts";

const config = { steps: 6, optimizer: { lr: 0.1 }, log: { every: 1 } };
const fresh = () => join(mkdtempSync(join(tmpdir(), "run-")), "first");
const open = (dir: string, options: Partial<RunOptions> = {}) =>
  openRun(dir, { config, now: () => 86_400_000, ...options });
const lines = (dir: string, name: string) => readFileSync(join(dir, name), "utf8").split("\n");

/** Steps after the one resumed from, to `last`; a checkpoint and samples at even ones. */
async function train(run: Run, last: number): Promise<void> {
  if (!run.resumed) run.metrics({ step: 0, evalBitsPerByte: 8 });
  for (let step = run.step + 1; step <= last; step++) {
    run.metrics({ step, loss: 10 - step, maxLogits: [[step]], seconds: Math.random() });
    if (step % 2) continue;
    run.event({ event: "saved", step });
    run.samples(step, [{ prompt: "Once", text: `upon step ${step}` }]);
    await run.checkpoint(step, (dir) => writeFileSync(join(dir, "model"), `weights ${step}`));
  }
}

const untimed = (dir: string) =>
  lines(dir, "metrics.jsonl")
    .filter(Boolean)
    .map((line) => {
      const row = JSON.parse(line) as Record<string, unknown>;
      return Object.fromEntries(Object.entries(row).filter(([key]) => !CLOCK_KEYS.includes(key)));
    });

test("a run is a folder: config, metrics, events, checkpoints, samples", async () => {
  const dir = fresh();
  {
    using run = open(dir, { facts: { seed: 7 } });
    expect([run.step, run.resumed]).toEqual([0, undefined]);
    await train(run, 2);
    expect(readdirSync(dir).sort()).toContain("lock");
  }
  expect(readdirSync(dir).sort()).toEqual([
    "checkpoints",
    "config.json",
    "events.jsonl",
    "metrics.jsonl",
    "samples",
    "tensorboard",
  ]);
  expect(JSON.parse(readFileSync(join(dir, "config.json"), "utf8"))).toEqual(config);
  expect(untimed(dir)).toEqual([
    { step: 0, evalBitsPerByte: 8 },
    { step: 1, loss: 9, maxLogits: [[1]] },
    { step: 2, loss: 8, maxLogits: [[2]] },
  ]);
  const events = lines(dir, "events.jsonl").slice(0, -1);
  expect(JSON.parse(events[0]!)).toMatchObject({ event: "start", step: 0, seed: 7, time: "1970-01-02T00:00:00.000Z" });
  expect(events[1]).toBe('{"event":"saved","step":2,"time":"1970-01-02T00:00:00.000Z"}');
  expect(readFileSync(join(dir, "samples/step-2.json"), "utf8")).toContain("upon step 2");
});

test("killed and resumed leaves the same as uninterrupted, with a torn line in between", async () => {
  const [whole, killed] = [fresh(), fresh()];
  {
    using run = open(whole);
    await train(run, 6);
  }
  {
    using run = open(killed);
    await train(run, 5);
  }
  appendFileSync(join(killed, "metrics.jsonl"), '{"step":6,"lo');
  appendFileSync(join(killed, "events.jsonl"), '{"ev');
  {
    using run = open(killed, { resume: true });
    expect(run.resumed).toEqual({ step: 4, dir: join(killed, "checkpoints/step-4") });
    expect(untimed(killed)).toHaveLength(5);
    await train(run, 6);
  }
  expect(untimed(killed)).toEqual(untimed(whole));
  expect(readdirSync(join(killed, "samples"))).toEqual(readdirSync(join(whole, "samples")));
  const kinds = lines(killed, "events.jsonl")
    .slice(0, -1)
    .map((line) => JSON.parse(line));
  expect(kinds.map(({ event, step }) => `${event} ${step}`)).toEqual([
    "start 0",
    "saved 2",
    "saved 4",
    "resume 4",
    "saved 6",
  ]);
});

test("killed before its first checkpoint, a run begins again from nothing", async () => {
  const dir = fresh();
  {
    using run = open(dir);
    await train(run, 1);
    run.samples(0, []);
  }
  using run = open(dir, { resume: true });
  expect([run.step, run.resumed]).toEqual([0, undefined]);
  expect(lines(dir, "metrics.jsonl")).toEqual([""]);
  expect(readdirSync(join(dir, "samples"))).toEqual([]);
});

test("rewind drops what came after, but tells of it", async () => {
  const dir = fresh();
  using run = open(dir);
  await train(run, 4);
  run.event({ event: "rollback", step: 4, to: 2 });
  run.rewind(2);
  run.metrics({ step: 3, loss: 1 });
  expect(untimed(dir).map((row) => row.loss)).toEqual([undefined, 9, 8, 1]);
  expect(run.checkpoints.latest()?.step).toBe(2);
  expect(lines(dir, "events.jsonl").at(-2)).toContain("rollback");
});

test("a run is not overwritten, not resumed from nothing, and not written to twice", async () => {
  const dir = fresh();
  expect(() => open(dir, { resume: true })).toThrow(`there is no run in ${dir}`);
  {
    using _run = open(dir, { resume: "auto" });
    expect(() => open(dir, { resume: true })).toThrow("one writer at a time");
  }
  expect(() => open(dir)).toThrow(
    `there is a run in ${dir}\n  expected: a folder without one\n  to fix: go on with it: --resume; choose another: --run DIR; or remove it: rm -r ${dir}`,
  );
  using _again = open(dir, { resume: "auto" });
});

test("another config on resume is an error that names the keys, but for those that do no harm", () => {
  const dir = fresh();
  open(dir)[Symbol.dispose]();
  const other = { steps: 7, optimizer: { lr: 0.2 }, log: { every: 5 } };
  expect(() => open(dir, { resume: true, config: other, mayChange: ["log"] })).toThrow(
    `the config differs from the one of the run in ${dir}: steps, optimizer.lr\n`,
  );
  const quieter = { ...config, log: { every: 5 } };
  open(dir, { resume: true, config: quieter, mayChange: ["log"] })[Symbol.dispose]();
  expect(JSON.parse(readFileSync(join(dir, "config.json"), "utf8"))).toEqual(quieter);
});

test("a damaged line in the middle of a log is an error with its number, and frees the lock", async () => {
  const dir = fresh();
  {
    using run = open(dir);
    await train(run, 4);
  }
  const file = join(dir, "metrics.jsonl");
  const all = lines(dir, "metrics.jsonl");
  writeFileSync(file, [all[0], "{{{", ...all.slice(1)].join("\n"));
  expect(() => open(dir, { resume: true })).toThrow(`line 2 of ${file} is no JSON object`);
  expect(readdirSync(dir)).not.toContain("lock");
});
