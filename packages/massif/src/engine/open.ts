/** Opening an engine: weights, numerics, and as much cache as memory allows. */
import { type DType, type Tensor, torch } from "@massif/torch";
import { MassifError, Random } from "../common/index.ts";
import { Block, loadModel, type Model, PackedModel } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { bytesPerPosition, cacheType } from "./cache.ts";
import { Engine, type EngineOptions, type Runtime } from "./engine.ts";
import { Int4Experts, int4Experts } from "./int4-experts.ts";
import { numerics } from "./numerics.ts";

export interface OpenOptions extends Partial<Omit<EngineOptions, "cacheBlocks">> {
  /** A checkpoint's folder, or a model, which stays its owner's. */
  model: string | Model;
  tokenizer?: Tokenizer;
  /** Of weights loaded from a folder; without it they stay as stored. */
  dtype?: DType;
  /** `int4`: the routed experts stay packed, groups of 32, a quarter of bf16's memory; the rest must be bf16, from a folder.
   *  Without it a checkpoint's INT4 weights are loaded as the values that they stand for. `bfloat16`: a model in float32
   *  computes from a copy in bfloat16, rounding what goes into products; the latents stay float32. */
  weights?: "int4" | "bfloat16";
  /** The same bits whatever else the engine does, at a price (see numerics.ts): float32 on the CPU only. */
  exact?: boolean;
  /** Memory for the cache. Default: a quarter of what the machine has free, and no more than `maxRunning` sequences of full
   *  length need. */
  cacheBytes?: number;
}

/** Throws `checkpoint.*`, `model.config`, `engine.exact`, and `engine.memory` where not one block fits. */
export function openEngine({
  model: source,
  weights,
  dtype,
  exact = false,
  cacheBytes,
  ...given
}: OpenOptions): Engine {
  const model = typeof source === "string" ? loadModel(source, { ...(dtype && { dtype }) }) : source;
  if (weights === "bfloat16" && (exact || !PackedModel.fits(model, true)))
    throw new MassifError("engine.weights", {
      found: `weights: "bfloat16" for a model in ${model.parameter("lm_head.weight").dtype} on ${model.device}`,
      expected: "a model on the CPU, of even widths, with Massif's own operators, and not exact",
    });
  const packed = PackedModel.fits(model) ? packModel(model, source, weights) : undefined;
  const int4 = weights === "int4" && !packed ? packExperts(model, source) : undefined;
  const products = { ...model.by, ...numerics(model, exact), ...(int4 && { experts: int4.experts }) };
  const { config } = model;
  const options = {
    blockSize: 16,
    tokenBudget: 512,
    maxRunning: 64,
    maxWaiting: 1024,
    random: new Random("engine"),
    now: () => performance.now(),
    ...given,
  };
  const perBlock =
    bytesPerPosition(
      config,
      torch.tidy(() => torch.empty([1], { dtype: cacheType(model) }).nbytes),
    ) * options.blockSize;
  const most = options.maxRunning * Math.ceil(config.maxPositionEmbeddings / options.blockSize);
  const memory = cacheBytes ?? process.availableMemory() / 4;
  const cacheBlocks = Math.min(most, Math.floor(memory / perBlock));
  if (cacheBlocks < 1)
    throw new MassifError("engine.memory", {
      found: `${memory} bytes for the cache`,
      expected: `at least the ${perBlock} of one block of ${options.blockSize} positions`,
    });
  const runtime: Runtime = {
    model,
    numerics: products,
    packed,
    blocks: model.blocks.map((_, i) => new Block(config, i, model.parameters, products)),
    load: (given) => {
      if (weights === "int4")
        throw new MassifError("engine.weights", {
          found: "an update of weights in INT4",
          fix: "open another engine, and close this one",
        });
      loadInto(model, given);
    },
    dispose: () => {
      packed?.[Symbol.dispose]();
      int4?.[Symbol.dispose]();
      if (typeof source === "string") model.dispose();
    },
  };
  return new Engine(runtime, { ...options, cacheBlocks });
}

/** The model as one operator, its experts in INT4 if it is to be; those in bf16 are freed then. */
function packModel(model: Model, source: string | Model, weights: "int4" | "bfloat16" | undefined): PackedModel {
  if (weights !== "int4") return new PackedModel(model, weights === "bfloat16" ? { narrow: true } : {});
  const folder = ownFolder(model, source);
  const packed = new PackedModel(model, { experts: int4Experts(model, folder) });
  freeExperts(model);
  return packed;
}

/** The same for the path through the blocks. */
function packExperts(model: Model, source: string | Model): Int4Experts {
  const packed = new Int4Experts(model, ownFolder(model, source));
  freeExperts(model);
  return packed;
}

function ownFolder(model: Model, source: string | Model): string {
  const { dtype, device } = model.parameter("lm_head.weight");
  if (typeof source === "string" && dtype === "bfloat16" && device === "cpu") return source;
  throw new MassifError("engine.int4", {
    found: typeof source === "string" ? `weights in ${dtype} on ${device}` : "a model that is not the engine's own",
    expected: "a checkpoint's folder, with dtype bfloat16, on the CPU",
  });
}

function freeExperts(model: Model): void {
  for (const { name, routed } of model.specs) if (routed) model.parameter(name).dispose();
}

/** Overwrites every parameter, or throws `engine.weights` and changes nothing. */
function loadInto(model: Model, source: string | ReadonlyMap<string, Tensor>): void {
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
