/**
 * Objectives side by side at equal rollouts (issue 5): the same model, tasks, samples' seeds and rates; only the objective
 * and its staleness (updates made of one batch of answers) differ.
 *   node_modules/.bin/node bench/rl-objectives.ts MODEL [--steps 20] [--seeds 1,2,3] [--staleness 1,4,16] [--objectives pmd,grpo]
 * MODEL is a checkpoint after SFT on `ledger` (recipes/rl-ledger). One JSON line a run on standard output: held-out success
 * with its Wilson interval, the mean of the last five steps' success, and how far updates moved.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { Progress, wilson } from "../packages/massif/src/common/index.ts";
import { algorithms, gym, RlRecipe } from "../packages/massif/src/rl/index.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    steps: { type: "string", default: "20" },
    seeds: { type: "string", default: "1,2,3" },
    staleness: { type: "string", default: "1,4,16" },
    objectives: { type: "string", default: Object.keys(algorithms).join() },
    learningRate: { type: "string", default: "0.001" },
    episodes: { type: "string", default: "512" },
  },
});
const [model] = positionals;
if (!model) throw new Error("which model? node bench/rl-objectives.ts MODEL");
const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
const numbers = (list: string) => list.split(",").map(Number);

for (const seed of numbers(values.seeds))
  for (const minibatches of numbers(values.staleness))
    for (const name of values.objectives.split(",")) {
      const dir = mkdtempSync(join(tmpdir(), "rl-objectives-"));
      const recipe = RlRecipe.parse({
        model: resolve(model),
        seed,
        worlds: [{ world: "ledger", maxTokens: 128 }],
        steps: Number(values.steps),
        minibatches,
        objective: { name },
        batch: { rows: 16, seqLen: 256 },
        // Many updates of one batch move as far together as one does.
        optimizer: { learningRate: Number(values.learningRate) / minibatches },
        evaluation: {
          every: Number(values.steps),
          lastEpisodes: Number(values.episodes),
          split: "names=train,wordings=train,pairs=heldout",
        },
      });
      const began = performance.now();
      await gym(recipe, { base: "/", dir: join(dir, "run"), progress: new Progress({ silent: true }) });
      const rows = readFileSync(join(dir, "run/metrics.jsonl"), "utf8").trim().split("\n");
      const steps = rows.map((row) => JSON.parse(row) as Record<string, never>);
      const score = (steps.at(-1)!.worlds as unknown as { wins: number; n: number }[])[0]!;
      const of = (key: string): number[] => steps.slice(1).map((step) => Number(step[key] ?? 0));
      console.log(
        JSON.stringify({
          objective: name,
          staleness: minibatches,
          seed,
          before: steps[0]!.evalSuccess,
          after: wilson(score.wins, score.n),
          lastFive: mean(of("success").slice(-5)),
          moved: Math.max(...of("moved")),
          kl: Math.max(...of("kl")),
          seconds: (performance.now() - began) / 1000,
        }),
      );
      rmSync(dir, { recursive: true });
    }
