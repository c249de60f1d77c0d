/** A tiny model of random weights and its tokenizer, for tests that need an engine: nothing here is learned. */
import { Model, ModelConfig } from "../model/index.ts";
import { k2Specials, Tokenizer } from "../tokenizer/index.ts";

/** Single bytes, and K2's special tokens. */
export function byteTokenizer(): Tokenizer {
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  return new Tokenizer({ tokens, specials: k2Specials.map((token, i) => ({ ...token, id: 256 + i })) });
}

/** 32 wide. */
export const tinyModel = (seed = 1, maxPositionEmbeddings = 1024): Model =>
  Model.init(
    ModelConfig.parse({
      ...{ vocabSize: 256 + k2Specials.length, hiddenSize: 32, numHiddenLayers: 2, intermediateSize: 48 },
      ...{ moeIntermediateSize: 16, numAttentionHeads: 2, qLoraRank: 16, kvLoraRank: 16, qkNopeHeadDim: 8 },
      ...{ qkRopeHeadDim: 8, vHeadDim: 8, nRoutedExperts: 4, numExpertsPerTok: 2, maxPositionEmbeddings },
      // Larger than a training's, so that logits are far apart and answers tell weights apart.
      initializerRange: 0.3,
    }),
    seed,
  );
