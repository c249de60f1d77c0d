/** The latents of all sequences: blocks of positions in one tensor, [layers, blocks × block size, C + R]. */
import { type Tensor, torch } from "@massif/torch";
import { cacheType, type Model, type ModelConfig, type Stretch } from "../model/index.ts";
import type { Copy } from "./pages.ts";

/** Bytes of cache that a position takes over all layers. */
export const bytesPerPosition = (config: ModelConfig, itemSize: number): number =>
  config.numHiddenLayers * (config.kvLoraRank + config.qkRopeHeadDim) * itemSize;

export class PagedCache implements Disposable {
  readonly blocks: number;
  readonly blockSize: number;
  /** Of all layers, [layers, slots, C + R]; a position's slot is its block · block size + its place in it. */
  readonly all: Tensor;
  readonly #shape: readonly number[];
  /** Blocks before this one are no longer as the allocator gave them. */
  #touched = 0;

  constructor(model: Model, blocks: number, blockSize: number) {
    const { numHiddenLayers, kvLoraRank, qkRopeHeadDim } = model.config;
    const { device } = model;
    this.blocks = blocks;
    this.blockSize = blockSize;
    this.#shape = [numHiddenLayers, blocks * blockSize, kvLoraRank + qkRopeHeadDim];
    this.all = torch.keep(torch.empty(this.#shape, { dtype: cacheType(model), device }));
  }

  /** Before these are computed. Memory is taken as it comes to be used, and what was never written is 0: attention reads past
   *  a sequence's end, and even weighted by 0 garbage may be no number. */
  touch(stretches: readonly Stretch[]): void {
    const n = this.blockSize;
    for (const { tokens, start, blocks } of stretches)
      for (let m = Math.floor(start / n); m * n < start + tokens.length; m++) this.#touch(blocks[m]!);
  }

  /** Copies whole blocks of every layer, one after the other. */
  copy(copies: readonly Copy[]): void {
    const n = this.blockSize;
    for (const { from, to } of copies) {
      using _ = torch.scope();
      this.#touch(to);
      this.all.narrow(1, to * n, n).copy_(this.all.narrow(1, from * n, n));
    }
  }

  /** Gives the memory back; the tensor stays. Nothing may be read or written until `restore`. */
  release(): void {
    this.#hold([0]);
    this.#touched = 0;
  }

  restore(): void {
    this.#hold(this.#shape);
  }

  [Symbol.dispose](): void {
    this.all.dispose();
  }

  #hold(shape: readonly number[]): void {
    using _ = torch.noGrad();
    const { dtype, device } = this.all;
    torch.tidy(() => void this.all.set_(torch.empty(shape, { dtype, device })));
  }

  /** Up to this block. */
  #touch(block: number): void {
    if (block < this.#touched) return;
    const end = Math.min(this.blocks, Math.max(block + 1, 2 * this.#touched));
    using _ = torch.scope();
    this.all.narrow(1, this.#touched * this.blockSize, (end - this.#touched) * this.blockSize).zero_();
    this.#touched = end;
  }
}
