import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { TrajectorySchema, trajectory } from "../chat/index.ts";
import type { UpdateReport } from "./learner.ts";
import { flat } from "./measures.ts";
import type { Answer, Group } from "./rollouts.ts";
import { keepAnswers } from "./transcripts.ts";

const answer = (world: string, outcome: number, length: number): Answer =>
  ({
    trajectory: trajectory({
      messages: [
        { role: "user", content: world },
        { role: "assistant", content: `${outcome} ${length}` },
      ],
      tools: [],
      task: { world, version: "1+abc", seed: 1 },
      reward: { total: outcome, ...(!outcome && { why: "tell: no" }), components: {} },
    }),
    ...{ outcome, length, truncated: length > 20, shortcut: false },
  }) as Answer;
const group = (world: string, ...outcomes: number[]): Group => ({
  task: {} as Group["task"],
  kind: "act",
  answers: outcomes.map((outcome, i) => answer(world, outcome, 10 * (i + 1))),
});

test("of each world the group whose answers differ most is kept, with every component of its rewards", async () => {
  const dir = mkdtempSync(join(tmpdir(), "massif-transcripts-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  const groups = [group("a", 1, 1, 1), group("a", 1, 0, 0), group("b", 0, 0)];
  await keepAnswers(dir, 40, groups, { budgetPenalty: 0.5, lengthWeight: 1, criticWeight: 0 });
  const lines = readFileSync(join(dir, "rollouts/train-step-40.jsonl"), "utf8").trim().split("\n");
  const rows = lines.map((line) => TrajectorySchema.parse(JSON.parse(line)));
  const values = rows.map(({ task, reward }) => [
    task?.world,
    reward?.total,
    Object.fromEntries(Object.entries(reward!.components).map(([name, { value }]) => [name, value])),
  ]);
  expect(values).toEqual([
    ["a", 1.5, { outcome: 1, budget: 0, length: 0.5 }],
    ["a", 0, { outcome: 0, budget: 0, length: 0 }],
    ["a", -1, { outcome: 0, budget: -0.5, length: -0.5 }],
    ["b", 0, { outcome: 0, budget: 0, length: 0 }],
    ["b", -0.5, { outcome: 0, budget: 0, length: -0.5 }],
  ]);
  // The verdict's words stay, whatever else is rewarded.
  expect(rows.map(({ reward }) => reward?.why)).toEqual([undefined, "tell: no", "tell: no", "tell: no", "tell: no"]);
  expect(rows[0]!.reward!.components.outcome).toMatchObject({ kind: "verifiable", evaluator: "1+abc" });
});

test("a row has every head and every expert at some steps, and losses by name at all", () => {
  const matrices = { maxLogits: [[1]], maxLogitsAfter: [[1]], expertLoad: [[0.5, 0.5]] };
  const report = { kl: 0.1, sideLosses: { ptx: 2 }, matrices } as unknown as UpdateReport;
  expect(flat(report, 9)).toEqual({ kl: 0.1, ptxLoss: 2 });
  expect(flat(report, 10)).toEqual({ kl: 0.1, ptxLoss: 2, ...matrices });
  expect(flat(undefined, 10)).toEqual({});
});
