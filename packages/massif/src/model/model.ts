/** A model: its config, its parameters by name, and the list of blocks that reads them. */
import { type Device, type DType, linearCrossEntropy, rmsNorm, type Tensor, torch } from "@massif/torch";
import { Block, type BlockOutput, type Context, linear, type Products } from "./block.ts";
import type { ModelConfig } from "./config.ts";
import { type ParameterSpec, parameterSpecs } from "./parameters.ts";
import { RotaryTable } from "./rope.ts";

export interface ModelOptions {
  dtype?: DType;
  device?: Device;
}

export class Model {
  readonly config: ModelConfig;
  readonly specs: ParameterSpec[];
  /** By name, in the order of the forward pass. Kept from every scope; `dispose()` frees them. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly blocks: Block[];
  readonly rotary: RotaryTable;
  readonly device: Device;
  /** How its blocks compute, where not as usual. */
  readonly by: Partial<Products>;

  constructor(config: ModelConfig, parameters: Map<string, Tensor>, by: Partial<Products> = {}) {
    this.config = config;
    this.by = by;
    this.specs = parameterSpecs(config);
    this.parameters = parameters;
    this.blocks = Array.from({ length: config.numHiddenLayers }, (_, i) => new Block(config, i, parameters, by));
    const embed = this.parameter("model.embed_tokens.weight");
    this.device = embed.device;
    // What attention in float64 turns keys and queries by is not rounded either.
    this.rotary = new RotaryTable(config, by.wideAttention ? "float64" : embed.dtype, this.device);
  }

  /** Fresh weights: normal with `initializerRange`, gains 1, router biases 0. The seed decides them. */
  static init(config: ModelConfig, seed: number, { dtype = "float32", device = "cpu" }: ModelOptions = {}): Model {
    torch.manualSeed(seed);
    const parameters = new Map<string, Tensor>();
    for (const { name, shape, kind } of parameterSpecs(config)) {
      const own = kind === "buffer" ? "float32" : dtype; // the router's bias is never rounded
      const value = kind === "norm" ? torch.ones(shape, { dtype: own }) : torch.zeros(shape, { dtype: own });
      if (kind === "matrix" || kind === "embedding") value.normal_(0, config.initializerRange);
      parameters.set(name, torch.keep(device === "cpu" ? value : value.to(device, own)));
    }
    return new Model(config, parameters);
  }

  parameter(name: string): Tensor {
    return this.parameters.get(name)!;
  }

  /** The context of a forward pass over positions [start, start + T). */
  context(
    T: number,
    {
      start = 0,
      docStart_BT = null,
      shared_BT2 = null,
      balance = 0,
    }: { start?: number } & Partial<Pick<Context, "docStart_BT" | "shared_BT2" | "balance">> = {},
  ): Context {
    const [cos_TR, sin_TR] = this.rotary.rows(start, T);
    return { cos_TR, sin_TR, docStart_BT, shared_BT2, balance };
  }

  embed(ids_BT: Tensor): Tensor {
    return torch.embedding(this.parameter("model.embed_tokens.weight"), ids_BT);
  }

  finalNorm(x: Tensor, dtype?: DType): Tensor {
    return rmsNorm(x, this.parameter("model.norm.weight"), this.config.rmsNormEps, dtype);
  }

  /** Logits of a residual stream [..., D] → [..., vocabulary]. */
  logits(x: Tensor): Tensor {
    return linear(this.finalNorm(x), this.parameter("lm_head.weight"));
  }

  /** −log p of each target (−100: ignored, 0), float32 [N], of logits divided by `temperature`. The N × vocabulary table
   *  is never whole in memory. */
  nll(x_BTD: Tensor, targets_BT: Tensor, temperature = 1): Tensor {
    const head_CD = this.parameter("lm_head.weight");
    const normed_ND = this.finalNorm(x_BTD, this.by.compute ?? head_CD.dtype).flatten(0, 1);
    const x_ND = temperature === 1 ? normed_ND : normed_ND.div(temperature);
    return linearCrossEntropy(x_ND, head_CD, targets_BT.flatten());
  }

  /** Runs every block; `each` sees their outputs. Returns the residual stream before the final norm. */
  forward(
    ids_BT: Tensor,
    context: Context = this.context(ids_BT.shape[1]!),
    each?: (output: BlockOutput, i: number, x_BTD: Tensor) => void,
  ): Tensor {
    let x_BTD = this.embed(ids_BT);
    for (const [i, block] of this.blocks.entries()) {
      const output = block.forward(x_BTD, context);
      each?.(output, i, x_BTD);
      x_BTD = output.y_BTD;
    }
    return x_BTD;
  }

  dispose(): void {
    this.rotary.dispose();
    for (const parameter of this.parameters.values()) if (parameter.live) parameter.dispose();
  }
}
