import { dirname, join, resolve } from "node:path";
import { describeConfig, loadConfig, MassifError, Progress } from "../common/index.ts";
import { gym, RlRecipe } from "../rl/index.ts";
import { type Command, parse } from "./command.ts";
import { interruptible } from "./interrupt.ts";
import { modelFolder } from "./paths.ts";
import { findRecipe } from "./pretrain.ts";

export const rl: Command = {
  summary: "reinforcement learning in worlds, from a recipe",
  get help() {
    return `massif rl RECIPE [--model DIR] [--set a.b=c …] [--run DIR] [--resume] [--json]

RECIPE is a file, a folder with recipe.json, or a name in recipes/ (rl-ledger).
  --model DIR   the checkpoint to begin with, or a run folder (its last checkpoint)
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
      model: { type: "string" },
      set: { type: "string", multiple: true, default: [] },
      run: { type: "string" },
      resume: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
    });
    const [name, extra] = positionals;
    if (!name || extra)
      throw new MassifError("cli.usage", {
        found: name ? `more than one recipe: ${positionals.join(" ")}` : "no recipe",
        fix: "massif rl rl-ledger",
      });
    const file = findRecipe(name);
    const base = dirname(file);
    const model = values.model === undefined ? [] : [`model=${JSON.stringify(resolve(values.model))}`];
    const loaded = loadConfig(RlRecipe, file, [...model, ...values.set]);
    const folder = (path: string) => resolve(modelFolder(resolve(base, path)));
    const baselines = Object.entries(loaded.evaluation.baselines).map(([name, path]) => [name, folder(path)]);
    const recipe: RlRecipe = {
      ...loaded,
      model: folder(loaded.model),
      evaluation: { ...loaded.evaluation, baselines: Object.fromEntries(baselines) },
    };
    const dir = values.run ?? join("runs", recipe.name);
    const progress = new Progress();
    const result = await interruptible((signal) => gym(recipe, { base, dir, resume: values.resume, progress, signal }));
    if (values.json) console.log(JSON.stringify({ run: resolve(dir), ...result }));
    progress.print(`${dir}/report.html has the curves; ${dir}/report.md the same as text`);
    if (!result.finished) progress.print(`go on with: massif rl ${name} --run ${dir} --resume`);
    return result.finished ? 0 : 1;
  },
};
