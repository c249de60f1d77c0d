/** Checkpoints in Hugging Face layout: `config.json` and safetensors with one tensor an expert and projection. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type DType, SafeTensors, saveCheckpoint, type Tensor, torch } from "@massif/torch";
import { MassifError } from "../common/index.ts";
import { type ModelConfig, readConfig, toHuggingFace } from "./config.ts";
import { dequantizeInt4, hasInt4, readInt4 } from "./int4.ts";
import { Model, type ModelOptions } from "./model.ts";
import { type ParameterSpec, parameterSpecs } from "./parameters.ts";

/** Loads a folder with `config.json` and weights. `dtype` converts; without it they stay as stored. Throws `checkpoint.*`. */
export function loadModel(folder: string, { dtype, device = "cpu" }: ModelOptions = {}): Model {
  if (!existsSync(folder))
    throw new MassifError("checkpoint.missing", {
      found: `there is no folder ${folder}`,
      expected: "a checkpoint: config.json and model.safetensors",
    });
  const config = readConfig(folder);
  const file = new SafeTensors(folder);
  const parameters = new Map<string, Tensor>();
  for (const spec of parameterSpecs(config))
    parameters.set(
      spec.name,
      torch.keep(torch.tidy(() => assemble(spec, file, folder, dtype).to({ device, copy: true }))),
    );
  return new Model(config, parameters);
}

/** The stored pieces of one parameter, joined. */
function assemble(spec: ParameterSpec, file: SafeTensors, folder: string, dtype?: DType): Tensor {
  const pieces = Array.from({ length: spec.pieces.count }, (_, i) => {
    const name = spec.pieces.name(i);
    const packed = hasInt4(file, name) && dequantizeInt4(readInt4(file, name), dtype);
    if (!packed && !file.has(name))
      throw new MassifError("checkpoint.missing", {
        found: `${folder} has no tensor ${name}`,
        expected: `[${spec.pieces.shape}], from its config.json`,
      });
    if (file.has(`${name}_scale_inv`))
      throw new MassifError("checkpoint.quantized", {
        found: `${name} is stored in block-FP8, with scales in ${name}_scale_inv`,
        expected: "plain weights",
        fix: "dequantize it first: each block of 128 × 128 times its scale",
      });
    const piece = packed || file.get(name);
    if (`${piece.shape}` !== `${spec.pieces.shape}`) {
      throw new MassifError("checkpoint.shape", {
        found: `${name} is [${piece.shape}]`,
        expected: `[${spec.pieces.shape}], from config.json`,
        fix: "load it with the config it was saved with",
      });
    }
    return dtype && spec.kind !== "buffer" ? piece.to(dtype) : piece;
  });
  return (pieces.length === 1 ? pieces[0]! : torch.cat(pieces)).view(spec.shape);
}

/** The checkpoint's tensors, views of the parameters, under their Hugging Face names. */
export function* checkpointTensors(model: Model): Generator<[string, Tensor]> {
  for (const { name, pieces } of model.specs) {
    const stacked = model
      .parameter(name)
      .detach()
      .view([pieces.count, ...pieces.shape]);
    for (let i = 0; i < pieces.count; i++) yield [pieces.name(i), stacked.select(0, i)];
  }
}

/** Writes `config.json` and the weights into `folder`, which transformers, vLLM and Massif load. */
export function saveModel(
  model: Model,
  folder: string,
  { layout = "deepseek_v3", maxShardBytes }: { layout?: "kimi_k2" | "deepseek_v3"; maxShardBytes?: number } = {},
): void {
  mkdirSync(folder, { recursive: true });
  using _ = torch.scope();
  saveCheckpoint(folder, checkpointTensors(model), maxShardBytes === undefined ? {} : { maxShardBytes });
  writeConfig(folder, model.config, model.parameter("lm_head.weight").dtype, layout);
}

export function writeConfig(
  folder: string,
  config: ModelConfig,
  dtype: DType = "float32",
  layout: "kimi_k2" | "deepseek_v3" = "deepseek_v3",
): void {
  writeFileSync(join(folder, "config.json"), `${JSON.stringify(toHuggingFace(config, layout, dtype), null, 2)}\n`);
}
