import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SafeTensors, saveSafetensors, type Tensor, torch } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkpointTensors, loadModel, saveModel } from "./checkpoint.ts";
import { ModelConfig } from "./config.ts";
import { Model } from "./model.ts";

const config = ModelConfig.parse({
  vocabSize: 40,
  hiddenSize: 12,
  numHiddenLayers: 2,
  intermediateSize: 20,
  moeIntermediateSize: 6,
  numAttentionHeads: 2,
  qLoraRank: 8,
  kvLoraRank: 6,
  qkNopeHeadDim: 4,
  qkRopeHeadDim: 2,
  vHeadDim: 5,
  nRoutedExperts: 4,
  numExpertsPerTok: 2,
});

let scope: ReturnType<typeof torch.scope>;
let box: string;
beforeEach(() => {
  scope = torch.scope();
  box = mkdtempSync(join(tmpdir(), "massif-checkpoint-"));
});
afterEach(() => {
  scope.end();
  rmSync(box, { recursive: true });
});

/** Saves the tensors of `model` as one file, changed by `change`. */
function resave(model: Model, change: (tensors: Map<string, Tensor>) => void): void {
  saveModel(model, box);
  const tensors = new Map(checkpointTensors(model));
  change(tensors);
  saveSafetensors(join(box, "model.safetensors"), tensors);
}

test("a checkpoint comes back bit for bit, in one file or in shards", () => {
  const model = Model.init(config, 7);
  model.parameter("model.layers.1.mlp.gate.e_score_correction_bias").normal_();
  for (const maxShardBytes of [5e9, 4000]) {
    saveModel(model, box, { maxShardBytes });
    if (maxShardBytes === 4000)
      expect(readdirSync(box).filter((f) => /-of-\d{5}\.safetensors$/.test(f)).length).toBeGreaterThan(3);
    const again = loadModel(box);
    expect(again.config).toEqual(config);
    for (const [name, value] of model.parameters) expect(torch.equal(again.parameter(name), value), name).toBe(true);
    again.dispose();
  }
});

test("gate, up and each expert are tensors of their own in the file", () => {
  const model = Model.init(config, 7);
  saveModel(model, box);
  const file = new SafeTensors(box);
  const stacked_E2ID = model.parameter("model.layers.1.mlp.experts.gate_up_proj");
  const up = file.get("model.layers.1.mlp.experts.3.up_proj.weight");
  expect(torch.equal(up, stacked_E2ID.select(0, 3).narrow(0, 6, 6))).toBe(true);
  expect(file.get("model.layers.0.mlp.gate_proj.weight").shape).toEqual([20, 12]);
});

test("converting leaves the router's bias in float32", () => {
  saveModel(Model.init(config, 7), box);
  const model = loadModel(box, { dtype: "bfloat16" });
  expect(model.parameter("lm_head.weight").dtype).toBe("bfloat16");
  expect(model.parameter("model.layers.1.mlp.gate.e_score_correction_bias").dtype).toBe("float32");
  const made = Model.init(config, 7, { dtype: "bfloat16" });
  expect(made.parameter("model.layers.1.mlp.gate.e_score_correction_bias").dtype).toBe("float32");
});

test("a tensor that is missing, of another shape, or quantized is refused by name", () => {
  const model = Model.init(config, 7);
  const o_proj = "model.layers.0.self_attn.o_proj.weight";
  resave(model, (tensors) => tensors.delete(o_proj));
  expect(() => loadModel(box)).toThrow(`has no tensor ${o_proj}`);
  resave(model, (tensors) => tensors.set(o_proj, torch.zeros([12, 11])));
  expect(() => loadModel(box)).toThrow(`${o_proj} is [12,11]`);
  resave(model, (tensors) => tensors.set(`${o_proj}_scale_inv`, torch.ones([1, 1])));
  expect(() => loadModel(box)).toThrow("block-FP8");
});

test("a damaged file and a missing folder are errors that say so", () => {
  expect(() => loadModel(join(box, "nothing"))).toThrow("there is no folder");
  saveModel(Model.init(config, 7), box);
  const file = join(box, "model.safetensors");
  writeFileSync(file, readFileSync(file).subarray(0, -1));
  expect(() => loadModel(box)).toThrow("a whole safetensors file");
});
