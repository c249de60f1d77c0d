/** What the commands that train from a recipe share: their options, how a recipe is found, how a run ends. */
import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { ParseArgsOptionsConfig } from "node:util";
import { MassifError, nearest, Progress } from "../common/index.ts";
import { interruptible } from "./interrupt.ts";
import { recipesFolder } from "./paths.ts";

export const runOptions = {
  set: { type: "string", multiple: true, default: [] },
  run: { type: "string" },
  resume: { type: "boolean", default: false },
  json: { type: "boolean", default: false },
} satisfies ParseArgsOptionsConfig;

/** A recipe by its file, its folder, or its name in `recipes/`; `file` is what it is called in a folder. */
export const recipeFile = (name: string, file = "recipe.json"): string | undefined =>
  [name, join(name, file), join(recipesFolder(), name, file)].find(
    (path) => path.endsWith(".json") && existsSync(path),
  );

/** Throws `cli.recipe` where there is none. */
export function findRecipe(name: string): string {
  const found = recipeFile(name);
  if (found) return resolve(found);
  const known = readdirSync(recipesFolder());
  const like = nearest(name, known);
  throw new MassifError("cli.recipe", {
    found: `there is no recipe ${name}`,
    expected: `a file, a folder with recipe.json, or one of ${known.join(", ")}`,
    ...(like && { fix: `did you mean ${like}?` }),
  });
}

/** The only one of `names`. Throws `cli.usage` with `example` as what to type. */
export function oneRecipe(names: readonly string[], example: string): string {
  const [name, extra] = names;
  if (name && !extra) return name;
  throw new MassifError("cli.usage", {
    found: name ? `more than one recipe: ${names.join(" ")}` : "no recipe",
    fix: example,
  });
}

interface Work {
  dir: string;
  resume: boolean;
  progress: Progress;
  signal: AbortSignal;
}

/** Runs to the end or to Ctrl-C, and says where the results are and how to go on: with `command`, or as it was begun.
 *  Returns the exit code. */
export async function runRecipe(
  { name }: { name: string },
  values: { run?: string | undefined; resume: boolean; json: boolean },
  { shows = "the curves", command }: { shows?: string; command?: string },
  work: (options: Work) => Promise<{ finished: boolean }>,
): Promise<number> {
  const dir = values.run ?? join("runs", name);
  const progress = new Progress();
  const result = await interruptible((signal) => work({ dir, resume: values.resume, progress, signal }));
  if (values.json) console.log(JSON.stringify({ run: resolve(dir), ...result }));
  progress.print(`${dir}/report.html has ${shows}; ${dir}/report.md the same as text`);
  if (!result.finished)
    progress.print(`go on with${command ? `: ${command} --run ${dir}` : " the same command and"} --resume`);
  return result.finished ? 0 : 1;
}
