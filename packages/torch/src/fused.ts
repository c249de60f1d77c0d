/**
 * Our own operators (native/ops) and their plain twins. Each function here takes the fused operator where it runs (CPU;
 * float32, float64 and mostly bfloat16; unless MASSIF_OPS=plain) and otherwise computes the same from ATen operators: the
 * twin is the oracle in tests, the way on other devices, and the readable account of what the fused one does.
 *
 * Products are computed in the dtype of x. Beside a bfloat16 x, weights may be float32 masters (rounded where they are read,
 * their gradients are not) and results may be asked for in float32.
 *
 * Shapes: B batch, T positions, N = B·T tokens, D width, H heads, K = nope + rope query width, V value width, R rope width,
 * E experts, k experts a token, I expert width, C vocabulary.
 */

import { cpuFeatures } from "./build.ts";
import type { DType } from "./dtype.ts";
import { functions } from "./ops.ts";
import { type Operator, operator } from "./overloads.ts";
import type { Tensor } from "./tensor.ts";

let plain = process.env.MASSIF_OPS === "plain";

/** Switches the fused operators off (or on again): for tests and for comparing. */
export function usePlain(on: boolean): void {
  plain = on;
}

/** Which path `x` would take. */
export const runsFused = (x: Tensor): boolean =>
  !plain && x.device === "cpu" && (x.dtype === "float32" || x.dtype === "float64");

/** Whether `x` is bfloat16 where our operators run: multiplied as it is where the CPU can, else widened as it is read. */
export const runsNarrow = (x: Tensor): boolean => !plain && x.device === "cpu" && x.dtype === "bfloat16";
const runsOwn = (x: Tensor): boolean => runsFused(x) || runsNarrow(x);

/** Whether ATen's dense bfloat16 products beat ours here: oneDNN has the CPU's tile units (AMX), we do not. */
export const hasTiles = (): boolean => (tiles ??= cpuFeatures().features.includes("amx_bf16"));
let tiles: boolean | undefined;

/** What products are fastest in on a device: bfloat16 where its units multiply that, else float32. */
export const fastestProducts = (device: string): "float32" | "bfloat16" =>
  device.startsWith("cuda") || (device === "cpu" && !plain && cpuFeatures().features.includes("avx512_bf16"))
    ? "bfloat16"
    : "float32";

const cast = (x: Tensor, dtype: DType): Tensor => (x.dtype === dtype ? x : x.to(dtype));

const own = new Map<string, Operator>();
const massif = (name: string): Operator => {
  let op = own.get(name);
  if (!op) own.set(name, (op = operator(`massif::${name}`)));
  return op;
};

/** The path that float32 and bfloat16 take on this CPU: what the add-on was compiled for, which is what the CPU has. */
export function operatorPath(): string {
  if (plain) return "plain: ATen's, since MASSIF_OPS=plain";
  const path = massif("path")() as unknown as string;
  return `our own: ${path}${hasTiles() ? "; dense bfloat16 products by oneDNN, which has the CPU's AMX" : ""}`;
}

/** The dtype in which statistics are kept: float32, or float64 for float64. */
const wide = (x: Tensor) => (x.dtype === "float64" ? "float64" : "float32");

/** x·Wᵀ. Float32 products of our own are about twice MKL's at a model's widths on AMD. */
export function linear(x: Tensor, weight_OI: Tensor, dtype: DType = x.dtype): Tensor {
  if (runsFused(x) || (runsNarrow(x) && !hasTiles()))
    return massif("linear")(x, weight_OI, ...result(dtype, x)) as Tensor;
  return cast(functions.linear(x, cast(weight_OI, x.dtype)), dtype);
}

/** The last argument of an operator whose result is not of x's dtype. */
const result = (dtype: DType, x: Tensor): [DType?] => (dtype === x.dtype ? [] : [dtype]);

