import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, expect, test } from "vitest";
import { loadConfig, Progress } from "../common/index.ts";
import { pretrain, Recipe } from "./index.ts";
import { CLOCK_KEYS, readRows } from "./run/index.ts";

const recipes = resolve(import.meta.dirname, "../../../../recipes");
const temporary = mkdtempSync(join(tmpdir(), "massif-pretrain-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

const tiny = (...sets: string[]) => loadConfig(Recipe, join(recipes, "tiny/recipe.json"), sets);
const silent = new Progress({ silent: true });
const options = (name: string) => ({ base: join(recipes, "tiny"), dir: join(temporary, name), progress: silent });

const metricsOf = (dir: string) =>
  readRows(join(dir, "metrics.jsonl")).map((row) =>
    Object.fromEntries(Object.entries(row).filter(([key]) => !CLOCK_KEYS.includes(key))),
  );
const weightsOf = (dir: string, step: number) => readFileSync(join(dir, `checkpoints/step-${step}/model.safetensors`));

function start(dir: string, ...more: string[]): ChildProcess {
  const main = resolve(import.meta.dirname, "../cli/main.ts");
  return spawn(process.execPath, [main, "pretrain", "tiny", "--run", dir, ...more], {
    stdio: ["ignore", "ignore", "pipe"],
  });
}

async function untilStep(child: ChildProcess, dir: string, step: number): Promise<void> {
  const file = join(dir, "metrics.jsonl");
  while (child.exitCode === null && !(existsSync(file) && readFileSync(file, "utf8").includes(`"step":${step},`)))
    await new Promise((r) => setTimeout(r, 3));
}

test("a run killed at any step and resumed equals the uninterrupted run to the bit", async () => {
  const whole = join(temporary, "whole");
  expect(await pretrain(tiny(), { ...options("whole") })).toMatchObject({ step: 40, finished: true });
  for (const step of [3, 10, 27]) {
    const dir = join(temporary, `killed-${step}`);
    const child = start(dir);
    const ended = once(child, "exit");
    await untilStep(child, dir, step);
    child.kill("SIGKILL");
    await ended;
    expect(existsSync(join(dir, "checkpoints/step-40"))).toBe(false);
    await pretrain(tiny(), { ...options(`killed-${step}`), resume: true });
    expect(metricsOf(dir)).toEqual(metricsOf(whole));
    expect(weightsOf(dir, 40).equals(weightsOf(whole, 40))).toBe(true);
  }
});

test("SIGTERM writes a checkpoint of the step it finishes, and says how to go on", async () => {
  const dir = join(temporary, "terminated");
  const child = start(dir, "--set", "steps=100000", "--set", "checkpoint.every=100000");
  let said = "";
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk));
  const ended = once(child, "exit");
  await untilStep(child, dir, 5);
  child.kill("SIGTERM");
  expect((await ended)[0]).toBe(1);
  const last = readRows(join(dir, "metrics.jsonl")).at(-1)?.step as number;
  expect(existsSync(join(dir, `checkpoints/step-${last}/manifest.json`))).toBe(true);
  expect(said).toContain("--resume");
});

test("it learns: the loss falls well below that of the unigram distribution's start", async () => {
  const dir = join(temporary, "whole");
  const [first, last] = [metricsOf(dir)[1]!, metricsOf(dir).at(-1)!];
  expect(first.loss).toBeCloseTo(Math.log(512), 1);
  expect(last.loss).toBeLessThan(5.3);
  expect(last.evalBitsPerByte).toBeLessThan(3.3);
  expect(readFileSync(join(dir, "report.html"), "utf8")).toContain("held-out bits per byte");
});

test("bf16 compute, recompute and accumulation run and learn", async () => {
  const sets = ["precision=bfloat16", "activations=recompute", "batch.accumulate=2", "steps=20"];
  await pretrain(tiny(...sets), options("bf16"));
  expect(metricsOf(join(temporary, "bf16")).at(-1)!.loss).toBeLessThan(5.9);
});

test("a poisoned batch is skipped and named; several in a row go back to the last checkpoint", async () => {
  // A learning rate that overflows within a few steps makes every later loss NaN: the guard must end it, with a way out.
  const failing = pretrain(tiny("optimizer.learningRate=1e30", "checkpoint.every=1000"), options("diverged"));
  await expect(failing).rejects.toMatchObject({ code: "train.diverged" });
  const events = readRows(join(temporary, "diverged/events.jsonl"));
  const skip = events.find((e) => e.event === "skip")!;
  expect(skip.trouble).toMatch(/loss is NaN|logit is|gradient norm is/);
  expect((skip.documents as string[]).join()).toContain("george_washington");
});

test("bad steps that do not end go back to the last checkpoint once, with other batches, then give up", async () => {
  // No loss is within a millionth of a nat of the recent mean for long, so that three in a row are soon above it.
  const failing = pretrain(tiny("guard.spike=1e-6", "steps=400", "optimizer.learningRate=1e-6"), options("rollback"));
  await expect(failing).rejects.toMatchObject({ code: "train.diverged" });
  const events = readRows(join(temporary, "rollback/events.jsonl"));
  const back = events.find((e) => e.event === "rollback")!;
  expect(back.to).toBe(10 * Math.floor((back.step as number) / 10));
  expect(metricsOf(join(temporary, "rollback")).filter((r) => r.step === back.to)).toHaveLength(1);
});

test("what a person gets wrong is said clearly", async () => {
  await expect(pretrain(tiny(), options("whole"))).rejects.toMatchObject({ code: "run.exists" });
  await expect(pretrain(tiny("steps=41"), { ...options("whole"), resume: true })).rejects.toMatchObject({
    code: "run.config-changed",
  });
  await expect(pretrain(tiny("tokenizer.path=/nowhere"), options("no-tokenizer"))).rejects.toMatchObject({
    code: "tokenizer.missing",
  });
  expect(() => tiny("optimizer.learning_rate=1")).toThrow(/optimizer\.learningRate/);
  const tokens = join(temporary, "whole/data/text.tokens");
  const bytes = readFileSync(tokens);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(tokens, bytes);
  await pretrain(tiny(), { ...options("whole"), resume: true }); // rebuilt from the text, and said so in the stage's line
  expect(readFileSync(tokens).equals(bytes)).toBe(false);
});
