/** `massif sft`: fine-tunes a checkpoint on conversations, trajectories, and demonstrations of worlds. */
import { dirname, resolve } from "node:path";
import { FinetuneRecipe, finetune } from "../agent/index.ts";
import { describeConfig, loadConfig, MassifError } from "../common/index.ts";
import { type Command, parse } from "./command.ts";
import { modelFolder } from "./paths.ts";
import { recipeFile, runOptions, runRecipe } from "./recipe.ts";

export const sft: Command = {
  summary: "fine-tune a model on conversations, trajectories and demonstrations of worlds",
  get help() {
    return `massif sft [RECIPE] --model DIR [DATA…] [options]

RECIPE is a .json file, a folder with sft.json, or a name in recipes/; without one every key has its default. DATA are JSONL files of
trajectories (massif.trajectory/1) or of conversations in OpenAI's shape ({ messages, tools }).
  --model DIR           a checkpoint, or a run folder (its last checkpoint)
  --worlds A,B          demonstrate and evaluate in these worlds (shipped names or files)
  --demonstrations N    so many demonstrations (default 2000)
  --noise X             share of them in which the oracle errs (default 0)
  --only-successes      learn no demonstration that fails
  --rounds N            then N rounds of rejection sampling from the model itself
  --set a.b=c           change a key of the recipe; may be given several times
  --run DIR             the run folder (default runs/NAME)
  --resume              go on from the last checkpoint in it
  --json                print the result as one JSON object
Ctrl-C writes a checkpoint first.

Example:
  massif sft --model runs/speedrun --worlds ledger --demonstrations 4000 --run runs/ledger

Keys of a recipe:
${describeConfig(FinetuneRecipe)}`;
  },
  async run(args) {
    const { values, positionals } = parse(args, {
      ...runOptions,
      model: { type: "string" },
      worlds: { type: "string" },
      demonstrations: { type: "string" },
      noise: { type: "string" },
      "only-successes": { type: "boolean", default: false },
      rounds: { type: "string" },
    });
    const recipeOf = (name: string) => recipeFile(name, "sft.json");
    const [named, ...others] = positionals.filter(recipeOf);
    if (others.length)
      throw new MassifError("cli.usage", { found: `more than one recipe: ${named} ${others.join(" ")}` });
    const file = named && resolve(recipeOf(named)!);
    const data = positionals.filter((name) => !recipeOf(name)).map((path) => resolve(path));
    const worlds = JSON.stringify(values.worlds?.split(","));
    const sets = [
      ...(values.model === undefined ? [] : [`model=${JSON.stringify(resolve(modelFolder(values.model)))}`]),
      ...(data.length ? [`data=${JSON.stringify(data)}`] : []),
      ...(values.worlds === undefined ? [] : [`demonstrations.worlds=${worlds}`, `rollouts.worlds=${worlds}`]),
      ...(values.demonstrations === undefined ? [] : [`demonstrations.count=${values.demonstrations}`]),
      ...(values.noise === undefined ? [] : [`demonstrations.noise=${values.noise}`]),
      ...(values["only-successes"] ? ["minReward=1"] : []),
      ...(values.rounds === undefined ? [] : [`rounds.count=${values.rounds}`]),
      ...values.set,
    ];
    const recipe = loadConfig(FinetuneRecipe, file ?? {}, sets);
    const base = file ? dirname(file) : process.cwd();
    return runRecipe(recipe, values, { shows: "the curves and transcripts" }, (work) =>
      finetune(recipe, { ...work, base }),
    );
  },
};
