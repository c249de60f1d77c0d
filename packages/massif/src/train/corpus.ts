/** From a recipe's text to what a run trains on: the tokenizer, the token file, the order of rows, the held-out rows. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { duration, type Progress } from "../common/index.ts";
import { loadTokenizer, saveTokenizer, type Tokenizer, Trainer as TokenizerTrainer } from "../tokenizer/index.ts";
import {
  type DataConfig,
  DataOrder,
  type DataSet,
  type EvaluationBatch,
  evaluationBatches,
  type Prepared,
  prepareData,
  type RowOrigin,
  readCorpus,
  readTrainingTexts,
  splitDocuments,
  TokenFile,
} from "./data/index.ts";
import type { Recipe } from "./recipe.ts";

export interface Corpus {
  tokenizer: Tokenizer;
  order: DataOrder;
  heldOut: EvaluationBatch[];
  /** For the report. */
  facts: [string, string][];
  /** The names of the documents that a row came from. */
  documentNames: (origin: RowOrigin) => string[];
}

/** Everything lands in `dir` and is taken from there when it is still right. Relative paths start from `base`. */
export async function prepareCorpus(recipe: Recipe, base: string, dir: string, progress: Progress): Promise<Corpus> {
  const folder = recipe.tokenizer.path ?? join(dir, "tokenizer");
  if (recipe.tokenizer.path === null && !existsSync(join(folder, "tokenizer.json")))
    await trainTokenizer(recipe, base, folder, progress);
  const tokenizer = await loadTokenizer(folder);

  const prepare = async (name: string, data: DataConfig) => {
    using stage = progress.stage(name === "text" ? "tokens" : `tokens, ${name}`, "some seconds");
    const prepared = await prepareData(data, {
      base,
      tokenizer: folder,
      out: join(dir, "data"),
      name,
      progress: (p) => stage.update(p.documents, [`${(p.bytesPerSecond / 1e6).toFixed(1)} MB/s`]),
    });
    stage.done(`${amount(prepared)} (${prepared.why})`);
    return prepared;
  };

  const text = await prepare("text", recipe.data);
  const file = TokenFile.open(text.path);
  const { train, heldOut } = splitDocuments(file.keys, recipe.heldOut);
  const sets: DataSet[] = [{ name: "text", file, documents: train, weight: 1 - (recipe.mix?.share ?? 0) }];
  const facts: Corpus["facts"] = [
    ["text", `${amount(text)} (${(text.textBytes / text.tokens).toFixed(2)} bytes a token)`],
    ["held out", `${heldOut.length} documents`],
    ["vocabulary", `${tokenizer.vocabSize} tokens`],
  ];
  if (recipe.mix) {
    const mixed = await prepare("mixed", recipe.mix.data);
    const file = TokenFile.open(mixed.path);
    sets.push({ name: "mixed", file, documents: Uint32Array.from(file.keys, (_, i) => i), weight: recipe.mix.share });
    facts.push(["mixed in", `${amount(mixed)}, ${(100 * recipe.mix.share).toFixed(0)} % of the rows`]);
  }

  const { seqLen, rows } = recipe.batch;
  const firstToken = "predicted";
  const { maxRows } = recipe.evaluation;
  return {
    tokenizer,
    order: new DataOrder(sets, { seqLen, seed: recipe.seed, firstToken }),
    heldOut: [
      ...evaluationBatches(file, heldOut, { batch: rows, seqLen, firstToken, ...(maxRows !== null && { maxRows }) }),
    ],
    facts,
    documentNames: ({ dataset, documents }) => {
      const { file } = sets.find(({ name }) => name === dataset)!;
      return documents.map((document) => file.id(document));
    },
  };
}

const amount = ({ documents, tokens, textBytes }: Prepared): string =>
  `${documents} documents, ${(tokens / 1e6).toFixed(2)}M tokens of ${(textBytes / 1e6).toFixed(1)} MB`;

async function trainTokenizer(recipe: Recipe, base: string, folder: string, progress: Progress): Promise<void> {
  const began = performance.now();
  using stage = progress.stage("tokenizer", "some seconds");
  const onProgress = ({ stage: what, done, of }: { stage: string; done: number; of?: number }) =>
    stage.update(done, [what === "read" ? "texts read" : `of ${of} merges`]);
  const trainer = new TokenizerTrainer({ vocabSize: recipe.tokenizer.vocabSize, onProgress });
  for await (const text of readTrainingTexts(recipe.data, base, recipe.heldOut)) trainer.add(text);
  if (recipe.mix) for await (const { text } of readCorpus(recipe.mix.data, base)) trainer.add(text);
  await saveTokenizer(trainer.finish(), folder);
  stage.done(
    `${recipe.tokenizer.vocabSize} tokens, byte-level BPE with K2's pattern, in ${duration((performance.now() - began) / 1000)}`,
  );
}
