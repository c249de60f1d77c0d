/**
 * One step of the model over the paged cache: tokens of many sequences, some decoding, some in a chunk of their prompt.
 * Every row (token) goes through the dense parts together; attention is absorbed (specification §1.8), over what the
 * blocks of its sequence hold. A prompt's first chunk has its keys and values at hand and rebuilds them instead.
 *
 * Shapes: N rows, B sequences of a group, T rows each, S positions looked at, C = kvLoraRank, R rope width, W = C + R,
 * H heads, V value width, D width, k experts a token.
 */
import { mlaAttention, type Tensor, torch } from "@massif/torch";
import type { Block, Model } from "../model/index.ts";
import type { PagedCache } from "./cache.ts";
import type { Numerics } from "./numerics.ts";

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
  /** Experts of every row and layer with experts, int64 [layers, N, k], and each stretch's first row; when asked for. */
  experts?: { chosen: Tensor; rows: number[] };
}

/** Logits × rows of one product of attention: beyond, a chunk goes in parts. */
const MAX_SCORES = 1 << 24;

/** Sequences looked at together: T rows each, from row `from` on. */
interface Group {
  from: number;
  B: number;
  T: number;
  tables: Tensor;
  /** [B, T, 1, S]: what comes after the row's own position. */
  hidden_BT1S: Tensor;
}

interface Layout {
  slots_N: Tensor;
  /** cos + i·sin, [N, 1, R / 2]. */
  turn_N1R: Tensor;
  /** Rows before this one are attended absorbed. */
  absorbed: number;
  groups: Group[];
  /** The first chunks of prompts: rows [from, from + T). */
  prompts: { from: number; T: number; cos_TR: Tensor; sin_TR: Tensor }[];
}

export class Stepper implements Disposable {
  readonly #model: Model;
  readonly #blocks: readonly Block[];
  readonly #cache: PagedCache;
  readonly #numerics: Numerics;
  /** Of each layer, kv_b_proj's parts by head, as views: [H, nope, C] and [H, C, V]. */
  readonly #absorbing: { key_HnC: Tensor; value_HCV: Tensor }[];

