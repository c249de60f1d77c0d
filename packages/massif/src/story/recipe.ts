/** The recipe of the whole main job: which recipes its stages run, what of the worlds goes into the text, and how the
 *  models that come out are compared. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import { DemonstrationConfig, FinetuneRecipe, RolloutConfig, splitOf } from "../agent/index.ts";
import { loadConfig, MassifError, nearest } from "../common/index.ts";
import { RlRecipe } from "../rl/index.ts";
import { Recipe } from "../train/index.ts";
import { openEnvironment } from "../worlds/index.ts";

export const StoryRecipe = z.strictObject({
  worldText: DemonstrationConfig.extend({
    share: z.number().gt(0).lt(1).default(0.15).describe("Of the rows of pre-training"),
  })
    .prefault({})
    .describe("Conversations of worlds, as text without control tokens, learned beside the main text"),
  evaluation: z
    .strictObject({
      tasks: z
        .array(
          z.strictObject({
            world: z.string(),
            split: z.string().default("train").describe("train, heldout, or names=…,wordings=…,pairs=…"),
            title: z.string().describe("What is unseen in it, for people"),
          }),
        )
        .default([]),
      episodes: z.int().min(1).default(256).describe("Of each task, for each model"),
      maxSteps: RolloutConfig.shape.maxSteps,
      maxTokens: RolloutConfig.shape.maxTokens,
    })
    .prefault({}),
});

export const STAGES = ["pretrain", "sft", "rl"] as const;
export type Stage = (typeof STAGES)[number];

/** All recipes of a story, as resolved, each with the folder that its relative paths start from. */
export interface Story extends z.output<typeof StoryRecipe> {
  pretrain: { recipe: Recipe; base: string };
  sft: { recipe: FinetuneRecipe; base: string };
  rl: { recipe: RlRecipe; base: string };
  seed: number;
}

/** The model that a stage begins with is that of the stage before: its path is set as the story runs. */
const LATER = 'model=""';

/**
 * The story that begins with the pre-training recipe `file`: `story.json`, `sft.json` and `rl.json` beside it, or those of
 * the folder `usual`. Changes are `STAGE.key=value`, `worldText.…` or `evaluation.…`. Throws what loading throws, and
 * `story.set`.
 */
export function loadStory(
  file: string,
  { usual, sets = [], seed }: { usual: string; sets?: readonly string[]; seed?: number | undefined },
): Story {
  const folder = existsSync(join(dirname(file), "story.json")) ? dirname(file) : usual;
  const parts = new Map<string, string[]>([...STAGES, "worldText", "evaluation"].map((name) => [name, []]));
  for (const set of sets) {
    const name = set.split(/[.=]/)[0]!;
    const part = parts.get(name);
    if (!part) throw unknown(set, nearest(name, [...parts.keys()]));
    part.push(STAGES.some((stage) => stage === name) ? set.slice(name.length + 1) : set);
  }
  const of = (name: string) => [...parts.get(name)!, ...(seed === undefined ? [] : [`seed=${seed}`])];
  const own = [...parts.get("worldText")!, ...parts.get("evaluation")!];
  const pretrain = loadConfig(Recipe, file, of("pretrain"));
  const config = loadConfig(StoryRecipe, join(folder, "story.json"), own);
  // A wrong name is found now, not after minutes of training.
  for (const { world, split } of config.evaluation.tasks) openEnvironment(world, splitOf(split));
  return {
    ...config,
    pretrain: { recipe: pretrain, base: dirname(file) },
    sft: { recipe: loadConfig(FinetuneRecipe, join(folder, "sft.json"), [LATER, ...of("sft")]), base: folder },
    rl: { recipe: loadConfig(RlRecipe, join(folder, "rl.json"), [LATER, ...of("rl")]), base: folder },
    seed: pretrain.seed,
  };
}

function unknown(set: string, like: string | undefined): MassifError {
  return new MassifError("story.set", {
    found: set,
    expected: `a key that begins with ${STAGES.join(", ")}, worldText or evaluation`,
    fix: like ? `did you mean ${like}?` : `of pre-training: pretrain.${set}`,
  });
}
