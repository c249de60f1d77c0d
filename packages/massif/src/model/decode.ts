/**
 * Decoding with MLA's cache: a token leaves its normed latent and its rotated shared key, nothing a head. Attention is
 * absorbed (specification §1.8): queries are carried into the latent space, so keys and values are never rebuilt.
 *
 * Shapes: B sequences, T new positions, S cached ones, C = kvLoraRank, R rope width, W = C + R, H heads, V value width.
 */
import { type Tensor, torch } from "@massif/torch";
import type { Block, Context } from "./block.ts";
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
    const context = model.context(T, { start: cache.length });
    let x_BTD = model.embed(ids_BT);
    for (const block of model.blocks) {
      const h_BTD = attend(block, block.norm(x_BTD, "input_layernorm.weight"), context, cache);
      const mid_BTD = x_BTD.add(h_BTD);
      x_BTD = mid_BTD.add(block.feedForward(block.norm(mid_BTD, "post_attention_layernorm.weight"), 0).y_BTD);
    }
    cache.advance(T);
    return model.logits(x_BTD.select(1, -1));
  });
}

function attend(block: Block, x_BTD: Tensor, context: Context, cache: LatentCache): Tensor {
  const { qkNopeHeadDim: nope, qkRopeHeadDim: R, numAttentionHeads: H } = block.config;
  const projected = block.project(x_BTD);
  const { q_BTHK, latent_BTC, kPe_BTR } = projected;
  const [qNope_BTHn, qPe_BTHR] = q_BTHK.split_with_sizes([nope, R], -1) as [Tensor, Tensor];
  const turned_BTGR = turn(torch.cat([qPe_BTHR, kPe_BTR.unsqueeze(2)], 2), context); // G: every head's query, then the key
  const seen_BSC = cache.put(block.index, torch.cat([latent_BTC, turned_BTGR.select(2, H)], -1));
  if (cache.length === 0 && x_BTD.shape[1]! > 1) return block.attention(projected, context)[0];
  return block.output(absorbed(block, qNope_BTHn, turned_BTGR.narrow(2, 0, H), seen_BSC));
}

/** Rotates the pairs (2j, 2j + 1) of x [B, T, G, R]: complex numbers times cos + i·sin. */
function turn(x_BTGR: Tensor, { cos_TR, sin_TR }: Context): Tensor {
  const pairs = torch.view_as_complex(x_BTGR.to(cos_TR.dtype).unflatten(-1, [-1, 2]));
  return torch
    .view_as_real(pairs.mul(torch.complex(cos_TR, sin_TR).unsqueeze(1)))
    .flatten(-2)
    .to(x_BTGR.dtype);
}

/** [B, T, H·V]: attention of T new queries over S cached latents, of which the last T are their own. */
function absorbed(block: Block, qNope_BTHn: Tensor, qPe_BTHR: Tensor, seen_BSC: Tensor): Tensor {
  const { kvLoraRank: C, qkNopeHeadDim: nope, qkRopeHeadDim: R, vHeadDim: V } = block.config;
  const [B, T, H] = qPe_BTHR.shape as [number, number, number];
  const kv_HXC = block.weight("self_attn.kv_b_proj.weight").view([H, nope + V, C]);
  const qLat_HNC = qNope_BTHn
    .flatten(0, 1)
    .transpose(0, 1)
    .bmm(kv_HXC.narrow(1, 0, nope));
  const q_BNW = torch.cat([qLat_HNC.transpose(0, 1), qPe_BTHR.flatten(0, 1)], -1).view([B, T * H, C + R]);
  const logits_BNS = q_BNW.bmm(seen_BSC.mT).mul_(block.scale);
  if (T > 1) logits_BNS.masked_fill_(future(T, H, seen_BSC.shape[1]!, seen_BSC.device), -Infinity);
  const p_BNS = logits_BNS.softmax(-1, seen_BSC.dtype === "float64" ? "float64" : "float32").to(seen_BSC.dtype);
  const oLat_HNC = p_BNS
    .bmm(seen_BSC.narrow(-1, 0, C))
    .view([B * T, H, C])
    .transpose(0, 1);
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
