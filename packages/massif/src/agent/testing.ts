/** What this room's tests share: a tiny model with its tokenizer, and a scripted clerk of the ledger. */
import { mkdirSync } from "node:fs";
import { Model, ModelConfig, saveModel } from "../model/index.ts";
import { k2Specials, saveTokenizer, Tokenizer } from "../tokenizer/index.ts";

/** Bytes and K2's special tokens. */
export function byteTokenizer(): Tokenizer {
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  return new Tokenizer({ tokens, specials: k2Specials.map((token, i) => ({ ...token, id: 256 + i })) });
}

export const tinyModel = (tokenizer: Tokenizer, seed = 1): Model =>
  Model.init(
    ModelConfig.parse({
      ...{ vocabSize: tokenizer.vocabSize, hiddenSize: 32, numHiddenLayers: 3, intermediateSize: 48 },
      ...{ moeIntermediateSize: 16, numAttentionHeads: 2, qLoraRank: 16, kvLoraRank: 16, qkNopeHeadDim: 8 },
      ...{ qkRopeHeadDim: 8, vHeadDim: 8, nRoutedExperts: 8, numExpertsPerTok: 2, maxPositionEmbeddings: 4096 },
      initializerRange: 0.1,
    }),
    seed,
  );

/** A checkpoint folder of a tiny model. */
export async function tinyCheckpoint(dir: string): Promise<void> {
  const tokenizer = byteTokenizer();
  const model = tinyModel(tokenizer);
  mkdirSync(dir, { recursive: true });
  saveModel(model, dir);
  await saveTokenizer(tokenizer, dir);
  model.dispose();
}