/** RMSNorm: w · cast(x · rsqrt(mean(x²) + ε)), statistics in float32. */
export function rmsNorm(x: Tensor, weight_D: Tensor, eps: number, dtype: DType = x.dtype): Tensor {
  if (runsOwn(x)) return massif("rms_norm")(x, weight_D, eps, ...result(dtype, x)) as Tensor;
  const x32 = x.to(wide(x));
  return cast(weight_D.mul(x32.mul(x32.square().mean([-1], true).add(eps).rsqrt()).to(x.dtype)), dtype);
}

/** 1 / (1 + e⁻ˣ). */
export const sigmoid = (x: Tensor): Tensor => (runsFused(x) ? (massif("sigmoid")(x) as Tensor) : x.sigmoid());

/** silu(gate) ⊙ up of [..., gate | up]. */
export function swiglu(gateUp: Tensor): Tensor {
  if (runsOwn(gateUp)) return massif("swiglu")(gateUp) as Tensor;
  const [gate, up] = gateUp.chunk(2, -1) as [Tensor, Tensor];
  return gate.silu().mul(up);
}

/** Rotates the pairs (2j, 2j + 1) of x [B, T, …, R] by the angles of cos and sin [T, R / 2], or [B, T, R / 2]. */
export function rotary(x: Tensor, cos_TR: Tensor, sin_TR: Tensor): Tensor {
  const shape = [...cos_TR.shape.slice(0, -1), ...x.shape.slice(2, -1).map(() => 1), cos_TR.shape.at(-1)!];
  const [cos, sin] = [cos_TR.view(shape), sin_TR.view(shape)];
  const pairs = x.to(cos.dtype).unflatten(-1, [-1, 2]);
  const [a, b] = [pairs.select(-1, 0), pairs.select(-1, 1)];
  return functions
    .stack([a.mul(cos).sub(b.mul(sin)), a.mul(sin).add(b.mul(cos))], -1)
    .flatten(-2)
    .to(x.dtype);
}

export interface MlaInputs {
  /** Queries; the last R of K are rotary, not yet rotated. */
  q_BTHK: Tensor;
  /** Per head: the key without position, then the value. */
  kv_BTHX: Tensor;
  /** The rotary key that all heads share, not yet rotated. */
  kPe_BTR: Tensor;
  /** Of the places in a document. */
  cos_TR: Tensor;
  sin_TR: Tensor;
  /** For each position the first one of its document (int32); null: the row is one document. */
  docStart_BT: Tensor | null;
  /** For each position the stretch [from, to) that its document has in common with others (int32): it lies before them, they
   *  see it and count on from it. Absent: nothing is shared. */
  shared_BT2?: Tensor | null;
  nope: number;
  scale: number;
}

/** Causal multi-head latent attention within documents. Also the largest softmax input of each head, which QK-Clip wants. */
export function mlaAttention(inputs: MlaInputs): [out_BTHV: Tensor, maxLogit_H: Tensor] {
  const { q_BTHK, kv_BTHX, kPe_BTR, cos_TR, sin_TR, docStart_BT, shared_BT2 = null, nope, scale } = inputs;
  if (runsOwn(q_BTHK))
    return massif("mla_attention")(
      ...[q_BTHK, kv_BTHX, kPe_BTR, cos_TR, sin_TR, docStart_BT, shared_BT2, nope, scale],
    ) as [Tensor, Tensor];
  const [B, T, H] = q_BTHK.shape as [number, number, number];
  const [qNope, qPe] = [q_BTHK.narrow(-1, 0, nope), q_BTHK.narrow(-1, nope, q_BTHK.shape[3]! - nope)];
  const [kNope, v] = [kv_BTHX.narrow(-1, 0, nope), kv_BTHX.narrow(-1, nope, kv_BTHX.shape[3]! - nope)];
  const [cos, sin] = docStart_BT
    ? [cos_TR, sin_TR].map((table) => table.index_select(0, places(docStart_BT, shared_BT2).flatten()).view([B, T, -1]))
    : [cos_TR, sin_TR];
  const kPe = rotary(kPe_BTR, cos!, sin!).unsqueeze(2).expand([B, T, H, -1]);
  const q_BHTK = functions.cat([qNope, rotary(qPe, cos!, sin!)], -1).transpose(1, 2);
  const k_BHTK = functions.cat([kNope, kPe], -1).transpose(1, 2);
  const logits_BHTT = q_BHTK
    .matmul(k_BHTK.mT)
    .mul(scale)
    .masked_fill(hidden(T, docStart_BT, shared_BT2, q_BTHK.device), -Infinity);
  const maxLogit_H = logits_BHTT.detach().amax([0, 2, 3]).to("float32");
  const p_BHTT = logits_BHTT.to(wide(logits_BHTT)).softmax(-1).to(v.dtype);
  return [p_BHTT.matmul(v.transpose(1, 2)).transpose(1, 2), maxLogit_H];
}

