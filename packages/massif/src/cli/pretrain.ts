import { existsSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { describeConfig, loadConfig, MassifError, nearest, Progress } from "../common/index.ts";
import { Recipe, pretrain as run } from "../train/index.ts";
import { type Command, parse } from "./command.ts";
import { interruptible } from "./interrupt.ts";
import { recipesFolder } from "./paths.ts";

/** A recipe by its file, its folder, or its name in `recipes/`. */
export function findRecipe(name: string): string {
  const tried = [name, join(name, "recipe.json"), join(recipesFolder(), name, "recipe.json")];
  const found = tried.find((path) => path.endsWith(".json") && existsSync(path));
  if (found) return resolve(found);
  const known = readdirSync(recipesFolder());
  const like = nearest(name, known);
  throw new MassifError("cli.recipe", {
    found: `there is no recipe ${name}`,
    expected: `a file, a folder with recipe.json, or one of ${known.join(", ")}`,
    ...(like && { fix: `did you mean ${like}?` }),
  });
}

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
    const { values, positionals } = parse(args, {
      set: { type: "string", multiple: true, default: [] },
      run: { type: "string" },
      resume: { type: "boolean", default: false },
      json: { type: "boolean", default: false },
    });
    const [name, extra] = positionals;
    if (!name || extra)
      throw new MassifError("cli.usage", {
        found: name ? `more than one recipe: ${positionals.join(" ")}` : "no recipe",
        fix: "massif pretrain tiny",
      });
    const file = findRecipe(name);
    const recipe = loadConfig(Recipe, file, values.set);
    const dir = values.run ?? join("runs", recipe.name);
    const progress = new Progress();
    const result = await interruptible((signal) =>
      run(recipe, { base: dirname(file), dir, resume: values.resume, progress, signal }),
    );
    if (values.json) console.log(JSON.stringify({ run: resolve(dir), ...result }));
    progress.print(`${dir}/report.html has the curves; ${dir}/report.md the same as text`);
    if (!result.finished) progress.print(`go on with: massif pretrain ${name} --run ${dir} --resume`);
    return result.finished ? 0 : 1;
  },
};
