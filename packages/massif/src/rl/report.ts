/** The report of an RL run: the table of checkpoints on held-out tasks, curves, and the same task before and after. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Trajectory } from "../chat/index.ts";
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
import type { Evaluation, WorldScore } from "./evaluation.ts";
import type { RlRecipe } from "./recipe.ts";
import { turnsOf } from "./transcript.ts";

/** An evaluation of the run (of a step), or of another checkpoint (by name). */
export interface KeptEvaluation extends Evaluation {
  step: number;
  name?: string;
}

export function readEvaluations(dir: string): KeptEvaluation[] {
  const file = join(dir, "evaluations.json");
  return existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as KeptEvaluation[]) : [];
}

export function writeRlReport(recipe: RlRecipe, dir: string): void {
  const rows = readRows(join(dir, "metrics.jsonl")).filter((row): row is MetricsRow => typeof row.step === "number");
  const evaluations = readEvaluations(dir);
  const sections = [table(evaluations), ...curves(rows), ...beforeAndAfter(evaluations)];
  const { name, objective, groups, groupSize, seed } = recipe;
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
      commands: [
        { command: `massif generate --model ${dir} --prompt "…"`, why: "let it write" },
        { command: `massif inspect ${dir}`, why: "its parameters, by part" },
      ],
    }),
  );
}

/** Other checkpoints, the model that the run began with, the last of the run. */
function table(evaluations: readonly KeptEvaluation[]): Section | undefined {
  const own = evaluations.filter(({ name }) => name === undefined).sort((a, b) => a.step - b.step);
  const [first, last] = [own[0], own.at(-1)];
  if (!first || !last) return undefined;
  const named = (label: string, { worlds }: Evaluation): Cell[][] =>
    worlds.map((w) => [label, w.world, w.success, ...side(w, "act"), ...side(w, "refuse"), w.length, w.n]);
  return {
    title: "On tasks held out",
    note: "Sampled at temperature 1; names, wordings and pairs that training has not seen; 95 % Wilson intervals.",
    kind: "table",
    columns: ["model", "world", "success", "tasks to act", "tasks to refuse", "tokens written", "n"],
    rows: [
      ...evaluations.filter(({ name }) => name !== undefined).flatMap((one) => named(one.name!, one)),
      ...named("before RL (SFT)", first),
      ...(last.step ? named(`after RL (step ${last.step})`, last) : []),
    ],
  };
}

const side = (world: WorldScore, name: "act" | "refuse"): Cell[] => [
  // Without any such task the interval is all of [0, 1].
  world[name].low === 0 && world[name].high === 1 ? "–" : world[name],
];

function curves(rows: readonly MetricsRow[]): (Section | undefined)[] {
  const chart = (title: string, keys: Record<string, string>, more: Partial<Chart> = {}): Chart => ({
    title,
    x: "step",
    zero: true,
    ...more,
    lines: Object.entries(keys).flatMap(([name, key]) => {
      const points = rows.flatMap((row) =>
        typeof row[key] === "number" ? [[row.step, row[key]] as [number, number]] : [],
      );
      return points.length ? [{ name, ...thin(points) }] : [];
    }),
  });
  const evaluated = [...new Set(rows.flatMap(Object.keys))].filter((key) => key.startsWith("evalSuccess/"));
  const components = [...new Set(rows.flatMap(Object.keys))].filter((key) => key.startsWith("reward/"));
  const named = (keys: string[]) => Object.fromEntries(keys.map((key) => [key.slice(key.indexOf("/") + 1), key]));
  const section = (title: string, panels: Chart[], note?: string): Section | undefined => {
    const shown = panels.filter(({ lines }) => lines.length);
    return shown.length ? { title, ...(note && { note }), kind: "chart", panels: shown } : undefined;
  };
  return [
    section("Learning by doing", [
      chart("success while training", { all: "success", act: "successAct", refuse: "successRefuse" }),
      chart("held-out success", named(evaluated)),
      chart("pass@k and pass^k of groups", { "pass@k": "passAtK", "pass^k": "passHatK" }),
      chart("reward by component", named(components)),
    ]),
    section(
      "How far updates move",
      [
        chart("mean |sequence log-ratio| of an update", { moved: "moved", "after scaling back": "movedBounded" }),
        chart("share of groups with signal", { signal: "signal" }),
        chart("entropy (nats a token)", { entropy: "entropy" }),
        chart("KL from the old policy (nats a token)", { KL: "kl" }),
        chart("largest |Δ log p| between rollout and trainer", { largest: "mismatch" }),
      ],
      "Muon's step does not shrink with the signal, so it is bounded here.",
    ),
    section("Episodes", [
      chart("tokens written", { length: "length" }),
      chart("cut by the budget, and shortcuts", { cut: "truncated", shortcut: "shortcut" }),
      chart("tokens a second", { rollout: "rolloutTokensPerSecond", training: "tokensPerSecond" }),
    ]),
  ];
}

/** The first held-out task of each world that was got wrong at first and right at last, or else the first. */
function beforeAndAfter(evaluations: readonly KeptEvaluation[]): (Section | undefined)[] {
  const own = evaluations.filter(({ name }) => name === undefined).sort((a, b) => a.step - b.step);
  const [first, last] = [own[0], own.at(-1)];
  if (!first || !last || first === last) return [];
  const key = ({ task }: Trajectory) => `${task?.world} ${task?.seed}`;
  const pairs = first.shown.flatMap((before) => {
    const after = last.shown.find((one) => key(one) === key(before));
    return after ? [{ before, after }] : [];
  });
  const pair = pairs.find((p) => !p.before.reward?.total && p.after.reward?.total) ?? pairs[0];
  if (!pair) return [];
  const show = (title: string, trajectory: Trajectory): Section => ({
    title: `${title}: ${trajectory.reward?.total ? "right" : "wrong"}`,
    kind: "transcript",
    turns: turnsOf(trajectory),
  });
  return [show("The same task before RL", pair.before), show("and after", pair.after)];
}