export interface MlaDecodeInputs {
  /** Queries; the last R of K are rotary, not yet rotated. */
  q_BTHK: Tensor;
  /** The normed latents of the new rows, C wide, and the shared rotary keys, not yet rotated. */
  latent_BTC: Tensor;
  kPe_BTR: Tensor;
  /** Of each new row, N = B·T. */
  cos_NR: Tensor;
  sin_NR: Tensor;
  /** Written in place: a position's latent and rotated key, W = C + R. */
  cache_SW: Tensor;
  /** int32: position j of sequence b lies in slot table[b, ⌊j / block⌋] · block + j mod block. */
  table_BM: Tensor;
  block: number;
  /** int32: where each new row stands in its sequence; it sees all up to itself. */
  position_BT: Tensor;
  /** The rows of kv_b_proj by head: the key without position, then the value. */
  kv_HXC: Tensor;
  nope: number;
  scale: number;
}

/** Writes new rows into a paged cache and attends over what it holds, absorbed: [B, T, H, V]. No gradients. */
export function mlaDecode(inputs: MlaDecodeInputs): Tensor {
  const { q_BTHK, latent_BTC, kPe_BTR, cos_NR, sin_NR, cache_SW, table_BM, block, position_BT, kv_HXC, nope, scale } =
    inputs;
  if (runsFused(q_BTHK))
    return massif("mla_decode")(
      ...[q_BTHK, latent_BTC, kPe_BTR, cos_NR, sin_NR, cache_SW, table_BM, position_BT, block, kv_HXC, nope, scale],
    ) as Tensor;
  const [B, T, H, K] = q_BTHK.shape as [number, number, number, number];
  const [W, V] = [cache_SW.shape[1]!, kv_HXC.shape[1]! - nope];
  const [R, C] = [K - nope, W - (K - nope)];
  const turned = (x: Tensor) => rotary(x.flatten(0, 1).unsqueeze(0), cos_NR, sin_NR).squeeze(0);

  const page_BT = table_BM.gather(1, position_BT.div(block, { rounding_mode: "floor" }).to("int64"));
  const slot_BT = page_BT.mul(block).add(position_BT.remainder(block));
  cache_SW.index_copy_(
    0,
    slot_BT.flatten().to("int64"),
    functions.cat([latent_BTC.flatten(0, 1), turned(kPe_BTR)], -1).to(cache_SW.dtype),
  );
  const seen_BSW = cache_SW.unflatten(0, [-1, block]).index_select(0, table_BM.flatten()).view([B, -1, W]);

  const qNope_HNn = q_BTHK.narrow(-1, 0, nope).flatten(0, 1).transpose(0, 1);
  const q_NHW = functions.cat(
    [qNope_HNn.bmm(kv_HXC.narrow(1, 0, nope)).transpose(0, 1), turned(q_BTHK.narrow(-1, nope, R))],
    -1,
  );
  const logits_BTHS = q_NHW
    .view([B, T * H, W])
    .bmm(seen_BSW.mT)
    .mul(scale)
    .view([B, T, H, -1])
    .masked_fill(
      functions.arange(seen_BSW.shape[1]!, { device: q_BTHK.device }).gt(position_BT.view([B, T, 1, 1])),
      -Infinity,
    );
  const p_BTHS = logits_BTHS.to(wide(q_BTHK)).softmax(-1).to(q_BTHK.dtype);
  const found_BNC = p_BTHS.flatten(1, 2).bmm(seen_BSW.narrow(-1, 0, C));
  return found_BNC
    .view([B * T, H, C])
    .transpose(0, 1)
    .bmm(kv_HXC.narrow(1, nope, V).mT)
    .transpose(0, 1)
    .reshape([B, T, H, V]);
}

