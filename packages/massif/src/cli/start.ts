import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { loadConfig, Progress } from "../common/index.ts";
import { pretrain, Recipe } from "../train/index.ts";
import { type Command, parse } from "./command.ts";
import { interruptible } from "./interrupt.ts";
import { findRecipe } from "./pretrain.ts";

export const start: Command = {
  summary: "the main job: text → tokenizer → a K2 model that learned it → samples and a report (npm start)",
  help: `massif start [--preset RECIPE] [--seed N] [--run DIR] [--set a.b=c …]

Runs the speedrun recipe (or another preset) and goes on where an earlier start was interrupted.
  --preset R   a recipe's name or file (default speedrun)
  --seed N     another seed, in a run folder of its own
  --run DIR    the run folder (default runs/PRESET, or runs/PRESET-seed-N)
  --set a.b=c  change a key of the recipe

Example:
  npm start -- --seed 2`,
  async run(args) {
    const { values } = parse(
      args,
      {
        preset: { type: "string", default: "speedrun" },
        seed: { type: "string" },
        run: { type: "string" },
        set: { type: "string", multiple: true, default: [] },
      },
      false,
    );
    const file = findRecipe(values.preset);
    const recipe = loadConfig(Recipe, file, [
      ...values.set,
      ...(values.seed === undefined ? [] : [`seed=${values.seed}`]),
    ]);
    const dir =
      values.run ?? join("runs", values.seed === undefined ? recipe.name : `${recipe.name}-seed-${values.seed}`);
    const progress = new Progress();
    progress.print(recipe.description);
    if (existsSync(join(dir, "report.html")))
      progress.print(`${dir} is there already; this goes on with it (remove the folder to begin again)`);
    const base = dirname(file);
    const { finished } = await interruptible((signal) =>
      pretrain(recipe, { base, dir, resume: "auto", progress, signal }),
    );
    progress.print(
      finished
        ? `
Done. What there is now:
  ${dir}/report.html   curves, expert load, samples (report.md: the same as text)
  ${dir}/checkpoints   the model, in Hugging Face layout
Next:
  node_modules/.bin/massif generate --model ${dir} --prompt "My fellow citizens, "
  node_modules/.bin/massif pretrain base        a larger model, about an hour
  npm test                                      the proofs`
        : "\nStopped. npm start goes on from here.",
    );
    return finished ? 0 : 1;
  },
};
