/**
 * One step over a paged cache: new tokens of many sequences, some decoding, some in a chunk of their prompt. Two compute it:
 * `PackedModel` (packed.ts) by one operator, and `BlockSteps` through the model's blocks, on any device, in any dtype, with
 * any products: what the operator is tested against.
 *
 * Every row (token) goes through the dense parts together; attention is absorbed (specification §1.8): queries are carried
 * into the latent space, so keys and values of what is cached are never rebuilt. A prompt's first chunk has its keys and
 * values at hand, where they are narrower than latents, and rebuilds them, unless it is to be exact: the two round
 * differently.
 *
 * Shapes: N rows, B sequences of a group, T rows each, M blocks a sequence, L layers, C = kvLoraRank, R rope width,
 * W = C + R, H heads, V value width, D width, k experts a token.
 */
import { type DType, mlaAttention, mlaDecode, rotary, type Tensor, torch } from "@massif/torch";
import { Block, linear, type Products } from "./block.ts";
import type { Model } from "./model.ts";

/** New rows of one sequence: behind `start` positions in its blocks. */
export interface Stretch {
  tokens: ArrayLike<number>;
  start: number;
  blocks: readonly number[];
  /** For how many of its last tokens logits are wanted. */
  wanted: number;
}

export interface Steps extends Disposable {
  /**
   * Writes the entries of all rows into the cache [L, slots, W], of blocks of `block` slots. Rows are those of the stretches,
   * in their order. Logits [wanted, vocabulary], float32 (float64 for a model in it; `hidden`: what they are made from), and
   * experts [layers with experts, N, k]. No gradients.
   */
  step(
    stretches: readonly Stretch[],
    cache_LSW: Tensor,
    block: number,
    options?: { hidden?: boolean },
  ): [wanted: Tensor, experts_LNk: Tensor];
  /** The weights have changed. */
  refresh(): void;
  /** Gives back what memory it has beside the model's, until `refresh`. */
  release(): void;
}

/** What latents are held in: what attention is computed in. */
export const cacheType = (model: Model): DType =>
  model.by.wideAttention ? "float64" : model.parameter("model.layers.0.self_attn.kv_b_proj.weight").dtype;

/** Sequences attended together: T rows each, from row `from` on. */
interface Group {
  from: number;
  B: number;
  T: number;
  /** int32 [B, M], padded with block 0: a row looks no further than its own position. */
  table_BM: Tensor;
  position_BT: Tensor;
  cos_NR: Tensor;
  sin_NR: Tensor;
}

/** The first chunk of a prompt: rows [from, from + T). */
interface Prompt {
  from: number;
  T: number;
  slots_T: Tensor;
  cos_TR: Tensor;
  sin_TR: Tensor;
}

interface Cache {
  all_LSW: Tensor;
  block: number;
}

export interface BlockStepsOptions {
  /** How the blocks and the head compute, where not as the model's. */
  by?: Partial<Products>;
  /** Nothing is rebuilt: a row has the same bits however its sequence was cut. */
  exact?: boolean;
}

export class BlockSteps implements Steps {
  readonly #model: Model;
  readonly #blocks: readonly Block[];
  readonly #linear: Products["linear"];
  readonly #exact: boolean;

  constructor(model: Model, { by = {}, exact = false }: BlockStepsOptions = {}) {
    const { config, parameters } = model;
    // Decoding computes in the dtype of the weights, training's masters too.
    const products = { ...model.by, compute: undefined, ...by };
    this.#model = model;
    this.#blocks = model.blocks.map((_, i) => new Block(config, i, parameters, products));
    this.#linear = products.linear ?? linear;
    this.#exact = exact;
  }