/** [B, T]: the place of each position in its document, which begins with what it shares. */
function places(docStart_BT: Tensor, shared_BT2: Tensor | null): Tensor {
  const own_BT = functions.arange(docStart_BT.shape[1]!, { device: docStart_BT.device }).sub(docStart_BT);
  return shared_BT2 ? own_BT.add(shared_BT2.select(-1, 1)).sub(shared_BT2.select(-1, 0)) : own_BT;
}

/** [1 or B, 1, T, T], true where query i may not see key j: the future, and other documents. */
function hidden(T: number, docStart_BT: Tensor | null, shared_BT2: Tensor | null, device: string): Tensor {
  const at_T = functions.arange(T, { device });
  const future_TT = at_T.unsqueeze(0).gt(at_T.unsqueeze(1));
  if (!docStart_BT) return future_TT.view([1, 1, T, T]);
  const key_11T = at_T.view([1, 1, T]);
  const foreign_BTT = key_11T.lt(docStart_BT.unsqueeze(2));
  const [from, to] = shared_BT2 ? ([0, 1] as const).map((i) => shared_BT2.narrow(-1, i, 1)) : [];
  const others_BTT = from && to ? foreign_BTT.logical_and(key_11T.lt(from).logical_or(key_11T.ge(to))) : foreign_BTT;
  return future_TT.logical_or(others_BTT).unsqueeze(1);
}

/** Cross-entropy of each token, float32: −log softmax(x·Wᵀ)[target]. Targets of `ignoreIndex` give 0 and no gradient. */
export function linearCrossEntropy(x_ND: Tensor, weight_CD: Tensor, target_N: Tensor, ignoreIndex = -100): Tensor {
  if (runsOwn(x_ND)) return massif("linear_cross_entropy")(x_ND, weight_CD, target_N, ignoreIndex) as Tensor;
  const logits_NC = functions.linear(x_ND, cast(weight_CD, x_ND.dtype));
  return functions.nll_loss(logits_NC.to(wide(logits_NC)).log_softmax(-1), target_N, null, 0, ignoreIndex);
}

/** Of each row the k experts with the largest `choice` (int64), and their scores: normalized if asked, times `scale`. */
export function chooseExperts(
  scores_NE: Tensor,
  choice_NE: Tensor,
  k: number,
  { normalize, scale }: { normalize: boolean; scale: number },
): [idx_Nk: Tensor, w_Nk: Tensor] {
  if (runsFused(scores_NE))
    return massif("choose_experts")(scores_NE, choice_NE, k, normalize, scale) as [Tensor, Tensor];
  const idx_Nk = choice_NE.topk(k, -1, true, false)[1];
  const picked_Nk = scores_NE.gather(1, idx_Nk);
  const normed_Nk = normalize ? picked_Nk.div(picked_Nk.sum([-1], true).add(1e-20)) : picked_Nk;
  return [idx_Nk, normed_Nk.mul(scale)];
}

export interface ExpertInputs {
  x_ND: Tensor;
  /** The chosen experts (int64), and the weight of each. */
  idx_Nk: Tensor;
  w_Nk: Tensor;
  gateUp_EID: Tensor;
  down_EDI: Tensor;
  /** Of y; x's by default. */
  dtype?: DType;
}

