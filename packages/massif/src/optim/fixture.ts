/** A model small enough for arithmetic by hand, with every kind of parameter. For tests. */
import { type Tensor, torch } from "@massif/torch";
import { Model, ModelConfig } from "../model/index.ts";

export const tinyConfig = (more: object = {}): ModelConfig =>
  ModelConfig.parse({
    vocabSize: 30,
    hiddenSize: 12,
    numHiddenLayers: 2,
    intermediateSize: 14,
    moeIntermediateSize: 6,
    numAttentionHeads: 3,
    qLoraRank: 8,
    kvLoraRank: 6,
    qkNopeHeadDim: 4,
    qkRopeHeadDim: 2,
    vHeadDim: 5,
    nRoutedExperts: 4,
    numExpertsPerTok: 2,
    initializerRange: 0.3,
    ...more,
  });

export const tinyModel = (more: object = {}): Model => Model.init(tinyConfig(more), 3, { dtype: "float64" });

/** Fills with the same normal numbers for the same seed. */
export function fill(tensors: Iterable<Tensor>, seed: number, std = 1): void {
  torch.manualSeed(seed);
  for (const tensor of tensors) tensor.normal_(0, std);
}
