/**
 * One transformer block: x ← x + MLA(norm(x)); x ← x + FFN(norm(x)), with FFN dense or experts (specification §1.6–1.11).
 * The block is the unit of autograd: it reads its weights from a table, and everything that surrounds it (recompute,
 * storage of activations, gradient accumulation) is decided outside, in train/tape.ts.
 *
 * Shapes: B batch, T positions, N = B·T, D width, H heads, K query width, X = nope + value width, R rope width,
 * E experts, k experts a token.
 */
import { type DType, mlaAttention, moeExperts, linear as product, rmsNorm, swiglu, type Tensor } from "@massif/torch";
import { isMoe, type ModelConfig, qkHeadDim } from "./config.ts";
import { softmaxScale } from "./rope.ts";
import { route, sequenceBalance } from "./router.ts";

/** What a forward pass needs besides x: the rotary rows of its positions, and where each position's document starts. */
export interface Context {
  cos_TR: Tensor;
  sin_TR: Tensor;
  /** int32 [B, T]; null when each row is one document. */
  docStart_BT: Tensor | null;
  /** int32 [B, T, 2]: the stretch before it that its document shares with others, where some do. */
  shared_BT2: Tensor | null;
  /** Weight of the sequence balance loss; 0 computes none. */
  balance: number;
}

export interface BlockOutput {
  y_BTD: Tensor;
  /** Largest softmax input of each head over the batch. */
  maxLogit_H: Tensor;
  /** Experts chosen by each token (int64); layers with experts only. */
  idx_Nk?: Tensor;
  /** The sequence balance loss, already weighted; only when asked for. */
  balance?: Tensor;
}

/** What attention works on; nothing is rotated yet. */
export interface Projected {
  q_BTHK: Tensor;
  /** The normed latent, C = kvLoraRank wide. */
  latent_BTC: Tensor;
  /** The rotary key that all heads share. */
  kPe_BTR: Tensor;
}

export type Weights = ReadonlyMap<string, Tensor>;

const cast = (x: Tensor, dtype: DType): Tensor => (x.dtype === dtype ? x : x.to(dtype));

/** x·Wᵀ in the dtype of W; where a result's dtype is given, in that of x. */
export const linear = (x: Tensor, w: Tensor, dtype?: DType): Tensor =>
  dtype ? product(x, w, dtype) : product(cast(x, w.dtype), w);

/** How a block computes: the engine puts others in (exact ones, quantized experts). */
export interface Products {
  linear(x: Tensor, w: Tensor, dtype?: DType): Tensor;
  /** The routed experts of a block, [N, D]. */
  experts(block: Block, x_ND: Tensor, idx_Nk: Tensor, w_Nk: Tensor): Tensor;
  /** What products are computed in, where that is not the weights' dtype: activations too, but for the residual stream,
   *  what is added to it, and the router. */
  compute: DType | undefined;
  /** Attention in float64, its result rounded: then the expanded form of training and the absorbed one of decoding, which
   *  sum in different orders, round to the same float32. */
  wideAttention: boolean;
}

const products: Products = {
  linear,
  compute: undefined,
  wideAttention: false,
  experts(block, x_ND, idx_Nk, w_Nk) {
    const gateUp_EID = block.weight("mlp.experts.gate_up_proj");
    return moeExperts({
      x_ND: block.compute ? x_ND : cast(x_ND, gateUp_EID.dtype),
      idx_Nk,
      w_Nk: cast(w_Nk, gateUp_EID.dtype),
      gateUp_EID,
      down_EDI: block.weight("mlp.experts.down_proj"),
      dtype: gateUp_EID.dtype,
    });
  },
};

export class Block {
  readonly index: number;
  readonly config: ModelConfig;
  readonly moe: boolean;
  readonly scale: number;
  readonly #weights: Weights;
  readonly #prefix: string;
  readonly #products: Products;

  constructor(config: ModelConfig, index: number, weights: Weights, by: Partial<Products> = {}) {
    this.#products = { ...products, ...by };
    this.config = config;
    this.index = index;
    this.moe = isMoe(config, index);
    this.scale = softmaxScale(config);
    this.#weights = weights;
    this.#prefix = `model.layers.${index}.`;
  }

  /** A weight by its name within the block, e.g. `self_attn.o_proj.weight`. */
  weight(name: string): Tensor {
    return this.#weights.get(this.#prefix + name)!;
  }

  get compute(): DType | undefined {
    return this.#products.compute;
  }

  /** x·Wᵀ with the weight of that name. */
  linear(x: Tensor, name: string): Tensor {
    return this.#products.linear(x, this.weight(name), this.compute);
  }

  /** The same, to be added to the residual stream. */
  linearOut(x: Tensor, name: string): Tensor {
    const weight = this.weight(name);
    return this.#products.linear(x, weight, this.compute && weight.dtype);
  }

