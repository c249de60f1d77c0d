/** Checkpoints as Kimi K2 Thinking was published: routed experts in INT4 (int4.ts), the rest in bf16. `loadModel` reads them. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { saveCheckpoint, type Tensor, torch } from "@massif/torch";
import { checkpointTensors, writeConfig } from "./checkpoint.ts";
import { INT4_GROUP, packInt4, quantizeInt4 } from "./int4.ts";
import type { Model } from "./model.ts";

/** What `quantization_config` of config.json says. */
const INT4_CONFIG = {
  quant_method: "compressed-tensors",
  format: "pack-quantized",
  quantization_status: "compressed",
  kv_cache_scheme: null,
  config_groups: {
    group_0: {
      targets: ["Linear"],
      input_activations: null,
      output_activations: null,
      weights: {
        ...{ num_bits: 4, type: "int", symmetric: true, strategy: "group", group_size: INT4_GROUP, dynamic: false },
        ...{ observer: "minmax", observer_kwargs: {}, actorder: null, block_structure: null },
      },
    },
  },
  ignore: ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
};

/** Writes a checkpoint with INT4 experts, the rest in bf16, as K2 Thinking was published. */
export function saveInt4(model: Model, folder: string): void {
  const routed = new Set(
    model.specs.flatMap(({ routed, pieces }) =>
      routed ? Array.from({ length: pieces.count }, (_, i) => pieces.name(i)) : [],
    ),
  );
  const buffers = new Set(model.specs.flatMap(({ kind, name }) => (kind === "buffer" ? [name] : [])));
  using _ = torch.scope();
  function* tensors(): Generator<[string, Tensor]> {
    for (const [name, tensor] of checkpointTensors(model)) {
      if (!routed.has(name)) {
        yield [name, buffers.has(name) ? tensor : tensor.to("bfloat16")];
        continue;
      }
      const { values_OI, scale_OG } = quantizeInt4(tensor);
      yield [`${name}_packed`, packInt4(values_OI)];
      yield [`${name}_scale`, scale_OG];
      yield [`${name}_shape`, torch.tensor(tensor.shape, { dtype: "int64" })];
    }
  }
  writeConfig(folder, model.config, "bfloat16", "kimi_k2");
  saveCheckpoint(folder, tensors());
  const path = join(folder, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  writeFileSync(path, `${JSON.stringify({ ...config, quantization_config: INT4_CONFIG }, null, 2)}\n`);
}
