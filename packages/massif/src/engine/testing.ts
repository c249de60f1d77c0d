/** Tiny models and a tokenizer for the engine's tests. */
import { Model, ModelConfig } from "../model/index.ts";
import { Tokenizer } from "../tokenizer/index.ts";
import type { Generation } from "./generation.ts";
import { type OpenOptions, openEngine } from "./open.ts";
import type { GeneratedToken } from "./request.ts";

export const tinyConfig = (overrides: Partial<ModelConfig> = {}): ModelConfig =>
  ModelConfig.parse({
    ...{ vocabSize: 320, hiddenSize: 32, numHiddenLayers: 3, intermediateSize: 48, moeIntermediateSize: 16 },
    ...{ numAttentionHeads: 2, qLoraRank: 16, kvLoraRank: 16, qkNopeHeadDim: 8, qkRopeHeadDim: 8, vHeadDim: 8 },
    ...{ nRoutedExperts: 8, numExpertsPerTok: 2, maxPositionEmbeddings: 1024 },
    // Larger than a training's, so that logits are far apart and tokens tell sequences apart.
    initializerRange: 0.3,
    ...overrides,
  });

/** Bytes, some tokens of several bytes (a stop string then ends inside of one), and control tokens. */
export function byteTokenizer(): Tokenizer {
  const words = ["th", "he", "in", "er", "an", "re", "on", "at", "the", "ing", "and", "é", "漢", "😀", "\n\n", "END"];
  const tokens = [
    ...Array.from({ length: 256 }, (_, i) => Uint8Array.of(i)),
    ...words.map((word) => new TextEncoder().encode(word)),
  ];
  const names = ["[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"];
  const kept = [
    ...["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>"],
    ...["<|tool_call_argument_begin|>", "<think>", "</think>"],
  ];
  const specials = [...names, ...kept].map((name, i) => ({
    name,
    id: tokens.length + i,
    special: names.includes(name),
  }));
  return new Tokenizer({ tokens, specials });
}

export const tinyModel = (seed = 1, overrides: Partial<ModelConfig> = {}): Model =>
  Model.init(tinyConfig(overrides), seed);

export const tinyEngine = (options: OpenOptions) => openEngine({ cacheBytes: 1 << 20, ...options });

/** All of a generation, and each choice's ids. */
export async function collect(generation: Generation): Promise<{ tokens: GeneratedToken[]; ids: number[][] }> {
  const tokens = await Array.fromAsync(generation);
  const ids: number[][] = [];
  for (const { choice, id } of tokens) (ids[choice] ??= []).push(id);
  return { tokens, ids };
}
