import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SafeTensors, torch } from "@massif/torch";
import { expect, test } from "vitest";
import { loadModel } from "./checkpoint.ts";
import { ModelConfig } from "./config.ts";
import { dequantizeInt4, packInt4, quantizeInt4, unpackInt4 } from "./int4.ts";
import { saveInt4 } from "./int4-checkpoint.ts";
import { Model } from "./model.ts";

test("the packing vector of the specification, and rows that are no multiple of eight", () => {
  using _ = torch.scope();
  const values = torch.tensor([[-8, -7, -6, -5, -4, -3, -2, -1]], { dtype: "int32" });
  expect(packInt4(values).toArray()).toEqual([0x76543210]);
  const top = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]], { dtype: "int32" });
  expect(packInt4(top).toArray()).toEqual([0xfedcba98 | 0]);
  const odd = torch.tensor(
    [
      [7, -8, 3],
      [-1, 0, 5],
    ],
    { dtype: "int32" },
  );
  expect(unpackInt4(packInt4(odd), 3).tolist()).toEqual([
    [7, -8, 3],
    [-1, 0, 5],
  ]);
});

test("quantizing rounds to the nearest of 15 levels a group of 32", () => {
  using _ = torch.scope();
  torch.manualSeed(1);
  const w = torch.randn([6, 80]);
  const int4 = quantizeInt4(w, "float32");
  expect(int4.scale_OG.shape).toEqual([6, 3]);
  const scale = int4.scale_OG.repeat_interleave(32, 1).narrow(1, 0, 80);
  const error = dequantizeInt4(int4, "float32").sub(w).abs().div(scale).amax().item();
  expect(error).toBeLessThanOrEqual(0.5 + 1e-5);
  expect(int4.values_OI.abs().amax().item()).toBe(7);
  // What is on the grid already stays.
  const again = quantizeInt4(dequantizeInt4(int4, "float32"), "float32");
  expect(again.values_OI.tolist()).toEqual(int4.values_OI.tolist());
});

test("a checkpoint with packed experts loads as its values, in any dtype", () => {
  const config = ModelConfig.parse({
    ...{ vocabSize: 64, hiddenSize: 40, numHiddenLayers: 2, intermediateSize: 32, moeIntermediateSize: 24 },
    ...{ numAttentionHeads: 2, kvLoraRank: 8, qkNopeHeadDim: 8, qkRopeHeadDim: 4, vHeadDim: 8 },
    ...{ nRoutedExperts: 4, numExpertsPerTok: 2 },
  });
  const folder = mkdtempSync(join(tmpdir(), "massif-int4-"));
  const model = Model.init(config, 1);
  saveInt4(model, folder);
  const loaded = loadModel(folder, { dtype: "float32" });
  const bf16 = loadModel(folder);
  const name = "model.layers.1.mlp.experts.gate_up_proj";
  torch.tidy(() => {
    const piece = model.parameter(name).select(0, 1).narrow(0, 24, 24);
    const expected = dequantizeInt4(quantizeInt4(piece), "float32");
    expect(loaded.parameter(name).select(0, 1).narrow(0, 24, 24).tolist()).toEqual(expected.tolist());
    expect(bf16.parameter(name).dtype).toBe("bfloat16");
    const file = new SafeTensors(folder);
    expect(file.get("model.layers.1.mlp.experts.1.up_proj.weight_packed").shape).toEqual([24, 5]);
    expect(file.get("model.layers.1.mlp.experts.1.up_proj.weight_scale").shape).toEqual([24, 2]);
    expect(file.get("model.layers.1.mlp.experts.1.up_proj.weight_shape").toArray()).toEqual([24, 40]);
    expect(file.has("model.layers.1.mlp.shared_experts.up_proj.weight")).toBe(true);
  });
  const { quantization_config: quantization } = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  expect(quantization.config_groups.group_0.weights).toMatchObject({ num_bits: 4, group_size: 32, symmetric: true });
  for (const one of [model, loaded, bf16]) one.dispose();
  rmSync(folder, { recursive: true });
});
