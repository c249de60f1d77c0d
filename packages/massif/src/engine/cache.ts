/** The latents of all sequences: blocks of positions in one tensor, [layers, blocks × block size, C + R]. */
import { type DType, type Tensor, torch } from "@massif/torch";
import type { Model, ModelConfig } from "../model/index.ts";
import type { Copy } from "./pages.ts";

/** Bytes of cache that a position takes over all layers. */
export const bytesPerPosition = (config: ModelConfig, itemSize: number): number =>
  config.numHiddenLayers * (config.kvLoraRank + config.qkRopeHeadDim) * itemSize;

/** What latents are held in: what attention is computed in. */
export const cacheType = (model: Model): DType =>
  model.by.wideAttention ? "float64" : model.parameter("model.layers.0.self_attn.kv_b_proj.weight").dtype;

export class PagedCache implements Disposable {
  readonly blocks: number;
  readonly blockSize: number;
  readonly #all: Tensor;
  readonly #layers: Tensor[];
  readonly #width: number;
  /** Blocks before this one are no longer as the allocator gave them. */
  #touched = 0;

  constructor(model: Model, blocks: number, blockSize: number) {
    const { numHiddenLayers, kvLoraRank, qkRopeHeadDim } = model.config;
    const { device } = model;
    const dtype = cacheType(model);
    this.blocks = blocks;
    this.blockSize = blockSize;
    this.#width = kvLoraRank + qkRopeHeadDim;
    this.#all = torch.keep(torch.empty([numHiddenLayers, blocks * blockSize, this.#width], { dtype, device }));
    this.#layers = torch.keep(model.blocks.map((_, i) => this.#all.select(0, i)));
  }

  /** Before anything is written up to `block`. Memory is taken as it comes to be used, and what was never written is 0:
   *  attention reads past a sequence's end, and even weighted by 0 garbage may be no number. */
  touch(block: number): void {
    if (block < this.#touched) return;
    const end = Math.min(this.blocks, Math.max(block + 1, 2 * this.#touched));
    using _ = torch.scope();
    this.#all.narrow(1, this.#touched * this.blockSize, (end - this.#touched) * this.blockSize).zero_();
    this.#touched = end;
  }

  /** A layer's entries by slot (block · block size + place in it): [slots, C + R], read and written in place. */
  slots(layer: number): Tensor {
    return this.#layers[layer]!;
  }

  /** Those of all layers, [layers, slots, C + R]. */
  get all(): Tensor {
    return this.#all;
  }

  /** Copies whole blocks of every layer, one after the other. */
  copy(copies: readonly Copy[]): void {
    const n = this.blockSize;
    for (const { from, to } of copies) {
      using _ = torch.scope();
      this.touch(to);
      this.#all.narrow(1, to * n, n).copy_(this.#all.narrow(1, from * n, n));
    }
  }

  /** Gives the memory back; the tensors stay. Nothing may be read or written until `restore`. */
  release(): void {
    using _ = torch.noGrad();
    const { dtype, device } = this.#all;
    for (const tensor of [...this.#layers, this.#all])
      torch.tidy(() => void tensor.set_(torch.empty([0], { dtype, device })));
    this.#touched = 0;
  }

  restore(): void {
    using _ = torch.noGrad();
    const { dtype, device } = this.#all;
    const shape = [this.#layers.length, this.blocks * this.blockSize, this.#width];
    torch.tidy(() => {
      this.#all.set_(torch.empty(shape, { dtype, device }));
      for (const [i, layer] of this.#layers.entries()) layer.set_(this.#all.select(0, i));
    });
  }

  [Symbol.dispose](): void {
    for (const tensor of [...this.#layers, this.#all]) tensor.dispose();
  }
}
