/** SFT with worlds: demonstrations by oracles, evaluation by rolling out, rejection sampling from the model itself. */
import { existsSync, mkdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { Trajectory } from "../chat/index.ts";
import { count, MassifError, type Progress, writeJsonl } from "../common/index.ts";
import { loadModel, type Model } from "../model/index.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import { Checkpoints, SftRecipe, type SftResult, sft } from "../train/index.ts";
import { DemonstrationConfig, demonstrate } from "./demonstrations.ts";
import { rolloutSections } from "./report.ts";
import { RolloutConfig, rollOut, type Score, successOf, withPlayer } from "./rollouts.ts";

export const FinetuneRecipe = SftRecipe.extend({
  demonstrations: DemonstrationConfig.prefault({}).describe("What oracles show; no worlds, no demonstrations"),
  rollouts: RolloutConfig.prefault({}).describe("Evaluation in worlds; no worlds, no evaluation"),
  rounds: z
    .strictObject({
      count: z.int().min(0).default(0).describe("Rounds of rejection sampling after the first fine-tuning"),
      rollouts: RolloutConfig.extend({
        split: z.string().default("train"),
        episodes: z.int().min(1).default(512).describe("Of each world, in a round"),
      }).prefault({}),
    })
    .prefault({})
    .describe("The model's own episodes that succeed are learned with the rest, from the round's model on"),
});
export type FinetuneRecipe = z.output<typeof FinetuneRecipe>;

export interface FinetuneOptions {
  base: string;
  dir: string;
  resume?: boolean | "auto";
  progress: Progress;
  signal?: AbortSignal;
}

/** The run in `dir`, and those of the rounds in `dir/rounds/N`. Returns the result of the last. Throws what `sft` throws. */
export async function finetune(recipe: FinetuneRecipe, options: FinetuneOptions): Promise<SftResult> {
  const { demonstrations, rollouts, rounds, ...plain } = recipe;
  const { dir, progress, signal, base } = options;
  const shown = async () => {
    if (!demonstrations.worlds.length) return [];
    const file = join(dir, "data/demonstrations.jsonl");
    await make(file, () => demonstrate(demonstrations, plain.seed), "demonstrations", progress);
    return [file];
  };
  const files: string[] = [];
  const one = (dir: string, model: string, resume: boolean | "auto", more: () => Promise<string[]>) =>
    sft(
      { ...plain, model },
      {
        config: { ...recipe, model },
        base,
        dir,
        resume,
        progress,
        ...(signal && { signal }),
        more: async () => {
          files.push(...(await more()));
          return files;
        },
        ...(rollouts.worlds.length && {
          evaluate: (model, tokenizer, step) => evaluate(model, tokenizer, step, recipe, dir),
          facts: ({ worlds }) => (worlds as Score[] | undefined)?.map(showScore) ?? [],
          sections: () => rolloutSections(dir),
        }),
      },
    );

  let result = await one(dir, plain.model, options.resume ?? false, shown);
  for (let round = 1; round <= rounds.count && result.finished; round++) {
    const before = round === 1 ? dir : join(dir, `rounds/${round - 1}`);
    const at = join(dir, `rounds/${round}`);
    const model = new Checkpoints(join(before, "checkpoints")).latest()!.dir;
    progress.print(`round ${round} of ${rounds.count}`);
    result = await one(at, model, "auto", async () => {
      const file = join(at, "data/own.jsonl");
      await make(file, () => ownSuccesses(model, recipe, round, signal), "own episodes that succeed", progress);
      return [file];
    });
  }
  return result;
}

/** A file of rows that is there whole, or is made. */
async function make(
  file: string,
  rows: () => AsyncIterable<Trajectory>,
  what: string,
  progress: Progress,
): Promise<void> {
  if (existsSync(file)) return;
  mkdirSync(join(file, ".."), { recursive: true });
  using stage = progress.stage(what);
  const rewards: number[] = [];
  async function* counted() {
    for await (const row of rows()) {
      rewards.push(row.reward?.total ?? 0);
      stage.update(rewards.length);
      yield row;
    }
  }
  await writeJsonl(`${file}.partial`, counted());
  renameSync(`${file}.partial`, file);
  const good = rewards.filter((reward) => reward >= 1).length;
  stage.done(`${count(rewards.length)} episodes, ${((100 * good) / Math.max(1, rewards.length)).toFixed(0)} % succeed`);
}

async function evaluate(
  model: Model,
  tokenizer: Tokenizer,
  step: number,
  recipe: FinetuneRecipe,
  dir: string,
): Promise<Record<string, unknown>> {
  const { rollouts, template, seed } = recipe;
  const { scores, trajectories } = await withPlayer(model, tokenizer, { template, ...rollouts }, (player) =>
    rollOut(player, rollouts, { seed }, { tokenizer, template }),
  );
  // Some of each world, to be read by people.
  const kept = trajectories.filter((_, i) => i % rollouts.episodes < 12);
  mkdirSync(join(dir, "rollouts"), { recursive: true });
  await writeJsonl(join(dir, `rollouts/step-${step}.jsonl`), kept);
  const [wins, n] = scores.reduce(([w, n], score) => [w + score.wins, n + score.n], [0, 0]);
  return { evalSuccess: wins / n, worlds: scores };
}

async function* ownSuccesses(
  folder: string,
  recipe: FinetuneRecipe,
  round: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Trajectory> {
  const { rounds, rollouts, demonstrations, template, seed, device } = recipe;
  const named = rounds.rollouts.worlds.length ? rounds.rollouts.worlds : rollouts.worlds;
  const worlds = named.length ? named : demonstrations.worlds;
  if (!worlds.length)
    throw new MassifError("sft.rounds", {
      found: "rounds of rejection sampling without worlds",
      fix: "name them: rounds.rollouts.worlds",
    });
  const tokenizer = await loadTokenizer(folder);
  const model = loadModel(folder, { device });
  try {
    const options = { tokenizer, template, ...(signal && { signal }) };
    const { trajectories } = await withPlayer(model, tokenizer, { template, ...rounds.rollouts }, (player) =>
      rollOut(player, { ...rounds.rollouts, worlds }, { seed, purpose: `round ${round}` }, options),
    );
    yield* trajectories.filter(({ reward }) => (reward?.total ?? 0) >= 1);
  } finally {
    model.dispose();
  }
}

const showScore = (score: Score): string => `${score.world} ${successOf(score).value.toFixed(3)}`;
