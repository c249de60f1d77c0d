/** Decoding with MLA's cache: a token leaves its normed latent and its rotated shared key, nothing a head.
 *
 *  Shapes: B sequences, T new positions, L layers, S slots, C = kvLoraRank, R rope width, W = C + R. */
import { type Tensor, torch } from "@massif/torch";
import type { Model } from "./model.ts";
import { PackedModel, type PackOptions } from "./packed.ts";
import { BlockSteps, cacheType, type Steps } from "./step.ts";

/** The latents of sequences of equal length, [L, B · capacity, W], grown as needed: a paged cache of one block a sequence. */
export class LatentCache implements Disposable {
  readonly batch: number;
  /** By one operator, where it can be: with the weights that the model had when the cache was made. */
  readonly steps: Steps;
  #all_LSW: Tensor;
  #length = 0;

  constructor(model: Model, batch: number, capacity = 256, pack: PackOptions = {}) {
    const { kvLoraRank, qkRopeHeadDim } = model.config;
    const { blocks, device } = model;
    const shape = [blocks.length, batch * capacity, kvLoraRank + qkRopeHeadDim];
    this.batch = batch;
    this.#all_LSW = torch.keep(torch.zeros(shape, { dtype: cacheType(model), device }));
    this.steps = PackedModel.obstacle(model, pack.narrow) ? new BlockSteps(model) : new PackedModel(model, pack);
  }

  /** Positions in the cache. */
  get length(): number {
    return this.#length;
  }

  get capacity(): number {
    return this.#all_LSW.shape[1]! / this.batch;
  }

  get all_LSW(): Tensor {
    return this.#all_LSW;
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

  advance(positions: number): void {
    this.#length += positions;
  }

  [Symbol.dispose](): void {
    this.#all_LSW.dispose();
    this.steps[Symbol.dispose]();
  }
}

/** Runs new tokens [B][T] behind what is cached; returns the logits of the last position, [B, vocabulary], float32 (float64 for
 *  a model in it). No gradients. */
export function decode(ids_BT: readonly ArrayLike<number>[], cache: LatentCache): Tensor {
  const T = ids_BT[0]!.length;
  return torch.tidy(() => {
    cache.reserve(T);
    const stretches = ids_BT.map((tokens, b) => ({ tokens, start: cache.length, blocks: [b], wanted: 1 }));
    const [logits_BC] = cache.steps.step(stretches, cache.all_LSW, cache.capacity);
    cache.advance(T);
    return logits_BC;
  });
}