/** y = Σ_k w_k · down_e(silu(gate_e·x) ⊙ up_e·x) with e = idx[n, k]. No token is dropped. */
export function moeExperts({ x_ND, idx_Nk, w_Nk, gateUp_EID, down_EDI, dtype = x_ND.dtype }: ExpertInputs): Tensor {
  if (runsOwn(x_ND))
    return massif("moe_experts")(x_ND, idx_Nk, w_Nk, gateUp_EID, down_EDI, ...result(dtype, x_ND)) as Tensor;
  const k = idx_Nk.shape[1]!;
  const slots = idx_Nk.flatten();
  const order = slots.argsort({ stable: true, dim: 0, descending: false });
  const counts = slots.bincount(null, gateUp_EID.shape[0]!).toArray();
  const token = order.div(k, { rounding_mode: "floor" });
  const parts = x_ND.index_select(0, token).split_with_sizes(counts, 0);
  const [gateUps, downs] = [gateUp_EID, down_EDI].map((w) => cast(w, x_ND.dtype).unbind(0)) as [Tensor[], Tensor[]];
  const out = parts.map((part, e) => functions.linear(swiglu(functions.linear(part, gateUps[e]!)), downs[e]!));
  const weighted = functions.cat(out).mul(w_Nk.flatten().index_select(0, order).unsqueeze(1).to(x_ND.dtype));
  return cast(functions.zeros_like(x_ND).index_add(0, token, weighted), dtype);
}

/** Weights packed for `decodeStep`, in one tensor of bytes: their order and the sizes as native/ops/decode_pack.cc says. */
export function decodePack(
  weights: readonly Tensor[],
  sizes: readonly number[],
  factors: readonly number[],
  narrow: boolean,
  wide = false,
): Tensor {
  return massif("decode_pack")(weights, sizes, factors, narrow, wide) as Tensor;
}

/** Packs weights of the same shapes into the same bytes. */
export function decodeRepack(packed: Tensor, weights: readonly Tensor[]): void {
  massif("decode_repack")(packed, weights);
}

/**
 * One step of a packed model over a paged cache, written in place: native/ops/decode_step.cc. Its plain twin is the model's
 * own path through its blocks. `stretches_BX` (int32): of each sequence where its new rows begin, how many they are, of how
 * many of the last logits are wanted, and its blocks. Logits float32 [wanted, C] (`hidden`: the final norm's rows), and
 * the chosen experts, int32 [layers, N, k].
 */
export function decodeStep(
  packed: Tensor,
  embedding_CD: Tensor,
  cos_PR: Tensor,
  sin_PR: Tensor,
  cache_LSW: Tensor,
  ids_N: Tensor,
  stretches_BX: Tensor,
  block: number,
  hidden = false,
): [wanted: Tensor, experts_LNk: Tensor] {
  return massif("decode_step")(
    ...[packed, embedding_CD, cos_PR, sin_PR, cache_LSW, ids_N, stretches_BX, block, hidden],
  ) as [Tensor, Tensor];
}

/**
 * The next tokens from logits float32 [N, C] on the CPU. `picks` float64 [P, 5]: row, a token that is taken already or −1,
 * temperature (0: the likeliest), uniform in [0, 1), the row of its mask or −1. `never` (int64): tokens that may not be
 * drawn; `masks` int32 [M, W]: bit i & 31 of word i >> 5 allows token i. Returns float64 [P, 3]: the token (−1: there is
 * none), its log-probability, and the logarithm of the probability with which it was drawn.
 */
export function pick(
  logits_NC: Tensor,
  picks_P5: Tensor,
  { never, masks }: { never?: Tensor; masks?: Tensor } = {},
): Tensor {
  return massif("pick")(logits_NC, picks_P5, never ?? null, masks ?? null) as Tensor;
}