  step(
    stretches: readonly Stretch[],
    cache_LSW: Tensor,
    block: number,
    { hidden = false } = {},
  ): [wanted: Tensor, experts_LNk: Tensor] {
    using _ = torch.noGrad();
    return torch.tidy(() => {
      const model = this.#model;
      const cache: Cache = { all_LSW: cache_LSW, block };
      const order = this.#order(stretches);
      const first: number[] = [];
      let N = 0;
      for (const i of order) {
        first[i] = N;
        N += stretches[i]!.tokens.length;
      }
      const ids = new Int32Array(N);
      for (const i of order) ids.set(stretches[i]!.tokens, first[i]!);
      const inOrder = order.map((i) => stretches[i]!);
      const layout = this.#layout(inOrder, block);
      let x_1ND = model.embed(torch.tensor(ids, { shape: [1, N], device: model.device }));
      const chosen: Tensor[] = [];
      for (const block of this.#blocks) {
        const h_1ND = this.#attend(block, block.norm(x_1ND, "input_layernorm.weight"), layout, cache);
        const mid_1ND = x_1ND.add(h_1ND);
        const ffn = block.feedForward(block.norm(mid_1ND, "post_attention_layernorm.weight"), 0);
        if (ffn.idx_Nk) chosen.push(ffn.idx_Nk);
        x_1ND = mid_1ND.add(ffn.y_BTD);
      }
      const rows = stretches.flatMap(({ tokens }, i) => Array.from(tokens, (_, t) => first[i]! + t));
      const wanted = stretches.flatMap(({ tokens: { length }, wanted }, i) =>
        Array.from({ length: wanted }, (_, t) => first[i]! + length - wanted + t),
      );
      const none = torch.zeros([0, N, model.config.numExpertsPerTok], { dtype: "int64" });
      return [
        this.#told(pick(x_1ND.squeeze(0), 0, wanted), hidden),
        chosen.length ? pick(torch.stack(chosen), 1, rows) : none,
      ];
    });
  }

  /** It reads the model's own weights. */
  refresh(): void {}

  release(): void {}

  [Symbol.dispose](): void {}

