/**
 * How an engine computes: the model, and which of two paths a step takes over it.
 *
 * Where the model can be packed, one operator computes a whole step (`PackedModel`): no calls between products, sums in one
 * order whatever the batch. Everywhere else (other devices and dtypes, MASSIF_OPS=plain:
 * `PackedModel.obstacle`) it goes through the blocks (`BlockSteps`).
 */
import { type DType, type Tensor, torch } from "@massif/torch";
import { MassifError } from "../common/index.ts";
import { BlockSteps, loadModel, type Model, PackedModel, type Steps } from "../model/index.ts";
import { exactProducts } from "./exact-products.ts";
import { Int4Experts, int4Experts } from "./int4-experts.ts";

export interface RuntimeOptions {
  /** A checkpoint's folder, or a model, which stays its owner's. */
  model: string | Model;
  /** Of weights loaded from a folder; without it they stay as stored. */
  dtype?: DType;
  /** `int4`: the routed experts stay packed, groups of 32, a quarter of bf16's memory; the rest must be bf16, from a folder.
   *  Without it a checkpoint's INT4 weights are loaded as the values that they stand for. `bfloat16`: a model in float32
   *  computes from a copy in bfloat16, rounding what goes into products; the latents stay float32. */
  weights?: "int4" | "bfloat16";
  /** The same bits whatever else the engine does, at a price (see exact-products.ts): float32 on the CPU only. */
  exact?: boolean;
}

export interface Runtime extends Disposable {
  readonly model: Model;
  readonly steps: Steps;
  /** The path of a step, and why, for people. */
  readonly path: string;
  /** Takes other weights: a folder, or tensors by the names of the model's parameters; or what has changed in place. */
  update(source?: string | ReadonlyMap<string, Tensor>): void;
}

/** Throws `checkpoint.*`, `model.config`, `engine.exact`, `engine.weights` and `engine.int4`. */
export function openRuntime({ model: source, dtype, weights, exact = false }: RuntimeOptions): Runtime {
  const model = typeof source === "string" ? loadModel(source, { ...(dtype && { dtype }) }) : source;
  const narrow = weights === "bfloat16";
  const obstacle = PackedModel.obstacle(model, narrow);
  if (narrow && (exact || obstacle))
    throw new MassifError("engine.weights", {
      found: `weights: "bfloat16" ${obstacle ? `for ${obstacle}` : "of an exact engine"}`,
      expected: "a model on the CPU, of even widths, with Massif's own operators, and not exact",
    });
  const products = exact ? exactProducts(model) : {};
  const folder = weights === "int4" ? ownFolder(model, source) : undefined;
  const int4 = obstacle && folder !== undefined ? new Int4Experts(model, folder) : undefined;
  const by = { ...products, ...(int4 && { experts: int4.experts }) };
  const stored = folder !== undefined && !obstacle && { experts: int4Experts(model, folder) };
  const steps = obstacle
    ? new BlockSteps(model, { by, exact })
    : new PackedModel(model, { ...stored, ...(narrow && { narrow }) });
  if (folder !== undefined) freeExperts(model);
  return {
    model,
    steps,
    path: obstacle ? `block by block: ${obstacle}` : "one operator a step",
    update(given) {
      if (given !== undefined && weights === "int4")
        throw new MassifError("engine.weights", {
          found: "an update of weights in INT4",
          fix: "open another engine, and close this one",
        });
      if (given !== undefined) overwrite(model, given);
      steps.refresh();
    },
    [Symbol.dispose]() {
      steps[Symbol.dispose]();
      int4?.[Symbol.dispose]();
      if (typeof source === "string") model.dispose();
    },
  };
}

function ownFolder(model: Model, source: string | Model): string {
  const { dtype, device } = model.parameter("lm_head.weight");
  if (typeof source === "string" && dtype === "bfloat16" && device === "cpu") return source;
  throw new MassifError("engine.int4", {
    found: typeof source === "string" ? `weights in ${dtype} on ${device}` : "a model that is not the engine's own",
    expected: "a checkpoint's folder, with dtype bfloat16, on the CPU",
  });
}

/** Those in bf16, once they are packed. */
function freeExperts(model: Model): void {
  for (const { name, routed } of model.specs) if (routed) model.parameter(name).dispose();
}

/** Overwrites every parameter, or throws `engine.weights` and changes nothing. */
function overwrite(model: Model, source: string | ReadonlyMap<string, Tensor>): void {
  const loaded = typeof source === "string" ? loadModel(source) : undefined;
  try {
    const from = loaded?.parameters ?? (source as ReadonlyMap<string, Tensor>);
    for (const [name, tensor] of model.parameters) {
      const other = from.get(name);
      if (other && `${other.shape}` === `${tensor.shape}`) continue;
      throw new MassifError("engine.weights", {
        found: other ? `${name} is [${other.shape}]` : `there is no ${name}`,
        expected: `[${tensor.shape}], as the model that is served`,
        fix: "update with weights of the same config, or open another engine",
      });
    }
    using _ = torch.noGrad();
    for (const [name, tensor] of model.parameters) torch.tidy(() => void tensor.copy_(from.get(name)!));
  } finally {
    loaded?.dispose();
  }
}
