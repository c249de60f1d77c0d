import { spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { MassifError, nearest, Progress } from "../common/index.ts";
import { loadStory, STAGES, type Stage, tellStory } from "../story/index.ts";
import { type Command, parse } from "./command.ts";
import { interruptible } from "./interrupt.ts";
import { recipesFolder } from "./paths.ts";
import { findRecipe } from "./recipe.ts";

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
  summary: "the main job: from raw text to a model that calls tools, with a report of every stage (npm start)",
  help: `massif start [--stages S] [--preset RECIPE] [--seed N] [--no-serve] [--run DIR] [--set STAGE.a.b=c …]

Pre-training on real text mixed with text of worlds, SFT on demonstrations that are half wrong, reinforcement learning,
and at every stage an evaluation on tasks never seen. Goes on where an earlier start was interrupted. At its end, in a
terminal, it serves the model with a page where you play the user of a world.
  --stages S   all (default), or some of pretrain,sft,rl
  --preset R   a pre-training recipe's name or file (default speedrun); story.json, sft.json and rl.json beside it, if
               they are there, are the other stages
  --seed N     another seed, in a folder of its own
  --no-serve   end after the report
  --run DIR    the folder (default runs/PRESET, or runs/PRESET-seed-N), with a run folder for each stage in it
  --set a.b=c  change a key of a stage (pretrain.steps=600, sft.epochs=2, rl.steps=20), of worldText or evaluation

Example:
  npm start -- --seed 2 --stages pretrain`,
  async run(args) {
    const { values } = parse(
      args,
      {
        stages: { type: "string", default: "all" },
        preset: { type: "string", default: "speedrun" },
        seed: { type: "string" },
        "no-serve": { type: "boolean", default: false },
        run: { type: "string" },
        set: { type: "string", multiple: true, default: [] },
      },
      false,
    );
    const stages = readStages(values.stages);
    const seed = values.seed === undefined ? undefined : Number(values.seed);
    if (seed !== undefined && !Number.isInteger(seed))
      throw new MassifError("cli.usage", { found: `--seed ${values.seed}`, expected: "a whole number" });
    const story = loadStory(findRecipe(values.preset), {
      usual: join(recipesFolder(), "speedrun"),
      ...{ sets: values.set, seed },
    });
    const { name, description } = story.pretrain.recipe;
    const dir = values.run ?? join("runs", seed === undefined ? name : `${name}-seed-${seed}`);
    const progress = new Progress();
    progress.print(description);
    if (existsSync(join(dir, "report.html")))
      progress.print(`${dir} is there already; this goes on with it (remove the folder to begin again)`);
    const serves = !values["no-serve"] && process.stdout.isTTY;
    mkdirSync(dir, { recursive: true });
    using stack = new DisposableStack();
    if (serves) stack.defer(showRuns(dir));
    const finished = await interruptible((signal) => tellStory(story, { dir, stages, progress, signal }));
    stack.dispose();
    progress.print(finished ? ending(dir, stages) : "\nStopped. The same command goes on from here.");
    if (!finished) return 1;
    if (!serves) return 0;
    const { serve } = await import("./serve.ts");
    return serve.run(["--model", dir, "--runs", dir, "--port", "0"]);
  },
};

/** The run view beside the training, which leaves this process no time to serve. Prints its address. Returns its end. */
function showRuns(dir: string): () => void {
  const main = join(import.meta.dirname, "main.ts");
  const child = spawn(process.execPath, [main, "studio", dir, "--port", "0"], {
    stdio: ["ignore", "inherit", "ignore", "ipc"],
  });
  child.on("error", () => {}); // Only to look at: training goes on without it.
  child.channel?.unref();
  child.unref();
  return () => child.kill();
}

const ending = (dir: string, stages: readonly Stage[]) => `
Done. What there is now:
  ${dir}/report.html   the table of all stages, transcripts before and after, every curve (report.md: the same as text)
  ${stages.map((stage) => `${dir}/${stage}`).join(", ")}   run folders, with checkpoints in Hugging Face layout
Next:
  node_modules/.bin/massif generate --model ${dir}/pretrain --prompt "My fellow citizens,"
  node_modules/.bin/massif serve --model ${dir}    OpenAI and Anthropic APIs, and a page where you play the user
  npm test                                         the proofs`;
