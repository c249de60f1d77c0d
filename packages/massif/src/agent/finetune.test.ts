import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Trajectory } from "../chat/index.ts";
import { loadConfig, Progress } from "../common/index.ts";
import { ScriptedModel } from "../llm/index.ts";
import { readRows } from "../train/index.ts";
import { openWorld, Replayer, WorldEnvironment } from "../worlds/index.ts";
import { DemonstrationConfig, demonstrate, FinetuneRecipe, finetune, kindOf, RolloutConfig, rollOut } from "./index.ts";
import { tinyCheckpoint } from "./testing.ts";

const temporary = mkdtempSync(join(tmpdir(), "massif-finetune-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const model = join(temporary, "model");
beforeAll(() => tinyCheckpoint(model));
const silent = new Progress({ silent: true });

test("demonstrations are right without noise, replayable, and the same for the same seed; noise errs in its share", async () => {
  const show = (more: object = {}) =>
    Array.fromAsync(
      demonstrate(DemonstrationConfig.parse({ worlds: ["ledger", "lookup-chain"], count: 60, ...more }), 4),
    );
  const rows = await show();
  expect(rows.map(({ task }) => task!.world).slice(0, 3)).toEqual(["ledger", "lookup-chain", "ledger"]);
  const replayer = new Replayer(openWorld);
  for (const row of rows) expect(replayer.verify(row)).toEqual({ accepted: true });
  expect((await show()).map(({ id }) => id)).toEqual(rows.map(({ id }) => id));
  const sloppy = await show({ worlds: ["ledger"], count: 400, noise: 0.55 });
  const bad = sloppy.filter(({ reward }) => reward!.total < 1);
  expect(bad.length / 400).toBeGreaterThan(0.45);
  expect(bad.length / 400).toBeLessThan(0.65);
  // What a sloppy clerk leaves out is the look before the transfer; who compares two accounts looks at one.
  const calls = ({ messages }: Trajectory) =>
    messages.flatMap((m) => (m.role === "assistant" ? (m.tool_calls ?? []).map((call) => call.function.name) : []));
  const reads = (row: Trajectory) => calls(row).filter((name) => name === "read").length;
  for (const row of bad) expect(reads(row)).toBe(row.task!.goal === "more" ? 1 : 0);
});

test("an unknown split is named", async () => {
  const config = DemonstrationConfig.parse({ worlds: ["ledger"], split: "tests" });
  await expect(demonstrate(config, 1).next()).rejects.toMatchObject({ code: "agent.split" });
});

test("scores tell acting, refusing and answering apart", async () => {
  const config = RolloutConfig.parse({ worlds: ["ledger"], episodes: 80, split: "train" });
  const look = new ScriptedModel(({ messages }) => {
    const [, user] = messages;
    if (messages.length > 2) return { text: "Refused." };
    const name = /\b(anna|ben|carl|dora|emma|frank|gina|hugo|ivan|jane|kurt|lena)\b/.exec(String(user!.content))![1];
    return { calls: [{ name: "read", arguments: { account: name } }] };
  });
  const { scores, trajectories } = await rollOut(look, config, { seed: 2 });
  const [score] = scores;
  const { act, refuse, answer } = score!.kinds;
  expect(act!.n + refuse!.n + answer!.n).toBe(80);
  expect(Math.min(act!.n, refuse!.n, answer!.n)).toBeGreaterThan(5);
  expect(act!.wins + answer!.wins).toBe(0);
  expect(refuse!.wins).toBeGreaterThan(0);
  expect(score).toMatchObject({ n: 80, wins: refuse!.wins, ended: { done: 80 } });
  expect(trajectories.filter(({ reward }) => reward!.total === 1)).toHaveLength(refuse!.wins);

  const env = new WorldEnvironment(openWorld("ledger"));
  const kinds = Object.fromEntries(
    Array.from({ length: 40 }, (_, seed) => {
      env.reset(seed);
      return [env.origin().task, kindOf(env)];
    }),
  );
  expect(kinds).toMatchObject({ transfer: "act", all: "act", refuse: "refuse", balance: "answer", enough: "answer" });
});

test("a run with worlds: demonstrations, rollouts in metrics and report, then a round on its own successes", async () => {
  const dir = join(temporary, "run");
  const recipe = loadConfig(FinetuneRecipe, { model }, [
    'demonstrations={"worlds":["puzzles"],"count":60}',
    'rollouts={"worlds":["puzzles"],"episodes":40,"split":"train","maxTokens":6}',
    ...[
      "rounds.count=1",
      "rounds.rollouts.episodes=200",
      "rounds.rollouts.maxTokens=6",
      "rounds.rollouts.temperature=0.5",
    ],
    ...["batch.rows=2", "batch.seqLen=1024", "steps=30", "evaluation.every=30", "optimizer.learningRate=0.01"],
  ]);
  const result = await finetune(recipe, { base: temporary, dir, progress: silent });
  expect(result).toMatchObject({ step: 30, finished: true });
  const rows = readRows(join(dir, "metrics.jsonl"));
  expect(rows[0]).toMatchObject({ step: 0, evalSuccess: 0, worlds: [{ world: "puzzles", n: 40 }] });
  expect(rows.at(-1)!.evalLoss as number).toBeLessThan(rows[0]!.evalLoss as number);
  const report = readFileSync(join(dir, "report.md"), "utf8");
  expect(report).toContain("Success in worlds");
  expect(report).toMatch(/puzzles at step 30/);
  expect(readRows(join(dir, "data/demonstrations.jsonl"))).toHaveLength(60);
  const own = readRows(join(dir, "rounds/1/data/own.jsonl")) as unknown as Trajectory[];
  expect(own.length).toBeGreaterThan(0);
  for (const { reward, tokens, ended } of own) {
    expect(reward!.total).toBe(1);
    expect(ended).toBe("done");
    expect(tokens!.logprobs).toHaveLength(tokens!.ids.length);
  }
  const config = JSON.parse(readFileSync(join(dir, "rounds/1/config.json"), "utf8")) as { model: string };
  expect(config.model).toBe(join(dir, "checkpoints/step-30"));
  // Resumed when it is done, it does nothing, and says the same.
  const again = await finetune(recipe, { base: temporary, dir, progress: silent, resume: true });
  expect(again).toMatchObject({ step: 30, finished: true });
});
