/** From a recipe's text to what a run trains on: the tokenizer, the token file, the order of rows, the held-out rows. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { duration, type Progress } from "../common/index.ts";
import { loadTokenizer, saveTokenizer, type Tokenizer, Trainer as TokenizerTrainer } from "../tokenizer/index.ts";
import {
  DataOrder,
  type EvaluationBatch,
  evaluationBatches,
  prepareData,
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
  /** The name of a document that a row came from. */
  documentName: (document: number) => string;
}

/** Everything lands in `dir` and is taken from there when it is still right. Relative paths start from `base`. */
export async function prepareCorpus(recipe: Recipe, base: string, dir: string, progress: Progress): Promise<Corpus> {
  const folder = recipe.tokenizer.path ?? join(dir, "tokenizer");
  if (recipe.tokenizer.path === null && !existsSync(join(folder, "tokenizer.json")))
    await trainTokenizer(recipe, base, folder, progress);
  const tokenizer = await loadTokenizer(folder);

  using stage = progress.stage("tokens", "some seconds");
  const prepared = await prepareData(recipe.data, {
    base,
    tokenizer: folder,
    out: join(dir, "data"),
    progress: (p) => stage.update(p.documents, [`${(p.bytesPerSecond / 1e6).toFixed(1)} MB/s`]),
  });
  stage.done(
    `${prepared.documents} documents, ${(prepared.tokens / 1e6).toFixed(2)}M tokens of ${(prepared.textBytes / 1e6).toFixed(1)} MB (${prepared.why})`,
  );

  const file = TokenFile.open(prepared.path);
  const { train, heldOut } = splitDocuments(file.keys, recipe.heldOut);
  const { seqLen, rows } = recipe.batch;
  const firstToken = "predicted";
  return {
    tokenizer,
    order: new DataOrder([{ name: "text", file, documents: train, weight: 1 }], {
      seqLen,
      seed: recipe.seed,
      firstToken,
    }),
    heldOut: [
      ...evaluationBatches(file, heldOut, {
        batch: rows,
        seqLen,
        firstToken,
        ...(recipe.evaluation.maxRows !== null && { maxRows: recipe.evaluation.maxRows }),
      }),
    ],
    facts: [
      [
        "text",
        `${prepared.documents} documents, ${(prepared.textBytes / 1e6).toFixed(1)} MB, ${(prepared.tokens / 1e6).toFixed(2)}M tokens (${(prepared.textBytes / prepared.tokens).toFixed(2)} bytes a token)`,
      ],
      ["held out", `${heldOut.length} documents`],
      ["vocabulary", `${tokenizer.vocabSize} tokens`],
    ],
    documentName: (document) => file.id(document),
  };
}

async function trainTokenizer(recipe: Recipe, base: string, folder: string, progress: Progress): Promise<void> {
  const began = performance.now();
  using stage = progress.stage("tokenizer", "some seconds");
  const onProgress = ({ stage: what, done, of }: { stage: string; done: number; of?: number }) =>
    stage.update(done, [what === "read" ? "texts read" : `of ${of} merges`]);
  const trainer = new TokenizerTrainer({ vocabSize: recipe.tokenizer.vocabSize, onProgress });
  for await (const text of readTrainingTexts(recipe.data, base, recipe.heldOut)) trainer.add(text);
  await saveTokenizer(trainer.finish(), folder);
  stage.done(
    `${recipe.tokenizer.vocabSize} tokens, byte-level BPE with K2's pattern, in ${duration((performance.now() - began) / 1000)}`,
  );
}
