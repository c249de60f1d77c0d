/**
 * Decoding with MLA's cache: a token leaves its normed latent and its rotated shared key, nothing a head. Attention is
 * absorbed (specification §1.8): queries are carried into the latent space, so keys and values are never rebuilt.
 *
 * Shapes: B sequences, T new positions, S cached ones, C = kvLoraRank, R rope width, W = C + R, H heads, V value width.
 */
import { mlaDecode, rotary, type Tensor, torch } from "@massif/torch";
import type { Block, Context } from "./block.ts";
import type { Model } from "./model.ts";
import { PackedModel, type PackOptions } from "./packed.ts";

/** The latents of sequences of equal length, [layers, B · capacity, C + R], grown as needed. */
export class LatentCache implements Disposable {
  readonly batch: number;
  /** The model as one operator, where it can be: with the weights that it had when the cache was made. */
  readonly packed: PackedModel | undefined;
  #all_LSW: Tensor;
  #length = 0;

  constructor(model: Model, batch: number, capacity = 256, pack: PackOptions = {}) {
    const { kvLoraRank, qkRopeHeadDim } = model.config;
    const { dtype, device } = model.parameter("model.layers.0.self_attn.kv_b_proj.weight");
    this.batch = batch;
    this.#all_LSW = torch.keep(
      torch.zeros([model.blocks.length, batch * capacity, kvLoraRank + qkRopeHeadDim], { dtype, device }),
    );
    this.packed = PackedModel.obstacle(model, pack.narrow) ? undefined : new PackedModel(model, pack);
  }

  /** Positions in the cache. */
  get length(): number {
    return this.#length;
  }

  /** Room for `more` positions after the last. */
  reserve(more: number): void {
    const need = this.#length + more;
    const { capacity } = this;
    if (need <= capacity) return;
    const old = this.#all_LSW;
    this.#all_LSW = torch.keep(
      torch.tidy(() =>
        torch
          .constant_pad_nd(old.unflatten(1, [this.batch, capacity]), [0, 0, 0, Math.max(need, 2 * capacity) - capacity])
          .flatten(1, 2),
      ),
    );
    old.dispose();
  }

  /** Writes the entries [B, T, C + R] of a layer's new positions. */
  put(layer: number, entries_BTW: Tensor): void {
    this.slots(layer).unflatten(0, [this.batch, -1]).narrow(1, this.#length, entries_BTW.shape[1]!).copy_(entries_BTW);
  }

  /** A layer's entries as a paged cache of one block a sequence: [B · capacity, C + R]. */
  slots(layer: number): Tensor {
    return this.#all_LSW.select(0, layer);
  }

  /** Those of all layers. */
  get all_LSW(): Tensor {
    return this.#all_LSW;
  }

  get capacity(): number {
    return this.#all_LSW.shape[1]! / this.batch;
  }

  advance(positions: number): void {
    this.#length += positions;
  }

  [Symbol.dispose](): void {
    this.#all_LSW.dispose();
    this.packed?.[Symbol.dispose]();
  }
}

/** Runs new tokens [B, T] behind what is cached; returns the logits of the last position, [B, vocabulary]. No gradients. */
export function decode(model: Model, ids_BT: Tensor, cache: LatentCache): Tensor {
  using _ = torch.noGrad();
  return torch.tidy(() => {
    const T = ids_BT.shape[1]!;
    cache.reserve(T);
    if (cache.packed) return packedStep(cache.packed, ids_BT, cache);
    const rows = rowsOf(model, cache, T);
    let x_BTD = model.embed(ids_BT);
    for (const block of model.blocks) {
      const h_BTD = attend(block, block.norm(x_BTD, "input_layernorm.weight"), rows, cache);
      const mid_BTD = x_BTD.add(h_BTD);
      x_BTD = mid_BTD.add(block.feedForward(block.norm(mid_BTD, "post_attention_layernorm.weight"), 0).y_BTD);
    }
    cache.advance(T);
    return model.logits(x_BTD.select(1, -1));
  });
}

/** The same by one operator: a sequence is a block of the cache. */
function packedStep(packed: PackedModel, ids_BT: Tensor, cache: LatentCache): Tensor {
  const [B, T] = ids_BT.shape as [number, number];
  const ids = ids_BT.to("int32").toTypedArray();
  const stretches = Array.from({ length: B }, (_, b) => ({
    tokens: ids.subarray(b * T, (b + 1) * T) as Int32Array,
    ...{ start: cache.length, blocks: [b], wanted: 1 },
  }));
  const [logits_BC] = packed.step(stretches, cache.all_LSW, cache.capacity);
  cache.advance(T);
  return logits_BC;
}

/** New rows as the cache sees them. */
interface Rows {
  context: Context;
  cos_NR: Tensor;
  sin_NR: Tensor;
  table_BM: Tensor;
  position_BT: Tensor;
}

function rowsOf(model: Model, cache: LatentCache, T: number): Rows {
  const { batch, length } = cache;
  const { device } = model;
  const context = model.context(T, { start: length });
  const each = (table_TR: Tensor) => (batch === 1 ? table_TR : table_TR.repeat([batch, 1]));
  const position_BT = torch.arange(length, length + T, { dtype: "int32", device }).expand([batch, T]);
  return {
    context,
    cos_NR: each(context.cos_TR),
    sin_NR: each(context.sin_TR),
    table_BM: torch.arange(batch, { dtype: "int32", device }).unsqueeze(1),
    position_BT: batch === 1 ? position_BT : position_BT.contiguous(),
  };
}

function attend(block: Block, x_BTD: Tensor, { context, ...rows }: Rows, cache: LatentCache): Tensor {
  const { kvLoraRank: C, numAttentionHeads: H, qkNopeHeadDim: nope } = block.config;
  const projected = block.project(x_BTD);
  if (cache.length === 0 && x_BTD.shape[1]! > 1) {
    // A prompt has its keys and values at hand: rebuilt, they are narrower than latents.
    const { latent_BTC, kPe_BTR } = projected;
    cache.put(block.index, torch.cat([latent_BTC, rotary(kPe_BTR, context.cos_TR, context.sin_TR)], -1));
    return block.attention(projected, context)[0];
  }
  const out_BTHV = mlaDecode({
    ...projected,
    ...rows,
    cache_SW: cache.slots(block.index),
    block: cache.capacity,
    kv_HXC: block.weight("self_attn.kv_b_proj.weight").view([H, -1, C]),
    nope,
    scale: block.scale,
  });
  return block.output(out_BTHV.flatten(2));
}
