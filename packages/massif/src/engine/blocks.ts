/**
 * The blocks of a paged cache: who holds them, what they hold, which to give away next. Numbers only, no tensors.
 *
 * A block is held by any number of sequences. One that nobody holds is free, but what it holds may still be found by its
 * hash until it is given away: empty blocks first, then the least recently used (vLLM's block pool).
 */
export class BlockPool {
  readonly count: number;
  readonly #holders: Int32Array;
  /** What a full block holds; undefined while it is not to be found. */
  readonly #hashes: (string | undefined)[];
  readonly #byHash = new Map<string, number>();
  // The free blocks as a ring through both arrays, from the next to be given away; place `count` is its seam.
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #free: number;

  constructor(count: number) {
    this.count = count;
    this.#holders = new Int32Array(count);
    this.#hashes = new Array(count);
    this.#next = Int32Array.from({ length: count + 1 }, (_, i) => (i + 1) % (count + 1));
    this.#previous = Int32Array.from({ length: count + 1 }, (_, i) => (i + count) % (count + 1));
    this.#free = count;
  }

  /** Blocks that nobody holds. */
  get free(): number {
    return this.#free;
  }

  /** Blocks that can be found by their hash. */
  get cached(): number {
    return this.#byHash.size;
  }

  holders(block: number): number {
    return this.#holders[block]!;
  }

  /** A free block, now held once and empty; undefined when there is none. */
  take(): number | undefined {
    if (!this.#free) return undefined;
    const block = this.#next[this.count]!;
    this.#unlink(block);
    this.#forget(block);
    this.#holders[block] = 1;
    return block;
  }

  /** The block that holds `hash`, now held once more. */
  find(hash: string): number | undefined {
    const block = this.#byHash.get(hash);
    if (block !== undefined) this.hold(block);
    return block;
  }

  hold(block: number): void {
    if (this.#holders[block]!++ === 0) this.#unlink(block);
  }

  /** Says what a held block has been filled with. Of two blocks with the same content the first is the one to be found. */
  seal(block: number, hash: string): void {
    if (this.#holders[block] === 0) throw new RangeError(`block ${block} is sealed while free`);
    if (this.#hashes[block] !== undefined || this.#byHash.has(hash)) return;
    this.#hashes[block] = hash;
    this.#byHash.set(hash, block);
  }

  release(block: number): void {
    if (this.#holders[block] === 0) throw new RangeError(`block ${block} is released while free`);
    if (--this.#holders[block]! > 0) return;
    const before = this.#hashes[block] === undefined ? this.count : this.#previous[this.count]!;
    const after = this.#next[before]!;
    this.#next[before] = this.#previous[after] = block;
    this.#previous[block] = before;
    this.#next[block] = after;
    this.#free++;
  }

  /** No content is found any more. */
  forgetAll(): void {
    this.#byHash.clear();
    this.#hashes.fill(undefined);
  }

  #forget(block: number): void {
    const hash = this.#hashes[block];
    if (hash === undefined) return;
    this.#byHash.delete(hash);
    this.#hashes[block] = undefined;
  }

  #unlink(block: number): void {
    const [before, after] = [this.#previous[block]!, this.#next[block]!];
    this.#next[before] = after;
    this.#previous[after] = before;
    this.#free--;
  }
}