  constructor(model: Model, blocks: readonly Block[], cache: PagedCache, numerics: Numerics) {
    this.#model = model;
    this.#blocks = blocks;
    this.#cache = cache;
    this.#numerics = numerics;
    const { numAttentionHeads: H, qkNopeHeadDim: nope, vHeadDim: V, kvLoraRank: C } = model.config;
    this.#absorbing = blocks.map((block) => {
      using _ = torch.scope();
      const kv_HXC = block.weight("self_attn.kv_b_proj.weight").view([H, nope + V, C]);
      const [key_HnC, value_HXC] = kv_HXC.split_with_sizes([nope, V], 1) as [Tensor, Tensor];
      return { key_HnC: torch.keep(key_HnC), value_HCV: torch.keep(value_HXC.mT) };
    });
  }

  [Symbol.dispose](): void {
    for (const { key_HnC, value_HCV } of this.#absorbing) for (const view of [key_HnC, value_HCV]) view.dispose();
  }

  /** Writes the latents of all rows and returns the logits that are wanted. The tensors are the caller's to free. */
  step(stretches: readonly Stretch[], { experts = false } = {}): StepResult {
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
      const layout = this.#layout(
        order.map((i) => stretches[i]!),
        N,
      );
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

  /** Decoding sequences by length, then chunks behind a prefix, then first chunks. */
  #order(stretches: readonly Stretch[]): number[] {
    const rank = ({ tokens, start }: Stretch) => (tokens.length === 1 ? 0 : this.#rebuilt(start) ? 2 : 1);
    const length = (s: Stretch) => (rank(s) === 0 ? size(s.blocks.length) : 0);
    return Array.from(stretches.keys()).sort((i, j) => {
      const [a, b] = [stretches[i]!, stretches[j]!];
      return rank(a) - rank(b) || length(a) - length(b) || i - j;
    });
  }

  #rebuilt(start: number): boolean {
    return start === 0 && !this.#numerics.exact;
  }

  #layout(stretches: readonly Stretch[], N: number): Layout {
    const { device, rotary, config } = this.#model;
    const n = this.#cache.blockSize;
    const slots: number[] = [];
    const positions: number[] = [];
    for (const { tokens, start, blocks } of stretches)
      for (let p = start; p < start + tokens.length; p++) {
        slots.push(blocks[Math.floor(p / n)]! * n + (p % n));
        positions.push(p);
      }
    this.#cache.touch(Math.floor(Math.max(...slots) / n));
    const [cos_NR, sin_NR] = rotary.at(int32(positions, device), Math.max(...positions));
    const groups: Group[] = [];
    const prompts: Layout["prompts"] = [];
    let from = 0;
    for (let i = 0; i < stretches.length; ) {
      const { tokens, start, blocks } = stretches[i]!;
      if (tokens.length > 1 && this.#rebuilt(start)) {
        const T = tokens.length;
        prompts.push({ from, T, cos_TR: cos_NR.narrow(0, from, T), sin_TR: sin_NR.narrow(0, from, T) });
        from += T;
        i++;
        continue;
      }
      if (tokens.length === 1) {
        const first = i;
        const like = size(blocks.length);
        while (stretches[i]?.tokens.length === 1 && size(stretches[i]!.blocks.length) === like) i++;
        const members = stretches.slice(first, i);
        groups.push(
          this.#group(
            members,
            from,
            1,
            members.map((s) => s.start),
          ),
        );
        from += members.length;
        continue;
      }
      const seen = blocks.slice(0, Math.ceil((start + tokens.length) / n));
      const most = Math.max(1, Math.floor(MAX_SCORES / (config.numAttentionHeads * seen.length * n)));
      for (let t = 0; t < tokens.length; t += most) {
        const T = Math.min(most, tokens.length - t);
        const at = Array.from({ length: T }, (_, j) => start + t + j);
        groups.push(this.#group([{ blocks: seen }], from + t, T, at));
      }
      from += tokens.length;
      i++;
    }
    return {
      slots_N: int32(slots, device).to("int64"),
      turn_N1R: torch.complex(cos_NR, sin_NR).unsqueeze(1),
      absorbed: prompts[0]?.from ?? N,
      groups,
      prompts,
    };
  }

  #group(members: readonly { blocks: readonly number[] }[], from: number, T: number, positions: number[]): Group {
    const { device } = this.#model;
    const B = members.length;
    const longest = Math.max(...members.map(({ blocks }) => blocks.length));
    const tables = members.flatMap(({ blocks }) => Array.from({ length: longest }, (_, i) => blocks[i] ?? 0));
    const position_BT11 = int32(positions, device).view([B, T, 1, 1]);
    return {
      from,
      B,
      T,
      tables: int32(tables, device),
      hidden_BT1S: torch.arange(longest * this.#cache.blockSize, { device }).gt(position_BT11),
    };
  }

  /** The block's attention: [1, N, D] of the normed residual stream to [1, N, D]. */
  #attend(block: Block, x_1ND: Tensor, layout: Layout): Tensor {
    const { kvLoraRank: C, qkNopeHeadDim: nope, qkRopeHeadDim: R, vHeadDim: V, numAttentionHeads: H } = block.config;
    const projected = block.project(x_1ND);
    const N = x_1ND.shape[1]!;
    const [qNope_NHn, qPe_NHR] = projected.q_BTHK.view([N, H, nope + R]).split_with_sizes([nope, R], -1) as [
      Tensor,
      Tensor,
    ];
    const turned_NGR = turn(torch.cat([qPe_NHR, projected.kPe_BTR.reshape([N, 1, R])], 1), layout.turn_N1R);
    const [qTurned_NHR, kTurned_N1R] = turned_NGR.split_with_sizes([H, 1], 1) as [Tensor, Tensor];
    const latent_NC = projected.latent_BTC.view([N, C]);
    this.#cache.write(block.index, layout.slots_N, torch.cat([latent_NC, kTurned_N1R.reshape([N, R])], -1));

    const heads: Tensor[] = [];
    const { absorbed: A, groups, prompts } = layout;
    if (A) {
      const first = (x: Tensor) => (A === N ? x : x.narrow(0, 0, A));
      const { key_HnC, value_HCV } = this.#absorbing[block.index]!;
      const qLat_HAC = this.#numerics.bmm(first(qNope_NHn).transpose(0, 1), key_HnC);
      const q_AHW = torch.cat([qLat_HAC.transpose(0, 1), first(qTurned_NHR)], -1);
      const o_AHC = groups.map((group) => this.#look(block, q_AHW, group));
      const o_HAC = (o_AHC.length === 1 ? o_AHC[0]! : torch.cat(o_AHC)).transpose(0, 1);
      heads.push(
        this.#numerics
          .bmm(o_HAC, value_HCV)
          .transpose(0, 1)
          .reshape([A, H * V]),
      );
    }
    for (const { from, T, cos_TR, sin_TR } of prompts) {
      const latent_1TC = projected.latent_BTC.narrow(1, from, T);
      const [out_1THV] = mlaAttention({
        q_BTHK: projected.q_BTHK.narrow(1, from, T),
        kv_BTHX: block.linear(latent_1TC, "self_attn.kv_b_proj.weight").unflatten(-1, [H, nope + V]),
        kPe_BTR: projected.kPe_BTR.narrow(1, from, T),
        ...{ cos_TR, sin_TR, docStart_BT: null, nope, scale: block.scale },
      });
      heads.push(out_1THV.reshape([T, H * V]));
    }
    return block.output((heads.length === 1 ? heads[0]! : torch.cat(heads)).unsqueeze(0));
  }

  /** What the rows of a group find among the latents of their sequences: [B·T, H, C]. */
  #look(block: Block, q_AHW: Tensor, { from, B, T, tables, hidden_BT1S }: Group): Tensor {
    const { kvLoraRank: C } = block.config;
    const [, H, W] = q_AHW.shape as [number, number, number];
    const seen_BSW = this.#cache.read(block.index, tables, B);
    const scores_BTHS = this.#numerics
      .bmm(q_AHW.narrow(0, from, B * T).reshape([B, T * H, W]), seen_BSW.mT)
      .mul_(block.scale)
      .view([B, T, H, -1])
      .masked_fill_(hidden_BT1S, -Infinity);
    const p_BTHS = scores_BTHS.to("float32").softmax(-1).to(seen_BSW.dtype);
    return this.#numerics.bmm(p_BTHS.view([B, T * H, -1]), seen_BSW.narrow(-1, 0, C)).view([B * T, H, C]);
  }
}

/** Lengths of a group differ by less than twice. */
const size = (blocks: number): number => Math.ceil(Math.log2(blocks));

/** Rotates the pairs (2j, 2j + 1) of x [N, G, R] as complex numbers. */
function turn(x_NGR: Tensor, turn_N1R: Tensor): Tensor {
  const pairs = torch.view_as_complex(
    x_NGR.to(turn_N1R.dtype === "complex128" ? "float64" : "float32").unflatten(-1, [-1, 2]),
  );
  return torch.view_as_real(pairs.mul(turn_N1R)).flatten(-2).to(x_NGR.dtype);
}

const int32 = (values: readonly number[], device: string): Tensor => torch.tensor(Int32Array.from(values), { device });
