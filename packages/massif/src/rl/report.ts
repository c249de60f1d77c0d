/** The report of an RL run: success on tasks held out, curves of training, transcripts before and after. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Kind, rolloutSections, type Score, successOf } from "../agent/index.ts";
import {
  type Cell,
  type Chart,
  type MetricsRow,
  readRows,
  runReport,
  type Section,
  thin,
  writeReport,
} from "../train/index.ts";
import type { RlRecipe } from "./recipe.ts";

/** Scores of other checkpoints, by name. */
export type Baselines = Record<string, Score[]>;

export function readBaselines(dir: string): Baselines {
  const file = join(dir, "baselines.json");
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Baselines) : {};
}

const readMetrics = (dir: string): MetricsRow[] =>
  readRows(join(dir, "metrics.jsonl")).filter((row): row is MetricsRow => typeof row.step === "number");

/** The evaluations of the run so far. */
export function readEvaluations(dir: string): { step: number; success: number; scores: Score[] }[] {
  return readMetrics(dir).flatMap(({ step, evalSuccess, worlds }) =>
    typeof evalSuccess === "number" ? [{ step, success: evalSuccess, scores: worlds as Score[] }] : [],
  );
}

export function writeRlReport(recipe: RlRecipe, dir: string): void {
  const { name, objective, groups, groupSize, seed } = recipe;
  const sections = [checkpoints(dir), ...curves(readMetrics(dir)), ...rolloutSections(dir)];
  writeReport(
    dir,
    runReport(dir, {
      title: `Massif: ${name}`,
      facts: [
        ["objective", `${objective.name}, τ ${objective.tau}`],
        ["rollouts", `${groups} tasks × ${groupSize} answers a step, seed ${seed}`],
        ["begins with", recipe.model],
      ],
      sections: sections.filter((section) => section !== undefined),
      commands: [{ command: `massif inspect ${dir}`, why: "its parameters, by part" }],
    }),
  );
}

const kinds: readonly Kind[] = ["act", "refuse", "answer"];

/** Other checkpoints, the model that the run began with, the last of the run: on the same tasks. */
function checkpoints(dir: string): Section | undefined {
  const own = readEvaluations(dir);
  const [first, last] = [own[0], own.at(-1)];
  if (!first || !last) return undefined;
  const named = (name: string, scores: readonly Score[]): Cell[][] =>
    scores.map((score) => [
      name,
      score.world,
      successOf(score),
      ...kinds.map((kind) => (score.kinds[kind] ? successOf(score.kinds[kind]) : "–")),
      score.n,
    ]);
  return {
    title: "Before and after",
    note: "Tasks held out, sampled at temperature 1, with 95 % Wilson intervals.",
    kind: "table",
    columns: ["model", "world", "success", ...kinds, "n"],
    rows: [
      ...Object.entries(readBaselines(dir)).flatMap(([name, scores]) => named(name, scores)),
      ...named("before RL", first.scores),
      ...(last.step ? named(`after ${last.step} steps`, last.scores) : []),
    ],
  };
}

function curves(rows: readonly MetricsRow[]): Section[] {
  const keys = [...new Set(rows.flatMap(Object.keys))];
  const chart = (title: string, lines: Record<string, string>): Chart => ({
    title,
    x: "step",
    zero: true,
    lines: Object.entries(lines).flatMap(([name, key]) => {
      const points = rows.flatMap(({ step, [key]: y }) =>
        typeof y === "number" ? [[step, y] as [number, number]] : [],
      );
      return points.length ? [{ name, ...thin(points) }] : [];
    }),
  });
  const under = (group: string) =>
    Object.fromEntries(
      keys.filter((key) => key.startsWith(`${group}/`)).map((key) => [key.slice(group.length + 1), key]),
    );
  const section = (title: string, note: string, panels: Chart[]): Section[] => {
    const shown = panels.filter(({ lines }) => lines.length);
    return shown.length ? [{ title, ...(note && { note }), kind: "chart", panels: shown }] : [];
  };
  return [
    ...section("Learning by doing", "On tasks that training draws, harder ones more often.", [
      chart("success", { all: "success", ...under("success") }),
      chart("pass@k and pass^k of groups", { "pass@k": "passAtK", "pass^k": "passHatK" }),
      chart("reward by component", under("reward")),
      chart("share of groups with signal", { signal: "signal" }),
    ]),
    ...section("How far updates move", "Muon's step does not shrink with the signal, so it is bounded.", [
      chart("mean |sequence log-ratio| of an update", { moved: "moved", "after scaling back": "movedBounded" }),
      chart("KL from the old policy, nats a token", { KL: "kl" }),
      chart("entropy, nats a token", { entropy: "entropy" }),
      chart("largest |Δ log p| between rollout and trainer", { largest: "mismatch" }),
    ]),
    ...section("Episodes", "", [
      chart("tokens that the model wrote", { length: "length" }),
      chart("share of episodes", { "cut by the budget": "truncated", shortcut: "shortcut" }),
      chart("tokens a second", { rollout: "rolloutTokensPerSecond", training: "tokensPerSecond" }),
    ]),
  ];
}
