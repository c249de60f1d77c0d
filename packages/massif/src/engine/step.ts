/**
 * One step of the model over the paged cache: tokens of many sequences, some decoding, some in a chunk of their prompt.
 * Every row (token) goes through the dense parts together; attention is absorbed (specification §1.8), over what the
 * blocks of its sequence hold. A prompt's first chunk has its keys and values at hand and rebuilds them instead, but for
 * where the engine is exact: the two round differently. Where the model is packed, one operator does it all
 * (packed-step.ts), and this is its plain twin.
 *
 * Shapes: N rows, B sequences of a group, T rows each, M blocks a sequence, C = kvLoraRank, R rope width, W = C + R,
 * H heads, V value width, D width, k experts a token.
 */
import { mlaAttention, mlaDecode, rotary, type Tensor, torch } from "@massif/torch";
import type { Block, Model, PackedModel } from "../model/index.ts";
import type { PagedCache } from "./cache.ts";
import type { Numerics } from "./numerics.ts";
import { packedStep } from "./packed-step.ts";
import type { Runtime } from "./runtime.ts";

/** Rows [from, from + tokens.length) of one sequence: what follows `start` positions in its blocks. */
export interface Stretch {
  tokens: ArrayLike<number>;
  start: number;
  blocks: readonly number[];
  /** For which of its tokens logits are wanted: the last, or all of them. */
  logits: "none" | "last" | "all";
}

export interface StepResult {
  /** Logits of the wanted tokens, in the order of the stretches, float32 [wanted, vocabulary]. */
  logits: Tensor | undefined;
  /** Experts of every row and layer with experts, [layers, N, k], and each stretch's first row; when asked for. */
  experts?: { chosen: Tensor; rows: number[] };
}

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

interface Layout {
  groups: Group[];
  prompts: Prompt[];
}

export class Stepper {
  readonly #model: Model;
  readonly #blocks: readonly Block[];
  readonly #cache: PagedCache;
  readonly #numerics: Numerics;
  readonly #packed: PackedModel | undefined;

  constructor({ model, blocks, numerics, packed }: Runtime, cache: PagedCache) {
    this.#model = model;
    this.#blocks = blocks;
    this.#cache = cache;
    this.#numerics = numerics;
    this.#packed = packed;
  }

  /** Writes the latents of all rows and returns the logits that are wanted. The tensors are the caller's to free. */
  step(stretches: readonly Stretch[], { experts = false } = {}): StepResult {
    if (this.#packed) return packedStep(this.#packed, this.#cache, stretches, experts);
    using _ = torch.noGrad();
    return torch.tidy(() => {
      const model = this.#model;
      const order = this.#order(stretches);
      const rows: number[] = [];
      let N = 0;
      for (const i of order) {
        rows[i] = N;
        N += stretches[i]!.tokens.length;
      }
      const layout = this.#layout(order.map((i) => stretches[i]!));
      const ids = new Int32Array(N);
      for (const i of order) ids.set(stretches[i]!.tokens, rows[i]!);
      let x_1ND = model.embed(torch.tensor(ids, { shape: [1, N], device: model.device }));
      const chosen: Tensor[] = [];
      for (const block of this.#blocks) {
        const h_1ND = this.#attend(block, block.norm(x_1ND, "input_layernorm.weight"), layout);
        const mid_1ND = x_1ND.add(h_1ND);
        const ffn = block.feedForward(block.norm(mid_1ND, "post_attention_layernorm.weight"), 0);
        if (experts && ffn.idx_Nk) chosen.push(ffn.idx_Nk);
        x_1ND = mid_1ND.add(ffn.y_BTD);
      }
      const wanted = stretches.flatMap(({ tokens, logits }, i) => {
        const [first, n] = [rows[i]!, tokens.length];
        if (logits === "all") return Array.from({ length: n }, (_, t) => first + t);
        return logits === "last" ? [first + n - 1] : [];
      });
      return {
        logits: wanted.length ? this.#logits(x_1ND.squeeze(0), wanted) : undefined,
        ...(experts && { experts: { chosen: torch.stack(chosen), rows } }),
      };
    });
  }

  #logits(x_ND: Tensor, wanted: readonly number[]): Tensor {
    const model = this.#model;
    const inOrder = wanted.length === x_ND.shape[0] && wanted.every((row, i) => row === i);
    const picked = inOrder ? x_ND : x_ND.index_select(0, int32(wanted, model.device));
    return this.#numerics.linear(model.finalNorm(picked), model.parameter("lm_head.weight")).to("float32");
  }

  /** Decoding sequences, then chunks behind a prefix, then first chunks. */
  #order(stretches: readonly Stretch[]): number[] {
    const rank = ({ tokens, start }: Stretch) => (tokens.length === 1 ? 0 : this.#rebuilt(start) ? 2 : 1);
    return Array.from(stretches.keys()).sort((i, j) => rank(stretches[i]!) - rank(stretches[j]!) || i - j);
  }

  #rebuilt(start: number): boolean {
    return start === 0 && !this.#numerics.exact;
  }

  #layout(stretches: readonly Stretch[]): Layout {
    const { device, rotary } = this.#model;
    const n = this.#cache.blockSize;
    const positions = stretches.flatMap(({ tokens, start }) => Array.from(tokens, (_, t) => start + t));
    this.#cache.touch(
      Math.max(
        ...stretches.flatMap(({ tokens, start, blocks }) => blocks.slice(0, Math.ceil((start + tokens.length) / n))),
      ),
    );
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
        const slots = Array.from(tokens, (_, t) => blocks[Math.floor(t / n)]! * n + (t % n));
        const slots_T = int32(slots, device).to("int64");
        prompts.push({ from, T, slots_T, cos_TR: cos_NR.narrow(0, from, T), sin_TR: sin_NR.narrow(0, from, T) });
      } else group([stretch], from, T);
      from += T;
    }
    return { groups, prompts };
  }

  /** The block's attention: [1, N, D] of the normed residual stream to [1, N, D]. */
  #attend(block: Block, x_1ND: Tensor, { groups, prompts }: Layout): Tensor {
    const { kvLoraRank: C, qkNopeHeadDim: nope, numAttentionHeads: H } = block.config;
    const { q_BTHK: q_1NHK, latent_BTC: latent_1NC, kPe_BTR: kPe_1NR } = block.project(x_1ND);
    const N = x_1ND.shape[1]!;
    const { scale } = block;
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
        cache_SW: this.#cache.slots(block.index),
        block: this.#cache.blockSize,
        kv_HXC: kv_b.view([H, -1, C]),
        ...{ nope, scale },
      });
      heads.push(out_BTHV.reshape([1, B * T, -1]));
    }
    for (const { from, T, slots_T, cos_TR, sin_TR } of prompts) {
      const [cos, sin] = [block.widen(cos_TR), block.widen(sin_TR)];
      const [latent_1TC, kPe_1TR] = [rows(latent_1NC, from, 1, T), rows(kPe_1NR, from, 1, T)];
      const entries_1TW = torch.cat([latent_1TC, rotary(kPe_1TR, cos, sin)], -1);
      this.#cache.slots(block.index).index_copy_(0, slots_T, entries_1TW.squeeze(0));
      const [out_1THV] = mlaAttention({
        q_BTHK: rows(q_1NHK, from, 1, T),
        kv_BTHX: this.#numerics.linear(latent_1TC, kv_b).unflatten(-1, [H, -1]),
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
