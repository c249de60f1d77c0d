/** The latents of all sequences: blocks of positions in one tensor, [layers, blocks × block size, C + R]. */
import { type Tensor, torch } from "@massif/torch";
import type { Model, ModelConfig } from "../model/index.ts";
import type { Copy } from "./pages.ts";

/** Bytes of cache that a position takes over all layers. */
export const bytesPerPosition = (config: ModelConfig, itemSize: number): number =>
  config.numHiddenLayers * (config.kvLoraRank + config.qkRopeHeadDim) * itemSize;

export class PagedCache implements Disposable {
  readonly blocks: number;
  readonly blockSize: number;
  readonly #all: Tensor;
  /** Of each layer, [blocks × block size, C + R] and the same as [blocks, block size × (C + R)]. */
  readonly #rows: Tensor[];
  readonly #pages: Tensor[];
  /** Blocks before this one are no longer as the allocator gave them. */
  #touched = 0;

  constructor(model: Model, blocks: number, blockSize: number) {
    const { numHiddenLayers, kvLoraRank, qkRopeHeadDim } = model.config;
    const { dtype, device } = model.parameter("model.layers.0.self_attn.kv_b_proj.weight");
    this.blocks = blocks;
    this.blockSize = blockSize;
    const width = kvLoraRank + qkRopeHeadDim;
    this.#all = torch.keep(torch.empty([numHiddenLayers, blocks * blockSize, width], { dtype, device }));
    const layers = model.blocks.map((_, i) => this.#all.select(0, i));
    this.#rows = torch.keep(layers);
    this.#pages = torch.keep(layers.map((rows) => rows.view([blocks, blockSize * width])));
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

  /** Writes the entries [N, C + R] of a layer into slots (block · block size + place in it; int64 [N]). */
  write(layer: number, slots_N: Tensor, entries_NC: Tensor): void {
    this.#rows[layer]!.index_copy_(0, slots_N, entries_NC);
  }

  /** The entries of tables of blocks [B, n] (given flat, int64), one sequence after the other: [B, n × block size, C + R]. */
  read(layer: number, tables: Tensor, B: number): Tensor {
    const width = this.#rows[layer]!.shape[1]!;
    return this.#pages[layer]!.index_select(0, tables).view([B, -1, width]);
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

  [Symbol.dispose](): void {
    for (const tensor of [...this.#pages, ...this.#rows, this.#all]) tensor.dispose();
  }
}