  get wideAttention(): boolean {
    return this.#products.wideAttention;
  }

  /** An input of attention, in what attention is computed in. */
  widen(x: Tensor): Tensor {
    return this.wideAttention ? x.to("float64") : x;
  }

  forward(x_BTD: Tensor, context: Context): BlockOutput {
    const { compute, config, moe } = this;
    const normed_BTD = this.norm(x_BTD, "input_layernorm.weight", config.rmsNormEps, compute);
    const [h_BTD, maxLogit_H] = this.attention(this.project(normed_BTD), context);
    const mid_BTD = x_BTD.add(h_BTD);
    const after = this.norm(mid_BTD, "post_attention_layernorm.weight", config.rmsNormEps, moe ? undefined : compute);
    const ffn = this.feedForward(after, context.balance);
    return { ...ffn, y_BTD: mid_BTD.add(ffn.y_BTD), maxLogit_H };
  }

  norm(x: Tensor, name: string, eps = this.config.rmsNormEps, dtype?: DType): Tensor {
    return rmsNorm(x, this.weight(name), eps, dtype);
  }

  project(x_BTD: Tensor): Projected {
    const { config } = this;
    const eps = config.latentNormEps;
    const q =
      config.qLoraRank === null
        ? this.linear(x_BTD, "self_attn.q_proj.weight")
        : this.linear(
            this.norm(this.linear(x_BTD, "self_attn.q_a_proj.weight"), "self_attn.q_a_layernorm.weight", eps),
            "self_attn.q_b_proj.weight",
          );
    const [raw, kPe_BTR] = this.linear(x_BTD, "self_attn.kv_a_proj_with_mqa.weight").split_with_sizes(
      [config.kvLoraRank, config.qkRopeHeadDim],
      -1,
    ) as [Tensor, Tensor];
    return {
      q_BTHK: q.unflatten(-1, [config.numAttentionHeads, qkHeadDim(config)]),
      latent_BTC: this.norm(raw, "self_attn.kv_a_layernorm.weight", eps),
      kPe_BTR,
    };
  }

  /** Attention over rebuilt keys and values: [B, T, D], and the largest softmax input of each head. */
  attention({ q_BTHK, latent_BTC, kPe_BTR }: Projected, context: Context): [Tensor, Tensor] {
    const { cos_TR, sin_TR, docStart_BT, shared_BT2 } = context;
    const { config } = this;
    const kv_b = this.widen(this.weight("self_attn.kv_b_proj.weight"));
    const kv_BTHX = this.#products
      .linear(this.widen(latent_BTC), kv_b, this.wideAttention ? undefined : this.compute)
      .unflatten(-1, [config.numAttentionHeads, -1]);
    const [out_BTHV, maxLogit_H] = mlaAttention({
      q_BTHK: this.widen(q_BTHK),
      kv_BTHX,
      kPe_BTR: this.widen(kPe_BTR),
      cos_TR: this.widen(cos_TR),
      sin_TR: this.widen(sin_TR),
      docStart_BT,
      shared_BT2,
      nope: config.qkNopeHeadDim,
      scale: this.scale,
    });
    const heads_BTN = out_BTHV.flatten(2);
    if (!this.wideAttention) return [this.output(heads_BTN), maxLogit_H];
    return [this.output(heads_BTN.to(q_BTHK.dtype)), maxLogit_H.to("float32")];
  }

  /** What the heads found, [B, T, H·V], back to width D. */
  output(heads_BTN: Tensor): Tensor {
    return this.linearOut(heads_BTN, "self_attn.o_proj.weight");
  }

  mlp(x: Tensor, prefix: string): Tensor {
    return this.linearOut(swiglu(this.linear(x, `${prefix}.gate_up_proj.weight`)), `${prefix}.down_proj.weight`);
  }

  feedForward(x_BTD: Tensor, balance: number): Omit<BlockOutput, "maxLogit_H"> {
    if (!this.moe) return { y_BTD: this.mlp(x_BTD, "mlp") };
    const { config } = this;
    const x_ND = x_BTD.flatten(0, 1);
    const { scores_NE, idx_Nk, w_Nk } = route(
      x_ND,
      this.weight("mlp.gate.weight"),
      this.weight("mlp.gate.e_score_correction_bias"),
      config,
      this.#products,
    );
    const in_ND = this.compute ? cast(x_ND, this.compute) : x_ND;
    const routed_ND = this.#products.experts(this, in_ND, idx_Nk, w_Nk);
    const y_ND = config.nSharedExperts ? routed_ND.add(this.mlp(in_ND, "mlp.shared_experts")) : routed_ND;
    return {
      y_BTD: y_ND.view(x_BTD.shape),
      idx_Nk,
      ...(balance > 0 && { balance: sequenceBalance(scores_NE, x_BTD.shape[0]!, config).mul(balance) }),
    };
  }
}
