/** The examination of a world: does it compile, hold together, have plans, reward the oracle and nobody else? */
import { hash32, MassifError } from "../common/index.ts";
import type { Task } from "./episode.ts";
import { CEILING, exploits } from "./exploits.ts";
import { noisy, oracle } from "./oracle.ts";
import { isMinimal, plan } from "./planner.ts";
import { type Player, play } from "./play.ts";
import { tokens } from "./speech.ts";
import { leaves } from "./value.ts";
import type { World } from "./world.ts";
import { WorldEnvironment } from "./world-environment.ts";

export interface Score {
  player: string;
  success: number;
  n: number;
  /** The bar for this player, as text: "1", "≤ 0.25", "between". */
  bar: string;
  ok: boolean;
}

export interface Report {
  world: string;
  version: number;
  digest: string;
  ok: boolean;
  /** Everything that is wrong, first things first. */
  problems: string[];
  tasks: { task: string; n: number; steps: { least: number; most: number; mean: number } }[];
  /** Of the first seeds: plans proven to be shortest over all arguments, and those too wide to tell. */
  least: { proven: number; unknown: number };
  scores: Score[];
  n: number;
}

/** Seeds of each split for which the search over all arguments proves that no plan is shorter; it is the dear part. */
const MINIMAL = 20;

/** Episodes of each player at least: with fewer, an exploit at 0.2 reads over 0.25 too often. */
const PLAYED = 400;

/** @param n episodes of each split that are proven. */
export async function examine(world: World, n = 200): Promise<Report> {
  const problems: string[] = [];
  const problem = (text: string): void => {
    if (problems.length < 20) problems.push(text);
  };
  const tasks = new Map<string, number[]>();
  const least = { proven: 0, unknown: 0 };
  for (const split of ["train", "heldout"] as const) {
    const env = new WorldEnvironment(world, split);
    for (let seed = 0; seed < n; seed++) {
      try {
        prove(env, seed, problem, tasks, least);
      } catch (error) {
        if (!(error instanceof MassifError)) throw error;
        problem(`${split} seed ${seed}: ${error.trouble.found}`);
      }
    }
  }
  const scores = problems.length ? [] : await scoreAll(world, Math.max(n, PLAYED));
  for (const s of scores) if (!s.ok) problem(`${s.player} scores ${s.success.toFixed(3)} (${s.bar})`);
  return {
    world: world.name,
    version: world.version,
    digest: world.digest,
    ok: !problems.length,
    problems,
    tasks: [...tasks].map(([task, steps]) => ({
      task,
      n: steps.length,
      steps: {
        least: Math.min(...steps),
        most: Math.max(...steps),
        mean: steps.reduce((a, b) => a + b, 0) / steps.length,
      },
    })),
    least,
    scores,
    n,
  };
}

/** One task: the same twice, keeps its secrets, has a plan, and only one end. */
function prove(
  env: WorldEnvironment,
  seed: number,
  problem: (text: string) => void,
  tasks: Map<string, number[]>,
  least: Report["least"],
): void {
  env.reset(seed);
  const first = env.hash();
  env.reset(seed);
  const { task } = env.inside;
  const name = `task '${task.type.name}', ${task.splits.names} seed ${seed}`;
  if (env.hash() !== first) problem(`${name}: two resets differ`);
  const leak = leaked(task);
  if (leak) problem(`${name}: the opening tells the hidden fact ${leak}`);
  const found = plan(task);
  if ("why" in found) {
    problem(`${name}: ${found.why}`);
    return;
  }
  if (found.ends > 1 && !task.type.open)
    problem(`${name}: ambiguous, the shortest plans lead to ${found.ends} end states`);
  if (seed < MINIMAL) {
    const minimal = isMinimal(task, found);
    if (minimal === false)
      problem(`${name}: words the user never said make a plan shorter than ${found.actions.length} steps`);
    least[minimal ? "proven" : "unknown"]++;
  }
  const steps = tasks.get(task.type.name) ?? [];
  steps.push(found.actions.length);
  tasks.set(task.type.name, steps);
}

/** A hidden value that stands in the opening though no known fact has it. */
function leaked(task: Task): string | undefined {
  const words = tokens(task.opening);
  for (const fact of Object.keys(task.type.hidden)) {
    for (const leaf of leaves(task.vars[fact] ?? null)) {
      const value = String(leaf);
      if (!task.known.includes(leaf) && value.length > 2 && words.includes(value.toLowerCase())) return fact;
    }
  }
  return undefined;
}

async function scoreAll(world: World, n: number): Promise<Score[]> {
  const scores: Score[] = [];
  const env = new WorldEnvironment(world);
  const run = async (player: Player, bar: string, holds: (rate: number) => boolean): Promise<void> => {
    let wins = 0;
    // Seeds apart from those that were proven, so that a table is not of the same episodes.
    for (let i = 0; i < n; i++) wins += (await play(env, hash32(`score ${i}`) >>> 1, player)).verdict.reward;
    scores.push({ player: player.name, success: wins / n, n, bar, ok: holds(wins / n) });
  };
  await run(oracle, "1", (rate) => rate === 1);
  await run(noisy(0.7), "between", (rate) => rate > CEILING && rate < 1);
  for (const exploit of exploits) await run(exploit, `≤ ${CEILING}`, (rate) => rate <= CEILING);
  return scores;
}

/** The report as a table for people. */
export function showReport(report: Report): string {
  const lines = [
    `${report.ok ? "ok" : "FAILED"}  ${report.world} ${report.version} (${report.digest.slice(0, 12)}), ${report.n} episodes a split`,
  ];
  for (const p of report.problems) lines.push(`  problem: ${p}`);
  for (const { task, n, steps } of report.tasks)
    lines.push(
      `  task ${task.padEnd(20)} ${String(n).padStart(5)} proven, ${steps.least}–${steps.most} steps, mean ${steps.mean.toFixed(1)}`,
    );
  lines.push(
    `  least steps proven over all arguments for ${report.least.proven} of ${report.least.proven + report.least.unknown} plans`,
  );
  for (const s of report.scores)
    lines.push(`  ${s.player.padEnd(25)} ${s.success.toFixed(3).padStart(6)}  ${s.bar}${s.ok ? "" : "  FAILED"}`);
  return lines.join("\n");
}
