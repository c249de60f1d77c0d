import { dirname, resolve } from "node:path";
import { describeConfig, loadConfig } from "../common/index.ts";
import { gym, RlRecipe } from "../rl/index.ts";
import { type Command, parse } from "./command.ts";
import { modelFolder } from "./paths.ts";
import { findRecipe, oneRecipe, runOptions, runRecipe } from "./recipe.ts";

export const rl: Command = {
  summary: "reinforcement learning in worlds, from a recipe",
  get help() {
    return `massif rl RECIPE [--model DIR] [--set a.b=c …] [--run DIR] [--resume] [--json]

RECIPE is a file, a folder with recipe.json, or a name in recipes/ (rl-ledger).
  --model DIR   the checkpoint to begin with, or a run folder (its last checkpoint)
  --rollouts URL  play on an engine outside, which takes the weights after every step: massif serve --weights-root DIR,
                  or vLLM with VLLM_SERVER_DEV_MODE=1 (its CPU build: src/rl/testing-vllm.ts has the flags)
  --set a.b=c   change a key of the recipe; may be given several times
  --run DIR     the run folder (default runs/NAME)
  --resume      go on from the last checkpoint in it
  --json        print the result as one JSON object
Ctrl-C writes a checkpoint first.

Example:
  massif rl rl-ledger --model runs/sft-ledger --set steps=20

Keys of a recipe:
${describeConfig(RlRecipe)}`;
  },
  async run(args) {
    const { values, positionals } = parse(args, {
      ...runOptions,
      model: { type: "string" },
      rollouts: { type: "string" },
    });
    const name = oneRecipe(positionals, "massif rl rl-ledger");
    const file = findRecipe(name);
    const base = dirname(file);
    const model = values.model === undefined ? [] : [`model=${JSON.stringify(resolve(values.model))}`];
    const url = values.rollouts;
    const rollouts = url === undefined ? [] : [`rollouts=${JSON.stringify({ url })}`];
    const loaded = loadConfig(RlRecipe, file, [...model, ...rollouts, ...values.set]);
    const folder = (path: string) => resolve(modelFolder(resolve(base, path)));
    const baselines = Object.entries(loaded.evaluation.baselines).map(([name, path]) => [name, folder(path)]);
    const recipe: RlRecipe = {
      ...loaded,
      model: folder(loaded.model),
      evaluation: { ...loaded.evaluation, baselines: Object.fromEntries(baselines) },
    };
    return runRecipe(recipe, values, { command: `massif rl ${name}` }, (work) => gym(recipe, { ...work, base }));
  },
};
