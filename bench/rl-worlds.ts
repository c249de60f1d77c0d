/**
 * What reinforcement learning adds in four worlds (issue 5): for each world and seed its own weights, pre-trained on the
 * world's text, its own sloppy demonstrations and SFT (recipes/rl-WORLD/sft.json), then RL (recipes/rl-WORLD/recipe.json), then the same unseen tasks
 * before and after. By hand:
 *   node_modules/.bin/node bench/rl-worlds.ts [--worlds ledger,lookup-chain,recover,tool-select] [--seeds 1,2,3]
 *     [--dir runs/rl-worlds] [--threads 1] [--episodes 1024] [--until base|sft|rl] [--set rl.steps=20 …]
 * Goes on where it was ended: what a folder DIR/WORLD-SEED holds is not made again. One JSON line a world and seed, on
 * standard output and in DIR/rows.jsonl; `--table` prints those rows as Markdown and runs nothing.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { torch } from "@massif/torch";
import {
  DemonstrationConfig,
  FinetuneRecipe,
  finetune,
  RolloutConfig,
  rollOut,
  type Score,
  withPlayer,
} from "../packages/massif/src/agent/index.ts";
import { loadConfig, Progress, wilson } from "../packages/massif/src/common/index.ts";
import { loadModel } from "../packages/massif/src/model/index.ts";
import { gym, RlRecipe } from "../packages/massif/src/rl/index.ts";
import { writeWorldText } from "../packages/massif/src/story/index.ts";
import { loadTokenizer } from "../packages/massif/src/tokenizer/index.ts";
import { Checkpoints, pretrain, Recipe } from "../packages/massif/src/train/index.ts";

const { values } = parseArgs({
  options: {
    worlds: { type: "string", default: "ledger,lookup-chain,recover,tool-select" },
    seeds: { type: "string", default: "1,2,3" },
    dir: { type: "string", default: "runs/rl-worlds" },
    threads: { type: "string", default: "1" },
    episodes: { type: "string", default: "1024" },
    until: { type: "string", default: "rl" },
    set: { type: "string", multiple: true, default: [] },
    table: { type: "boolean", default: false },
  },
});
const recipes = resolve(import.meta.dirname, "../recipes");
const sets = (stage: string) =>
  values.set.filter((set) => set.startsWith(`${stage}.`)).map((set) => set.slice(stage.length + 1));

/** 1.3M parameters, 0.7M active. */
const shape = {
  ...{ hiddenSize: 128, numHiddenLayers: 3, intermediateSize: 384, moeIntermediateSize: 128, numAttentionHeads: 4 },
  ...{ qLoraRank: 64, kvLoraRank: 32, qkNopeHeadDim: 16, qkRopeHeadDim: 16, vHeadDim: 16, nRoutedExperts: 8 },
  ...{ numExpertsPerTok: 2, firstKDenseReplace: 1, maxPositionEmbeddings: 2048 },
};
const VOCABULARY = 480;

/** Pre-trained on what is said in the world, control tokens left out, by the same sloppy clerks: the loss on every token
 *  teaches to copy, which SFT's loss on the few that a model writes teaches slowly. */
async function base(world: string, seed: number, dir: string, progress: Progress): Promise<string> {
  const text = join(dir, "world.jsonl");
  const shown = DemonstrationConfig.parse({ worlds: [world], count: 3000, noise: 0.5 });
  await writeWorldText(text, shown, { template: "instruct-v2", seed: seed + 1000 });
  const sources = [{ files: text }];
  const pretraining = {
    ...{ name: "base", seed, data: { sources }, tokenizer: { vocabSize: VOCABULARY }, model: shape, steps: 500 },
    ...{ batch: { rows: 8, seqLen: 256 }, optimizer: { learningRate: 0.008, qkClip: 30 } },
    ...{ schedule: { warmupSteps: 20, decayFraction: 0.4, finalRatio: 0.1 } },
    ...{ evaluation: { every: 500 }, checkpoint: { every: 500 }, samples: { every: 500, tokens: 40 } },
  };
  const recipe = loadConfig(Recipe, pretraining, sets("base"));
  await pretrain(recipe, { base: dir, dir: join(dir, "run"), resume: "auto", progress });
  return last(join(dir, "run"));
}

interface Evaluated {
  scores: Score[];
  /** Share of episodes that ended by words without their evidence, or with a forbidden call. */
  shortcut: number;
}

/** Tasks whose seeds no training had, and those whose pairs none had either. */
const splits = { unseen: "train", pairs: "names=train,wordings=train,pairs=heldout" };

