/**
 * Decoding with MLA's cache: a token leaves its normed latent and its rotated shared key, nothing a head. Attention is
 * absorbed (specification §1.8): queries are carried into the latent space, so keys and values are never rebuilt.
 *
 * Shapes: B sequences, T new positions, S cached ones, C = kvLoraRank, R rope width, H heads, V value width.
 */
import { rotary, type Tensor, torch } from "@massif/torch";
import type { Block } from "./block.ts";
import type { Model } from "./model.ts";

/** The latents of sequences of equal length, one tensor [B, capacity, C + R] a layer, grown as needed. */
export class LatentCache implements Disposable {
  readonly batch: number;
  readonly #layers: Tensor[];
  #length = 0;

  constructor(model: Model, batch: number, capacity = 256) {
    const { kvLoraRank, qkRopeHeadDim } = model.config;
    const { dtype, device } = model.parameter("model.layers.0.self_attn.kv_b_proj.weight");
    this.batch = batch;
    this.#layers = model.blocks.map(() =>
      torch.keep(torch.zeros([batch, capacity, kvLoraRank + qkRopeHeadDim], { dtype, device })),
    );
  }

  /** Positions in the cache. */
  get length(): number {
    return this.#length;
  }

  /** Room for `more` positions after the last. */
  reserve(more: number): void {
    const need = this.#length + more;
    const capacity = this.#layers[0]!.shape[1]!;
    if (need <= capacity) return;
    for (const [i, old] of this.#layers.entries()) {
      this.#layers[i] = torch.keep(
        torch.tidy(() => torch.constant_pad_nd(old, [0, 0, 0, Math.max(need, 2 * capacity) - capacity])),
      );
      old.dispose();
    }
  }

  /** Writes [B, T, C + R] of new positions of a layer; returns all of the layer's, [B, S, C + R], a view. */
  put(layer: number, entries_BTC: Tensor): Tensor {
    const T = entries_BTC.shape[1]!;
    this.#layers[layer]!.narrow(1, this.#length, T).copy_(entries_BTC);
    return this.#layers[layer]!.narrow(1, 0, this.#length + T);
  }

  advance(positions: number): void {
    this.#length += positions;
  }

  [Symbol.dispose](): void {
    for (const layer of this.#layers) layer.dispose();
  }
}

/** Runs new tokens [B, T] behind what is cached; returns the logits of the last position, [B, vocabulary]. No gradients. */
export function decode(model: Model, ids_BT: Tensor, cache: LatentCache): Tensor {
  using _ = torch.noGrad();
  return torch.tidy(() => {
    const T = ids_BT.shape[1]!;
    cache.reserve(T);
    const [cos_TR, sin_TR] = model.rotary.rows(cache.length, T);
    let x_BTD = model.embed(ids_BT);
    for (const block of model.blocks) {
      const h_BTD = attend(block, block.norm(x_BTD, "input_layernorm.weight"), cos_TR, sin_TR, cache);
      const mid_BTD = x_BTD.add(h_BTD);
      x_BTD = mid_BTD.add(block.feedForward(block.norm(mid_BTD, "post_attention_layernorm.weight"), 0).y_BTD);
    }
    cache.advance(T);
    return model.logits(x_BTD.select(1, -1));
  });
}

function attend(block: Block, x_BTD: Tensor, cos_TR: Tensor, sin_TR: Tensor, cache: LatentCache): Tensor {
  const projected = block.project(x_BTD);
  const { latent_BTC, kPe_BTR } = projected;
  const seen_BSC = cache.put(block.index, torch.cat([latent_BTC, rotary(kPe_BTR, cos_TR, sin_TR)], -1));
  if (cache.length === 0 && x_BTD.shape[1]! > 1)
    return block.attention(projected, { cos_TR, sin_TR, docStart_BT: null, balance: 0 })[0];
  return block.output(absorbed(block, projected.q_BTHK, cos_TR, sin_TR, seen_BSC));
}

/** [B, T, H·V]: attention of T new queries over S cached latents, of which the last T are their own. */
function absorbed(block: Block, q_BTHK: Tensor, cos_TR: Tensor, sin_TR: Tensor, seen_BSC: Tensor): Tensor {
  const { kvLoraRank: C, qkNopeHeadDim: nope, qkRopeHeadDim: rope, vHeadDim: V } = block.config;
  const [B, T, H] = q_BTHK.shape as [number, number, number];
  const kv_HXC = block.weight("self_attn.kv_b_proj.weight").view([H, nope + V, C]);
  const qLat_BTHC = q_BTHK
    .narrow(-1, 0, nope)
    .flatten(0, 1)
    .transpose(0, 1)
    .bmm(kv_HXC.narrow(1, 0, nope))
    .transpose(0, 1)
    .view([B, T, H, C]);
  const q_BNC = torch
    .cat([qLat_BTHC, rotary(q_BTHK.narrow(-1, nope, rope), cos_TR, sin_TR)], -1)
    .view([B, T * H, C + rope]);
  let logits_BNS = q_BNC.bmm(seen_BSC.mT).mul(block.scale);
  if (T > 1) logits_BNS = logits_BNS.masked_fill(future(T, H, seen_BSC.shape[1]!, seen_BSC.device), -Infinity);
  const oLat_BNC = logits_BNS
    .to(seen_BSC.dtype === "float64" ? "float64" : "float32")
    .softmax(-1)
    .to(seen_BSC.dtype)
    .bmm(seen_BSC.narrow(-1, 0, C));
  const oLat_HNC = oLat_BNC.view([B * T, H, C]).transpose(0, 1);
  return oLat_HNC
    .bmm(kv_HXC.narrow(1, nope, V).mT)
    .transpose(0, 1)
    .reshape([B, T, H * V]);
}

/** [1, T·H, S], true where the query of position S − T + t may not see: what comes after it. */
function future(T: number, H: number, S: number, device: string): Tensor {
  const query_T1 = torch.arange(S - T, S, { device }).unsqueeze(1);
  return torch.arange(S, { device }).gt(query_T1).repeat_interleave(H, 0).unsqueeze(0);
}
