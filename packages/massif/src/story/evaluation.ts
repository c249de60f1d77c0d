/** The models that a story makes, on the same tasks: untrained, pre-trained, after SFT, after RL. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { RolloutConfig, rollOut, type Score, withPlayer } from "../agent/index.ts";
import type { TemplateName, Trajectory } from "../chat/index.ts";
import { writeJsonl } from "../common/index.ts";
import type { Model } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { readRows, writeWhole } from "../train/index.ts";
import type { Story } from "./recipe.ts";

/** One model's scores, a score a task of the recipe. */
export interface Evaluated {
  model: ModelName;
  /** What was evaluated: a checkpoint's folder and when it was written, or the seed of untrained weights. */
  from: string;
  scores: Score[];
}

/** Episodes of each task that are kept to be read. */
const KEPT = 64;

const fileOf = (dir: string) => join(dir, "evaluation.json");
const episodesOf = (dir: string, model: string) => join(dir, `evaluation/${model}.jsonl`);

export const readEvaluated = (dir: string): Evaluated[] =>
  existsSync(fileOf(dir)) ? (JSON.parse(readFileSync(fileOf(dir), "utf8")) as Evaluated[]) : [];

/** The episodes that were kept of a model: the same tasks in the same order for every model. */
export const readEpisodes = (dir: string, model: string): Trajectory[] =>
  existsSync(episodesOf(dir, model)) ? (readRows(episodesOf(dir, model)) as unknown as Trajectory[]) : [];

/** The models of a story, in the order in which they come to be. */
export const MODELS = ["untrained", "pre-trained", "SFT", "RL"] as const;
export type ModelName = (typeof MODELS)[number];

/** Evaluates a model, unless the story's folder `dir` has it; `open` is called only then, and what it opens is freed.
 *  What was known of models that come after it is of others by then. */
export async function evaluateOnce(
  { evaluation, seed }: Pick<Story, "evaluation" | "seed">,
  one: { model: ModelName; from: string; open: () => Model },
  { dir, tokenizer, template }: { dir: string; tokenizer: Tokenizer; template: TemplateName },
): Promise<Evaluated> {
  const known = readEvaluated(dir);
  const found = known.find(({ model, from }) => model === one.model && from === one.from);
  if (found) return found;
  const { tasks, ...limits } = evaluation;
  const weights = one.open();
  const scores: Score[] = [];
  const kept: Trajectory[] = [];
  try {
    await withPlayer(weights, tokenizer, { template, concurrency: 256 }, async (player) => {
      for (const { world, split } of tasks) {
        const config = RolloutConfig.parse({ ...limits, worlds: [world], split });
        const played = await rollOut(player, config, { seed, purpose: "story" }, { tokenizer, template });
        scores.push(...played.scores);
        kept.push(...played.trajectories.slice(0, KEPT));
      }
    });
  } finally {
    weights.dispose();
  }
  const evaluated = { model: one.model, from: one.from, scores };
  mkdirSync(join(dir, "evaluation"), { recursive: true });
  await writeJsonl(episodesOf(dir, one.model), kept);
  const before = MODELS.slice(0, MODELS.indexOf(one.model));
  writeWhole(fileOf(dir), JSON.stringify([...known.filter(({ model }) => before.includes(model)), evaluated]));
  return evaluated;
}