  #told(x_ND: Tensor, hidden: boolean): Tensor {
    const normed_ND = this.#model.finalNorm(x_ND);
    if (hidden) return normed_ND;
    const logits_NC = this.#linear(normed_ND, this.#model.parameter("lm_head.weight"));
    return logits_NC.dtype === "float64" ? logits_NC : logits_NC.to("float32");
  }

  /** Decoding sequences, then chunks behind a prefix, then first chunks. */
  #order(stretches: readonly Stretch[]): number[] {
    const rank = ({ tokens, start }: Stretch) => (tokens.length === 1 ? 0 : this.#rebuilt(start) ? 2 : 1);
    return Array.from(stretches.keys()).sort((i, j) => rank(stretches[i]!) - rank(stretches[j]!) || i - j);
  }

  #rebuilt(start: number): boolean {
    return start === 0 && !this.#exact;
  }

  #layout(stretches: readonly Stretch[], block: number): { groups: Group[]; prompts: Prompt[] } {
    const { device, rotary } = this.#model;
    const positions = stretches.flatMap(({ tokens, start }) => Array.from(tokens, (_, t) => start + t));
    const position_N = int32(positions, device);
    const [cos_NR, sin_NR] = rotary.at(position_N, Math.max(...positions));
    const groups: Group[] = [];
    const prompts: Prompt[] = [];
    const group = (members: readonly Stretch[], from: number, T: number) => {
      const B = members.length;
      const longest = Math.max(...members.map(({ blocks }) => blocks.length));
      const table = members.flatMap(({ blocks }) => Array.from({ length: longest }, (_, i) => blocks[i] ?? 0));
      groups.push({
        ...{ from, B, T },
        table_BM: int32(table, device).view([B, longest]),
        position_BT: position_N.narrow(0, from, B * T).view([B, T]),
        cos_NR: cos_NR.narrow(0, from, B * T),
        sin_NR: sin_NR.narrow(0, from, B * T),
      });
    };
    const decoding = stretches.filter(({ tokens }) => tokens.length === 1);
    if (decoding.length) group(decoding, 0, 1);
    let from = decoding.length;
    for (const stretch of stretches.slice(from)) {
      const { tokens, start, blocks } = stretch;
      const T = tokens.length;
      if (this.#rebuilt(start)) {
        const slots = Array.from(tokens, (_, t) => blocks[Math.floor(t / block)]! * block + (t % block));
        const slots_T = int32(slots, device).to("int64");
        prompts.push({ from, T, slots_T, cos_TR: cos_NR.narrow(0, from, T), sin_TR: sin_NR.narrow(0, from, T) });
      } else group([stretch], from, T);
      from += T;
    }
    return { groups, prompts };
  }

  /** The block's attention: [1, N, D] of the normed residual stream to [1, N, D]. */
  #attend(
    block: Block,
    x_1ND: Tensor,
    { groups, prompts }: { groups: Group[]; prompts: Prompt[] },
    cache: Cache,
  ): Tensor {
    const { kvLoraRank: C, qkNopeHeadDim: nope, numAttentionHeads: H } = block.config;
    const { q_BTHK: q_1NHK, latent_BTC: latent_1NC, kPe_BTR: kPe_1NR } = block.project(x_1ND);
    const N = x_1ND.shape[1]!;
    const { scale } = block;
    const cache_SW = cache.all_LSW.select(0, block.index);
    const rows = (x: Tensor, from: number, B: number, T: number) =>
      block.widen(B * T === N ? x : x.narrow(1, from, B * T)).view([B, T, ...x.shape.slice(2)]);
    const kv_b = block.widen(block.weight("self_attn.kv_b_proj.weight"));
    const heads: Tensor[] = [];
    for (const { from, B, T, ...where } of groups) {
      const { cos_NR, sin_NR } = where;
      const out_BTHV = mlaDecode({
        ...where,
        ...{ cos_NR: block.widen(cos_NR), sin_NR: block.widen(sin_NR) },
        q_BTHK: rows(q_1NHK, from, B, T),
        latent_BTC: rows(latent_1NC, from, B, T),
        kPe_BTR: rows(kPe_1NR, from, B, T),
        ...{ cache_SW, block: cache.block },
        kv_HXC: kv_b.view([H, -1, C]),
        ...{ nope, scale },
      });
      heads.push(out_BTHV.reshape([1, B * T, -1]));
    }
    for (const { from, T, slots_T, cos_TR, sin_TR } of prompts) {
      const [cos, sin] = [block.widen(cos_TR), block.widen(sin_TR)];
      const [latent_1TC, kPe_1TR] = [rows(latent_1NC, from, 1, T), rows(kPe_1NR, from, 1, T)];
      const entries_1TW = torch.cat([latent_1TC, rotary(kPe_1TR, cos, sin)], -1);
      cache_SW.index_copy_(0, slots_T, entries_1TW.squeeze(0));
      const [out_1THV] = mlaAttention({
        q_BTHK: rows(q_1NHK, from, 1, T),
        kv_BTHX: this.#linear(latent_1TC, kv_b).unflatten(-1, [H, -1]),
        kPe_BTR: kPe_1TR,
        ...{ cos_TR: cos, sin_TR: sin, docStart_BT: null, nope, scale },
      });
      heads.push(out_1THV.flatten(2));
    }
    const heads_1NV = heads.length === 1 ? heads[0]! : torch.cat(heads, 1);
    return block.output(block.wideAttention ? heads_1NV.to(q_1NHK.dtype) : heads_1NV);
  }
}

const int32 = (values: readonly number[], device: string): Tensor => torch.tensor(Int32Array.from(values), { device });

/** Rows of a dimension; x itself where they are all of them, in order. */
const pick = (x: Tensor, dim: number, rows: readonly number[]): Tensor =>
  rows.length === x.shape[dim] && rows.every((row, i) => row === i) ? x : x.index_select(dim, int32(rows, x.device));
