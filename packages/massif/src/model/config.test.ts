import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { fromHuggingFace, readConfig, toHuggingFace } from "./config.ts";
import { modelSize, numel, parameterSpecs } from "./parameters.ts";

const file = resolve(import.meta.dirname, "../../../../recipes/kimi-k2/config.json");
const json = (): Record<string, unknown> => JSON.parse(readFileSync(file, "utf8"));
const k2 = readConfig(file);

test("the real config.json, its quantization_config tolerated", () => {
  expect(json().quantization_config).toBeDefined();
  expect(k2).toMatchObject({
    numHiddenLayers: 61,
    qLoraRank: 1536,
    ropeTheta: 50000,
    rmsNormEps: 1e-6,
    latentNormEps: 1e-6,
    eosTokenId: 163585,
    ropeScaling: { type: "yarn", factor: 32, originalMaxPositionEmbeddings: 4096, betaFast: 1, mscaleAllDim: 1 },
  });
});

test.for(["kimi_k2", "deepseek_v3"] as const)("written as %s it reads back the same", (layout) => {
  for (const config of [
    k2,
    { ...k2, ropeScaling: null, qLoraRank: null, eosTokenId: [1, 2], padTokenId: 0 },
    { ...k2, latentNormEps: 1e-5, nGroup: 8, topkGroup: 4, nSharedExperts: 0 },
  ]) {
    const written = JSON.parse(JSON.stringify(toHuggingFace(config, layout)));
    expect(written.model_type).toBe(layout);
    expect(fromHuggingFace(written)).toEqual(config);
  }
});

test("in its own layout it is what Moonshot published", () => {
  const written = toHuggingFace(k2, "kimi_k2", "bfloat16");
  const published = json();
  const skipped = ["auto_map", "quantization_config", "pretraining_tp", "transformers_version"];
  for (const [key, value] of Object.entries(published)) {
    if (!skipped.includes(key)) expect(written[key], key).toEqual(value);
  }
});

test.for([
  [{ model_type: "llama" }, "model_type"],
  [{ model_type: undefined }, "model_type"],
  [{ hidden_act: "gelu" }, "hidden_act"],
  [{ tie_word_embeddings: true }, "tie_word_embeddings"],
  [{ scoring_func: "softmax" }, "scoring_func"],
  [{ hidden_size: "7168" }, "hidden_size"],
  [{ kv_lora_rank: undefined }, "kv_lora_rank"],
  [{ num_experts_per_tok: 385 }, "num_experts_per_tok: 385 of 384 experts"],
  [{ n_group: 8, topk_group: 9 }, "topk_group: 9 of 8 groups"],
  [{ n_group: 8, topk_group: 1, num_experts_per_tok: 49 }, "num_experts_per_tok: 49 of 48 experts"],
  [{ n_group: 5 }, "n_group: 384 experts do not make 5 equal groups"],
  [{ rope_scaling: { type: "linear", factor: 2 } }, "linear"],
  [{ rope_scaling: { type: "yarn", factor: 2, original_max_position_embeddings: 64, truncate: false } }, "truncate"],
] as const)("%o is refused by name", ([change, name]) => {
  expect(() => fromHuggingFace({ ...json(), ...change })).toThrow(name);
});

test("a file that is missing or no JSON is an error with its path", () => {
  const box = mkdtempSync(join(tmpdir(), "massif-config-"));
  try {
    expect(() => readConfig(box)).toThrow(join(box, "config.json"));
    writeFileSync(join(box, "config.json"), "{");
    expect(() => readConfig(box)).toThrow("is no JSON");
  } finally {
    rmSync(box, { recursive: true });
  }
});

// Specification §1.3–1.5 and §2; none of it is allocated.
test("the real model's sizes to the last parameter and byte", () => {
  const size = modelSize(k2);
  expect(size.parameters).toBe(1_026_408_232_448);
  expect(size.activeParameters).toBe(32_861_500_928);
  expect(size.kvBytesPerToken).toBe(70_272);
  expect(size.weightBytes.int4).toBe(594_205_904_896);
  expect((size.weightBytes.fp8 / 2 ** 30).toFixed(2)).toBe("958.49");
  expect(size.parts.attention!.parameters).toBe(61 * 101_122_048);
  expect(size.parts["dense MLP"]!.parameters).toBe(396_361_728);
  expect(size.parts["shared experts"]!.parameters).toBe(60 * 44_040_192);
  expect(size.parts["routed experts"]).toEqual({
    parameters: 60 * 384 * 44_040_192,
    activeParameters: 60 * 8 * 44_040_192,
  });
  // Two a weight in products: all active ones but embedding, gains and biases. Two a pair and feature over half the context.
  const weights = 2 * (32_861_500_928 - 1_174_405_120 - 61 * 16_384 - 7168 - 60 * 384);
  expect(size.flopsPerToken).toBe(weights + 61 * 64 * (192 + 128) * 4096);
  expect(size.trainFlopsPerToken).toBe(3 * size.flopsPerToken);
  expect(modelSize(k2, 8192).flopsPerToken - size.flopsPerToken).toBe(61 * 64 * (192 + 128) * 4096);
});

test("the checkpoint's tensors have the names, shapes and number of the release", () => {
  const names = new Map<string, number[]>();
  for (const { pieces } of parameterSpecs(k2))
    for (let i = 0; i < pieces.count; i++) names.set(pieces.name(i), pieces.shape);
  // 139,644 in the release: less 61 inv_freq, and a scale for each quantized matrix.
  const quantized = 61 * 5 + 3 + 60 * 3 * 385;
  expect(names.size).toBe(139_644 - 61 - quantized);
  expect(names.get("model.layers.0.mlp.gate_proj.weight")).toEqual([18432, 7168]);
  expect(names.get("model.layers.60.mlp.experts.383.down_proj.weight")).toEqual([7168, 2048]);
  expect(names.get("model.layers.1.mlp.gate.e_score_correction_bias")).toEqual([384]);
  expect(names.get("model.layers.5.self_attn.kv_a_proj_with_mqa.weight")).toEqual([576, 7168]);
  expect(names.get("model.layers.5.self_attn.q_b_proj.weight")).toEqual([12288, 1536]);
  expect([...names.values()].reduce((sum, shape) => sum + numel(shape), 0)).toBe(1_026_408_232_448);
});
