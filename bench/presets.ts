/** The two models that benches measure: `small` is the speedrun's, `base` the hour-size recipe's. */
import { Model, ModelConfig } from "../packages/massif/src/model/index.ts";
import { torch } from "../packages/torch/src/index.ts";

const shared = { firstKDenseReplace: 1, nSharedExperts: 1, routedScalingFactor: 2.446, maxPositionEmbeddings: 2048 };

export const presets = {
  small: {
    batch: 8,
    seqLen: 256,
    config: ModelConfig.parse({
      ...shared,
      vocabSize: 4096,
      hiddenSize: 128,
      numHiddenLayers: 4,
      intermediateSize: 192,
      moeIntermediateSize: 64,
      numAttentionHeads: 4,
      qLoraRank: 64,
      kvLoraRank: 32,
      qkNopeHeadDim: 32,
      qkRopeHeadDim: 16,
      vHeadDim: 32,
      nRoutedExperts: 16,
      numExpertsPerTok: 2,
    }),
  },
  base: {
    batch: 8,
    seqLen: 512,
    config: ModelConfig.parse({
      ...shared,
      vocabSize: 8192,
      hiddenSize: 384,
      numHiddenLayers: 8,
      intermediateSize: 960,
      moeIntermediateSize: 192,
      numAttentionHeads: 6,
      qLoraRank: 192,
      kvLoraRank: 128,
      qkNopeHeadDim: 64,
      qkRopeHeadDim: 32,
      vHeadDim: 64,
      nRoutedExperts: 32,
      numExpertsPerTok: 4,
    }),
  },
};
export type Preset = (typeof presets)[keyof typeof presets];

/** The preset of that name; throws for another. */
export function preset(name: string): Preset {
  if (!Object.hasOwn(presets, name)) throw new Error(`there is no preset ${name}: small or base`);
  return presets[name as keyof typeof presets];
}

/** The config as the PyTorch peer names it. */
export const peerConfig = (c: ModelConfig, more: { moe?: string; attn?: string } = {}) => ({
  dim: c.hiddenSize,
  layers: c.numHiddenLayers,
  heads: c.numAttentionHeads,
  experts: c.nRoutedExperts,
  top_k: c.numExpertsPerTok,
  expert_hidden: c.moeIntermediateSize,
  dense_hidden: c.intermediateSize,
  shared: c.nSharedExperts,
  first_dense: c.firstKDenseReplace,
  vocab: c.vocabSize,
  q_lora: c.qLoraRank,
  kv_lora: c.kvLoraRank,
  nope: c.qkNopeHeadDim,
  rope: c.qkRopeHeadDim,
  v: c.vHeadDim,
  scaling: c.routedScalingFactor,
  theta: c.ropeTheta,
  eps: c.rmsNormEps,
  max_seq: c.maxPositionEmbeddings,
  ...more,
});

/** A model that is sure of its words: fresh weights give near-ties between logits, and rounding must decide no id. */
export function decided(config: ModelConfig): Model {
  const model = Model.init(config, 1);
  torch.noGrad(() => {
    for (const { name, kind } of model.specs)
      if (name === "lm_head.weight") model.parameter(name).mul_(50);
      else if (kind === "matrix") model.parameter(name).mul_(2);
  });
  return model;
}

/** How much of their texts two sides say alike, from the beginning to where a sequence parts. One router's near-tie, decided
 *  otherwise by the last bit of a float32 sum, gives a sequence another expert and soon another text: rare in float32, no
 *  rarity where one side is rounded. */
export function agreement(ours: readonly number[][], theirs: readonly number[][]): number {
  const alike = ours.map((ids, b) => {
    const parts = ids.findIndex((id, i) => id !== theirs[b]![i]);
    return parts < 0 ? 1 : parts / ids.length;
  });
  return alike.reduce((a, b) => a + b, 0) / ours.length;
}

/** In float32 a side whose texts differ by more than such accidents is wrong. */
export function checkAgreement(name: string, share: number, weights: string): void {
  if (weights === "float32" && share < 0.9) throw new Error(`${name}: only ${share} of the texts agree`);
}