async function evaluate(
  folder: string,
  world: string,
  seed: number,
  maxTokens: number,
): Promise<Record<string, Evaluated>> {
  const tokenizer = await loadTokenizer(folder);
  const model = loadModel(folder, { dtype: "float32" });
  const found: Record<string, Evaluated> = {};
  const template = "instruct-v2";
  await withPlayer(model, tokenizer, { template, concurrency: 256 }, async (player) => {
    for (const [name, split] of Object.entries(splits)) {
      const config = RolloutConfig.parse({ worlds: [world], episodes: Number(values.episodes), maxTokens, split });
      const { scores, trajectories } = await rollOut(
        player,
        config,
        { seed, purpose: "rl-worlds" },
        { tokenizer, template },
      );
      const short = trajectories.filter(
        ({ ended, verification: v }) => ended === "done" && (v?.goals.evidence === false || v?.allowed === false),
      );
      found[name] = { scores, shortcut: short.length / trajectories.length };
    }
  });
  model.dispose();
  return found;
}

/** Runs once, and remembers what it gave. */
async function once<T>(file: string, work: () => Promise<T>): Promise<T> {
  if (existsSync(file)) return JSON.parse(readFileSync(file, "utf8")) as T;
  const result = await work();
  writeFileSync(file, JSON.stringify(result));
  return result;
}

/** Seconds on the wall and of all threads' work. */
async function timed(work: () => Promise<unknown>): Promise<{ wall: number; cpu: number }> {
  const [began, used] = [performance.now(), process.cpuUsage()];
  await work();
  const { user, system } = process.cpuUsage(used);
  return { wall: (performance.now() - began) / 1000, cpu: (user + system) / 1e6 };
}

const last = (run: string) => new Checkpoints(join(run, "checkpoints")).latest()!.dir;

async function one(world: string, seed: number) {
  const dir = resolve(values.dir, `${world}-${seed}`);
  mkdirSync(dir, { recursive: true });
  const file = join(dir, "row.json");
  if (existsSync(file)) return;
  const progress = new Progress();
  const recipe = (name: string) => join(recipes, `rl-${world}/${name}`);
  let pretrained = "";
  const baseTime = await once(join(dir, "base-time.json"), () =>
    timed(async () => {
      pretrained = await base(world, seed, join(dir, "base"), progress);
    }),
  );
  pretrained ||= last(join(dir, "base/run"));
  if (values.until === "base") return;
  const model = (folder: string) => [`model=${JSON.stringify(folder)}`, `seed=${seed}`];
  const taught = loadConfig(FinetuneRecipe, recipe("sft.json"), [...model(pretrained), ...sets("sft")]);
  const work = (stage: string) => ({ base: dir, dir: join(dir, stage), resume: "auto" as const, progress });
  const sftTime = await once(join(dir, "sft-time.json"), () => timed(() => finetune(taught, work("sft"))));
  const sft = last(join(dir, "sft"));
  const learning = loadConfig(RlRecipe, recipe("recipe.json"), [...model(sft), ...sets("rl")]);
  const { maxTokens } = learning.worlds[0]!;
  const before = await once(join(dir, "before.json"), () => evaluate(sft, world, seed, maxTokens));
  progress.print(`${world} ${seed} after SFT: ${told(before.unseen!)}; held-out pairs ${told(before.pairs!)}`);
  if (values.until === "sft") return;
  const rlTime = await once(join(dir, "rl-time.json"), () => timed(() => gym(learning, work("rl"))));
  const after = await evaluate(last(join(dir, "rl")), world, seed, maxTokens);
  progress.print(`${world} ${seed} after RL: ${told(after.unseen!)}; held-out pairs ${told(after.pairs!)}`);
  const steps = readFileSync(join(dir, "rl/metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((row) => JSON.parse(row) as Record<string, number>)
    .filter(({ mismatch }) => mismatch !== undefined);
  const mismatches = steps.map(({ mismatch }) => mismatch!);
  const row = {
    ...{ world, seed, threads: Number(values.threads), steps: learning.steps, before, after },
    gain: rate(after.unseen!) - rate(before.unseen!),
    mismatch: {
      most: Math.max(...mismatches),
      over: mismatches.filter((m) => m > 1e-5).length,
      steps: mismatches.length,
    },
    routing: { least: Math.min(...steps.map(({ routingEqual }) => routingEqual ?? Number.NaN)) },
    seconds: {
      base: baseTime,
      sft: sftTime,
      rl: rlTime,
      rlWithoutEvaluation: steps.reduce((sum, { seconds }) => sum + seconds!, 0),
    },
  };
  writeFileSync(file, JSON.stringify(row));
  appendFileSync(join(values.dir, "rows.jsonl"), `${JSON.stringify(row)}\n`);
  console.log(JSON.stringify(row));
}

const rate = ({ scores }: Evaluated): number => scores[0]!.wins / scores[0]!.n;
function told({ scores, shortcut }: Evaluated): string {
  const [score] = scores;
  const { value, low, high } = wilson(score!.wins, score!.n);
  const kinds = Object.entries(score!.kinds).map(([kind, { wins, n }]) => `${kind} ${(wins / n).toFixed(3)}`);
  return `${value.toFixed(3)} (${low.toFixed(3)}–${high.toFixed(3)}), ${kinds.join(", ")}, shortcuts ${shortcut.toFixed(3)}`;
}

torch.setNumThreads(Number(values.threads));
for (const seed of values.seeds.split(",").map(Number))
  for (const world of values.worlds.split(",")) if (!values.table) await one(world, seed);
