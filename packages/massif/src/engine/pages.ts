/** Sequences over the blocks of a pool: prefixes found again, room for what comes, forks that share what they have. */
import { createHash } from "node:crypto";
import { BlockPool } from "./blocks.ts";

/** Tokens, and the blocks that hold what was computed for the first of them. */
export interface Sequence {
  tokens: number[];
  /** Tokens whose latents are in the cache. */
  computed: number;
  blocks: number[];
  /** Of its full blocks, as far as known: each of all tokens up to its end, and for which version of the weights. */
  hashes: string[];
  version: number;
  /** Sequences find each other's prefixes only under the same salt. */
  salt: string;
}

/** Content to be copied from block to block before anything is written. */
export interface Copy {
  from: number;
  to: number;
}

export const sequence = (tokens: Iterable<number>, salt = ""): Sequence => ({
  tokens: Array.from(tokens),
  computed: 0,
  blocks: [],
  hashes: [],
  version: 0,
  salt,
});

export class Pages {
  readonly pool: BlockPool;
  /** Positions a block. */
  readonly blockSize: number;
  /** Asked to give up blocks that nobody computes with, before a sequence goes without; false where there are none. */
  onFull: () => boolean = () => false;
  /** Of the weights: what was computed under others is never found. */
  #version = 0;

  constructor(blocks: number, blockSize: number) {
    this.pool = new BlockPool(blocks);
    this.blockSize = blockSize;
  }

  blocksFor(tokens: number): number {
    return Math.ceil(tokens / this.blockSize);
  }

  /** Takes up the blocks of the longest known prefix, never all tokens: the last one's logits are wanted. Returns how many
   *  tokens they hold. For a sequence without blocks. */
  match(seq: Sequence): number {
    const most = Math.floor((seq.tokens.length - 1) / this.blockSize);
    while (seq.blocks.length < most) {
      const block = this.pool.find(this.#hash(seq, seq.blocks.length));
      if (block === undefined) break;
      seq.blocks.push(block);
    }
    seq.computed = seq.blocks.length * this.blockSize;
    return seq.computed;
  }

  /** Blocks missing before tokens up to `end` can be written. */
  missing(seq: Sequence, end: number): number {
    // Guesses that were wrong leave blocks to spare.
    return Math.max(0, this.blocksFor(end) - seq.blocks.length) + (this.#shared(seq) ? 1 : 0);
  }

  /** Room for tokens up to `end`; a last block that others hold too is left to them, its content to be copied first.
   *  Returns undefined, and changes nothing, where there are not enough free blocks. */
  reserve(seq: Sequence, end: number): Copy[] | undefined {
    while (this.missing(seq, end) > this.pool.free) if (!this.onFull()) return undefined;
    const copies: Copy[] = [];
    if (this.#shared(seq)) {
      const at = this.#last(seq);
      const from = seq.blocks[at]!;
      const to = this.pool.take()!;
      this.pool.release(from);
      seq.blocks[at] = to;
      copies.push({ from, to });
    }
    while (seq.blocks.length < this.blocksFor(end)) seq.blocks.push(this.pool.take()!);
    return copies;
  }

  /** Tokens up to `end` were computed: blocks that became full can be found from now on. */
  commit(seq: Sequence, end: number): void {
    const full = Math.floor(end / this.blockSize);
    for (let i = Math.floor(seq.computed / this.blockSize); i < full; i++)
      this.pool.seal(seq.blocks[i]!, this.#hash(seq, i));
    seq.computed = end;
  }

  /** A second sequence with the same tokens, over the same blocks. */
  fork(seq: Sequence): Sequence {
    for (const block of seq.blocks) this.pool.hold(block);
    return { ...seq, tokens: [...seq.tokens], blocks: [...seq.blocks], hashes: [...seq.hashes] };
  }

  /** Gives its blocks back, the last first: of a prefix the end is forgotten before the beginning. */
  release(seq: Sequence): void {
    for (const block of seq.blocks.toReversed()) this.pool.release(block);
    seq.blocks = [];
    seq.computed = 0;
  }

  /** Nothing is found any more. Where the weights changed only for a time when no sequence holds blocks. */
  forgetAll(): void {
    this.#version++;
    this.pool.forgetAll();
  }

  /** Whether the block that the next token goes into is written by others too. */
  #shared(seq: Sequence): boolean {
    const at = this.#last(seq);
    return at < seq.blocks.length && this.pool.holders(seq.blocks[at]!) > 1;
  }

  #last(seq: Sequence): number {
    return Math.floor(seq.computed / this.blockSize);
  }

  /** SHA-256 over version, salt and all tokens up to the end of block `i`, as a chain. */
  #hash(seq: Sequence, i: number): string {
    if (seq.version !== this.#version) {
      seq.hashes = [];
      seq.version = this.#version;
    }
    while (seq.hashes.length <= i) {
      const n = seq.hashes.length;
      const block = Int32Array.from(seq.tokens.slice(n * this.blockSize, (n + 1) * this.blockSize));
      const parent = n ? seq.hashes[n - 1]! : JSON.stringify([this.#version, seq.salt]);
      seq.hashes.push(createHash("sha256").update(parent).update(block).digest("base64"));
    }
    return seq.hashes[i]!;
  }
}
