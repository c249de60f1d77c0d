/** Success on tasks held out, the same every time and the same as SFT evaluates on: of the policy, and of other checkpoints. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { RolloutConfig, rollOut, type Score } from "../agent/index.ts";
import { type Progress, wilson, writeJsonl } from "../common/index.ts";
import type { LanguageModel } from "../llm/index.ts";
import { loadModel } from "../model/index.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import { openRolloutEngine, type Policy, playerOf } from "./policy.ts";
import type { RlRecipe } from "./recipe.ts";
import { type Baselines, readBaselines } from "./report.ts";
import { meanOf } from "./statistics.ts";

/** Transcripts kept of each world. */
const KEPT = 12;

/** Metrics for the row of the step. Prints a line for each world; transcripts go to the run folder `dir`. */
export async function evaluate(
  policy: Policy,
  recipe: RlRecipe,
  options: { step: number; episodes: number; dir: string; tokenizer: Tokenizer; progress: Progress },
): Promise<{ evalSuccess: number; worlds: Score[] }> {
  const { step, episodes, dir, tokenizer, progress } = options;
  const { scores, trajectories } = await play(policy.player, tokenizer, recipe, episodes);
  await policy.forget();
  mkdirSync(join(dir, "rollouts"), { recursive: true });
  const kept = trajectories.filter((_, i) => i % episodes < KEPT);
  await writeJsonl(join(dir, `rollouts/step-${step}.jsonl`), kept);
  for (const { world, wins, n, kinds } of scores) {
    const { value, low, high } = wilson(wins, n);
    const parts = Object.entries(kinds).map(([kind, count]) => `${kind} ${(count.wins / count.n).toFixed(3)}`);
    progress.print(
      `  step ${step}: ${world} ${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}] of ${n} held out; ${parts.join(", ")}`,
    );
  }
  return { evalSuccess: meanOf(scores.map(({ wins, n }) => wins / n)), worlds: scores };
}

/** The recipe's other checkpoints, on the tasks of the last evaluation. Their paths start from `base`. */
export async function evaluateBaselines(recipe: RlRecipe, { dir, base }: { dir: string; base: string }): Promise<void> {
  const { evaluation, device } = recipe;
  const scores: Baselines = readBaselines(dir);
  for (const [name, folder] of Object.entries(evaluation.baselines)) {
    const path = resolve(base, folder);
    const tokenizer = await loadTokenizer(path);
    const model = loadModel(path, { device, dtype: "float32" });
    try {
      using engine = openRolloutEngine(model, tokenizer, recipe);
      scores[name] = (await play(playerOf(engine, recipe), tokenizer, recipe, evaluation.lastEpisodes)).scores;
    } finally {
      model.dispose();
    }
  }
  writeFileSync(join(dir, "baselines.json"), JSON.stringify(scores));
}

function play(player: LanguageModel, tokenizer: Tokenizer, recipe: RlRecipe, episodes: number) {
  const { seed, template, worlds, evaluation } = recipe;
  const names = worlds.map(({ world }) => world);
  const maxTokens = Math.max(...worlds.map((world) => world.maxTokens));
  const config = RolloutConfig.parse({ worlds: names, episodes, maxTokens, split: evaluation.split });
  return rollOut(player, config, { seed }, { tokenizer, template });
}
