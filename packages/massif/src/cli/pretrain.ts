import { dirname } from "node:path";
import { describeConfig, loadConfig } from "../common/index.ts";
import { Recipe, pretrain as run } from "../train/index.ts";
import { type Command, parse } from "./command.ts";
import { findRecipe, oneRecipe, runOptions, runRecipe } from "./recipe.ts";

export const pretrain: Command = {
  summary: "train a model on text, from a recipe",
  get help() {
    return `massif pretrain RECIPE [--set a.b=c …] [--run DIR] [--resume] [--json]

RECIPE is a file, a folder with recipe.json, or a name in recipes/ (tiny, speedrun, base, h100).
  --set a.b=c   change a key of the recipe; may be given several times
  --run DIR     the run folder (default runs/NAME)
  --resume      go on from the last checkpoint in it
  --json        print the result as one JSON object
Ctrl-C writes a checkpoint first.

Example:
  massif pretrain tiny --run /tmp/tiny --set steps=60

Keys of a recipe:
${describeConfig(Recipe)}`;
  },
  async run(args) {
    const { values, positionals } = parse(args, runOptions);
    const name = oneRecipe(positionals, "massif pretrain tiny");
    const file = findRecipe(name);
    const recipe = loadConfig(Recipe, file, values.set);
    return runRecipe(recipe, values, { command: `massif pretrain ${name}` }, (work) =>
      run(recipe, { ...work, base: dirname(file) }),
    );
  },
};
