/** The whole main job: text and worlds in, an agent that calls tools out, and what became of it at every stage. */
import { statSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { finetune, successOf } from "../agent/index.ts";
import { duration, MassifError, type Progress } from "../common/index.ts";
import { loadModel } from "../model/index.ts";
import { gym } from "../rl/index.ts";
import { loadTokenizer } from "../tokenizer/index.ts";
import { Checkpoints, freshModel, pretrain } from "../train/index.ts";
import { type Evaluated, evaluateOnce, type ModelName } from "./evaluation.ts";
import type { Stage, Story } from "./recipe.ts";
import { writeStoryReport } from "./report.ts";
import { writeWorldText } from "./world-text.ts";

export interface StoryOptions {
  /** The story's folder; the run folder of each stage stands in it under the stage's name. */
  dir: string;
  stages: readonly Stage[];
  progress: Progress;
  /** Aborted: a checkpoint is written and the story ends early; the same call goes on. */
  signal?: AbortSignal;
}

/** Runs the stages that are not done yet, compares the models, writes the report. Returns whether it came to its end. */
export async function tellStory(story: Story, options: StoryOptions): Promise<boolean> {
  const { stages, progress, signal } = options;
  // Recipes read relative paths from their own folders.
  const dir = resolve(options.dir);
  const common = { resume: "auto" as const, progress, ...(signal && { signal }) };
  const at = (stage: Stage) => ({ ...common, dir: join(dir, stage), base: story[stage].base });
  const run: Record<Stage, () => Promise<{ finished: boolean }>> = {
    pretrain: async () => pretrain(await withWorldText(story, dir), at("pretrain")),
    sft: () => finetune({ ...story.sft.recipe, model: modelOf(dir, "pretrain") }, at("sft")),
    rl: () => gym({ ...story.rl.recipe, model: modelOf(dir, "sft") }, at("rl")),
  };
  for (const stage of stages) {
    const { finished } = await run[stage]();
    await compare(story, stage, { ...options, dir });
    writeStoryReport(story, dir);
    if (!finished) return false;
  }
  return true;
}

/** The recipe of pre-training with the text of worlds mixed in, where the story has any. */
async function withWorldText(
  { pretrain, worldText, sft, seed }: Story,
  dir: string,
): Promise<Story["pretrain"]["recipe"]> {
  const { share, ...shown } = worldText;
  if (!shown.worlds.length) return pretrain.recipe;
  const file = join(dir, "world-text.jsonl");
  await writeWorldText(file, shown, { template: sft.recipe.template, seed });
  // Relative to the recipe, as the run's config keeps it: the folder may move.
  return {
    ...pretrain.recipe,
    mix: { data: { sources: [relative(pretrain.base, file)], clean: pretrain.recipe.data.clean }, share },
  };
}

/** The last checkpoint of a stage. Throws `story.stage` where there is none. */
function modelOf(dir: string, stage: Stage): string {
  const latest = new Checkpoints(join(dir, stage, "checkpoints")).latest();
  if (latest) return latest.dir;
  throw new MassifError("story.stage", {
    found: `no checkpoint in ${join(dir, stage)}`,
    fix: `run that stage first: --stages ${stage}`,
  });
}

const NAMES: Record<Stage, ModelName> = { pretrain: "pre-trained", sft: "SFT", rl: "RL" };

/** What a stage made, on the tasks of the story; before the first of them, untrained weights. */
async function compare(story: Story, stage: Stage, { dir, progress, signal }: StoryOptions): Promise<void> {
  if (!story.evaluation.tasks.length || signal?.aborted) return;
  const from = modelOf(dir, stage);
  const tokenizer = await loadTokenizer(from);
  const recipe = story.pretrain.recipe;
  const fresh = { model: "untrained" as const, from: `seed ${recipe.seed}`, open: () => freshModel(recipe, tokenizer) };
  const own = {
    model: NAMES[stage],
    from: `${relative(dir, from)}, ${statSync(from).mtime.toISOString()}`,
    open: () => loadModel(from, { device: recipe.device, dtype: "float32" }),
  };
  for (const one of stage === "pretrain" ? [fresh, own] : [own]) {
    const began = performance.now();
    const { scores } = await evaluateOnce(story, one, { dir, tokenizer, template: story.sft.recipe.template });
    progress.print(`${one.model}, tasks done: ${said(scores)} (${duration((performance.now() - began) / 1000)})`);
  }
}

const said = (scores: Evaluated["scores"]): string =>
  scores.map((score) => `${score.world} ${successOf(score).value.toFixed(3)}`).join(", ");
