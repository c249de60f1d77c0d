import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { loadConfig, MassifError, nearest, Progress } from "../common/index.ts";
import { pretrain, Recipe } from "../train/index.ts";
import { type Command, parse } from "./command.ts";
import { interruptible } from "./interrupt.ts";
import { modelFolder, recipesFolder } from "./paths.ts";
import { findRecipe } from "./recipe.ts";

const STAGES = ["pretrain", "sft", "rl"] as const;
type Stage = (typeof STAGES)[number];

interface StageOptions {
  seed: string | undefined;
  sets: string[];
  dir: string;
  /** The run folder of the stage before. */
  before: string;
  progress: Progress;
  signal: AbortSignal;
}

/** What each stage runs; every stage goes on where it was interrupted. */
const run: Record<Stage, (preset: string, options: StageOptions) => Promise<{ finished: boolean }>> = {
  async pretrain(preset, { seed, sets, dir, progress, signal }) {
    const file = findRecipe(preset);
    const recipe = loadConfig(Recipe, file, [...sets, ...seedSet(seed)]);
    progress.print(recipe.description);
    return pretrain(recipe, { base: dirname(file), dir, resume: "auto", progress, signal });
  },
  async sft(_preset, { seed, dir, before, progress, signal }) {
    const { FinetuneRecipe, finetune } = await import("../agent/index.ts");
    const file = join(recipesFolder(), "speedrun/sft.json");
    const recipe = loadConfig(FinetuneRecipe, file, [modelSet(before), ...seedSet(seed)]);
    return finetune(recipe, { base: dirname(file), dir, resume: "auto", progress, signal });
  },
  async rl(_preset, { seed, dir, before, progress, signal }) {
    const { gym, RlRecipe } = await import("../rl/index.ts");
    const file = findRecipe("rl-ledger");
    const recipe = loadConfig(RlRecipe, file, [modelSet(before), ...seedSet(seed)]);
    return gym(recipe, { base: dirname(file), dir, resume: "auto", progress, signal });
  },
};

const seedSet = (seed: string | undefined) => (seed === undefined ? [] : [`seed=${seed}`]);
const modelSet = (folder: string) => `model=${JSON.stringify(resolve(modelFolder(folder)))}`;

function readStages(text: string): Stage[] {
  const names = text === "all" ? [...STAGES] : text.split(",");
  for (const name of names) {
    if (STAGES.some((stage) => stage === name)) continue;
    const like = nearest(name, STAGES);
    throw new MassifError("cli.usage", {
      found: `there is no stage ${name}`,
      expected: `all, or some of ${STAGES.join(",")}`,
      ...(like && { fix: `did you mean ${like}?` }),
    });
  }
  return STAGES.filter((stage) => names.includes(stage));
}

export const start: Command = {
  summary: "the main job: text, tokenizer, a K2 model that learned it, samples and a report (npm start)",
  help: `massif start [--stages S] [--preset RECIPE] [--seed N] [--run DIR] [--set a.b=c …]

Runs the speedrun recipe (or another preset) and goes on where an earlier start was interrupted.
  --stages S   all, or some of pretrain,sft,rl (default pretrain): SFT on demonstrations of worlds, then reinforcement
               learning on the ledger, each in a run folder of its own beside the first
  --preset R   a pre-training recipe's name or file (default speedrun)
  --seed N     another seed, in run folders of its own
  --run DIR    the run folder (default runs/PRESET, or runs/PRESET-seed-N; stages after it add -sft and -rl)
  --set a.b=c  change a key of the pre-training recipe

Example:
  npm start -- --seed 2 --stages all`,
  async run(args) {
    const { values } = parse(
      args,
      {
        stages: { type: "string", default: "pretrain" },
        preset: { type: "string", default: "speedrun" },
        seed: { type: "string" },
        run: { type: "string" },
        set: { type: "string", multiple: true, default: [] },
      },
      false,
    );
    const { preset, seed, set: sets } = values;
    const stages = readStages(values.stages);
    const name = loadConfig(Recipe, findRecipe(preset), sets).name;
    const first = values.run ?? join("runs", seed === undefined ? name : `${name}-seed-${seed}`);
    const folder = (stage: Stage) => (stage === "pretrain" ? first : `${first}-${stage}`);
    const progress = new Progress();

    const finished = await interruptible(async (signal) => {
      for (const stage of stages) {
        const dir = folder(stage);
        if (existsSync(join(dir, "report.html")))
          progress.print(`${dir} is there already; this goes on with it (remove the folder to begin again)`);
        const before = stage === "rl" && existsSync(folder("sft")) ? folder("sft") : first;
        const result = await run[stage](preset, { seed, sets, dir, before, progress, signal });
        if (!result.finished) return false;
      }
      return true;
    });
    progress.print(finished ? ending(stages.map(folder)) : "\nStopped. The same command goes on from here.");
    return finished ? 0 : 1;
  },
};

const ending = (folders: string[]) => `
Done. What there is now:
${folders.map((dir) => `  ${dir}/report.html`).join("\n")}   curves and samples (report.md: the same as text)
  ${folders.at(-1)}/checkpoints   the model, in Hugging Face layout
Next:
  node_modules/.bin/massif generate --model ${folders[0]} --prompt "My fellow citizens,"
  node_modules/.bin/massif serve --model ${folders.at(-1)}    OpenAI and Anthropic APIs, and a chat page
  npm start -- --stages all                     then SFT and reinforcement learning on worlds
  npm test                                      the proofs`;
