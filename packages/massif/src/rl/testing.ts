/** For tests: a model that knows nothing, with a tokenizer of bytes. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Model, ModelConfig, saveModel } from "../model/index.ts";
import { k2Specials, saveTokenizer, trainTokenizer } from "../tokenizer/index.ts";

/** Its folder, removed at the end. */
export async function emptyModel({
  seed = 5,
  ...more
}: Partial<ModelConfig> & { seed?: number } = {}): Promise<{ folder: string; remove: () => void }> {
  const folder = mkdtempSync(join(tmpdir(), "massif-rl-"));
  const tokenizer = trainTokenizer(["a plain sentence near the quiet lake"], { vocabSize: 256 + k2Specials.length });
  const config = ModelConfig.parse({
    vocabSize: tokenizer.vocabSize,
    hiddenSize: 32,
    numHiddenLayers: 2,
    intermediateSize: 48,
    moeIntermediateSize: 16,
    numAttentionHeads: 2,
    qLoraRank: 16,
    kvLoraRank: 16,
    qkNopeHeadDim: 8,
    qkRopeHeadDim: 8,
    vHeadDim: 8,
    nRoutedExperts: 4,
    numExpertsPerTok: 2,
    firstKDenseReplace: 1,
    maxPositionEmbeddings: 4096,
    ...more,
  });
  const model = Model.init(config, seed);
  saveModel(model, folder);
  model.dispose();
  await saveTokenizer(tokenizer, folder);
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}
