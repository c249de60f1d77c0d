import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { afterAll, expect, test } from "vitest";
import { Progress } from "../common/index.ts";
import { readReport } from "../train/index.ts";
import { loadStory, readEvaluated, STAGES, tellStory } from "./index.ts";

const recipes = resolve(import.meta.dirname, "../../../../recipes");
// As npm start gives it: relative to where it was called.
const dir = relative(process.cwd(), mkdtempSync(join(tmpdir(), "massif-story-")));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const tiny = (...sets: string[]) =>
  loadStory(join(recipes, "tiny/recipe.json"), {
    usual: join(recipes, "speedrun"),
    sets: [
      "worldText.count=60",
      ...["evaluation.episodes=6", "evaluation.maxSteps=2", "evaluation.maxTokens=16"],
      ...["sft.demonstrations.count=60", "sft.steps=3", "sft.heldOut.documents=3", "sft.rollouts.episodes=2"],
      ...["rl.steps=2", "rl.groups=2", "rl.groupSize=2", "rl.evaluation.episodes=2", "rl.evaluation.lastEpisodes=2"],
      ...sets,
    ],
  });

test("the whole story: every stage, one table over all models; told again it does nothing twice", async () => {
  const options = { dir, progress: new Progress({ silent: true }) };
  expect(await tellStory(tiny(), { ...options, stages: ["pretrain"] })).toBe(true);
  const pretrained = statSync(join(dir, "pretrain/checkpoints/step-40")).mtimeMs;
  expect(await tellStory(tiny(), { ...options, stages: STAGES })).toBe(true);
  expect(statSync(join(dir, "pretrain/checkpoints/step-40")).mtimeMs).toBe(pretrained);

  const { evaluation } = tiny();
  const evaluated = readEvaluated(dir);
  expect(evaluated.map(({ model }) => model)).toEqual(["untrained", "pre-trained", "SFT", "RL"]);
  for (const { scores } of evaluated) expect(scores.map(({ n }) => n)).toEqual(evaluation.tasks.map(() => 6));

  const report = readReport(dir)!;
  const table = report.sections[0]!;
  expect(table).toMatchObject({
    kind: "table",
    columns: ["task", "episodes", "untrained", "pre-trained", "SFT", "RL"],
  });
  for (const start of ["Pre-training: ", "SFT: ", "RL: "])
    expect(report.sections.some(({ title }) => title.startsWith(start))).toBe(true);
});

test("world text is a share of the rows, learned and never held out", () => {
  const config = JSON.parse(readFileSync(join(dir, "pretrain/config.json"), "utf8"));
  expect(config.mix.share).toBe(0.15);
  const row = JSON.parse(readFileSync(join(dir, "world-text.jsonl"), "utf8").split("\n")[0]!);
  expect(row.text).not.toContain("<|");
  expect(row.text).toContain("transfer");
  const facts = Object.fromEntries(readReport(join(dir, "pretrain"))!.facts);
  expect(facts["held out"]).toBe("2 documents");
  expect(facts["mixed in"]).toMatch(/^60 documents, .* 15 % of the rows$/);
});

test("what is wrong is said before anything runs", () => {
  expect(() => tiny("steps=3")).toThrow(expect.objectContaining({ code: "story.set" }));
  const tasks = (task: object) => `evaluation.tasks=${JSON.stringify([{ title: "t", ...task }])}`;
  expect(() => tiny(tasks({ world: "legder" }))).toThrow(/ledger/);
  expect(() => tiny(tasks({ world: "ledger", split: "some" }))).toThrow(
    expect.objectContaining({ code: "agent.split" }),
  );
});
