/** The ordinary tokens of a byte-level vocabulary, and the merging of bytes into them. */
import { MassifError } from "../common/index.ts";
import { grown } from "./pieces.ts";

/** The rank of a token that no merge makes. */
export const NONE = 0x7fffffff;
const BASE = 0x01000193;

/** Tokens as byte strings, found by bytes: all bytes in one arena, ids in an open hash table. */
export class Vocabulary {
  /** One more than the highest id. */
  readonly size: number;
  /** When a token may be made by merging: lower is earlier. tiktoken files: the id itself. */
  readonly ranks: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #starts: Int32Array;
  readonly #lengths: Int32Array;
  readonly #longest: number;
  readonly #byteId = new Int32Array(256).fill(-1);
  /** Hash and id + 1 in turn; 0 is free. */
  readonly #slots: Int32Array;
  /** powers[n] = BASE^n mod 2³²: with the hashes of prefixes, the hash of any stretch of bytes. */
  readonly #powers: Int32Array;

  // Of the piece being merged, by byte position of a part's start:
  #next = new Int32Array(256);
  #previous = new Int32Array(256);
  #id = new Int32Array(256);
  /** the token that this part and the next would make */
  #pair = new Int32Array(256);
  #prefix = new Int32Array(257);
  readonly #heap = new MinHeap();

  /** `tokens` by id (a hole where an id is no ordinary token), `ranks` by id if they are not the ids. Throws
   *  `tokenizer.vocabulary` when a token is there twice, or a single byte is missing. */
  constructor(tokens: readonly (Uint8Array | undefined)[], ranks?: Int32Array) {
    this.size = tokens.length;
    this.ranks = ranks ?? Int32Array.from(tokens, (_, id) => id);
    this.#starts = new Int32Array(tokens.length);
    this.#lengths = new Int32Array(tokens.length);
    let total = 0;
    for (const token of tokens) total += token?.length ?? 0;
    this.#bytes = new Uint8Array(total);
    this.#longest = tokens.reduce((most, token) => Math.max(most, token?.length ?? 0), 1);
    this.#powers = new Int32Array(this.#longest + 1).fill(1);
    for (let n = 1; n <= this.#longest; n++) this.#powers[n] = Math.imul(this.#powers[n - 1]!, BASE);
    this.#slots = new Int32Array(2 ** Math.ceil(Math.log2(4 * tokens.length + 16)));
    let at = 0;
    for (let id = 0; id < tokens.length; id++) {
      const token = tokens[id];
      if (!token?.length) continue;
      this.#bytes.set(token, at);
      this.#starts[id] = at;
      this.#lengths[id] = token.length;
      this.#insert(id, token);
      if (token.length === 1) this.#byteId[token[0]!] = id;
      at += token.length;
    }
    const missing = this.#byteId.indexOf(-1);
    if (missing >= 0) {
      throw new MassifError("tokenizer.vocabulary", {
        found: `the vocabulary has no token for byte ${missing}`,
        expected: "a byte-level vocabulary: each of the 256 bytes is a token",
      });
    }
  }

  /** The bytes of a token; empty where `id` is none. */
  bytes(id: number): Uint8Array {
    const start = this.#starts[id] ?? 0;
    return this.#bytes.subarray(start, start + (this.#lengths[id] ?? 0));
  }

  #insert(id: number, token: Uint8Array): void {
    let hash = 0;
    for (const byte of token) hash = (Math.imul(hash, BASE) + byte + 1) | 0;
    const twin = this.#find(hash, token, 0, token.length);
    if (twin >= 0)
      throw new MassifError("tokenizer.vocabulary", { found: `tokens ${twin} and ${id} are the same bytes` });
    const slots = this.#slots;
    const mask = slots.length - 1;
    let at = slot(hash) & mask;
    while (slots[at + 1]) at = (at + 2) & mask;
    slots[at] = hash;
    slots[at + 1] = id + 1;
  }

  #find(hash: number, bytes: Uint8Array, start: number, end: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let at = slot(hash) & mask; ; at = (at + 2) & mask) {
      const id = slots[at + 1]! - 1;
      if (id < 0) return -1;
      if (slots[at] === hash && this.#is(id, bytes, start, end)) return id;
    }
  }

  #is(id: number, bytes: Uint8Array, start: number, end: number): boolean {
    if (this.#lengths[id] !== end - start) return false;
    let at = this.#starts[id]!;
    for (let i = start; i < end; i++) if (this.#bytes[at++] !== bytes[i]) return false;
    return true;
  }

  /** The token with exactly these bytes, or -1. */
  find(bytes: Uint8Array, length = bytes.length): number {
    if (length > this.#longest) return -1;
    let hash = 0;
    for (let i = 0; i < length; i++) hash = (Math.imul(hash, BASE) + bytes[i]! + 1) | 0;
    return this.#find(hash, bytes, 0, length);
  }

  /** Byte-pair encoding of `bytes[0, length)`: repeatedly joins the neighbours whose joined bytes are the token of
   *  lowest rank (the leftmost of equals), never into the token `but`. Writes ids to `out` from `at` on and returns
   *  the end. n log n, so a piece of many thousand bytes is no trap. */
  merge(bytes: Uint8Array, length: number, out: Int32Array, at: number, but = -1): number {
    if (length > this.#next.length) this.#grow(length);
    const next = this.#next;
    const previous = this.#previous;
    const id = this.#id;
    const pair = this.#pair;
    const prefix = this.#prefix;
    const ranks = this.ranks;
    const heap = this.#heap;
    for (let i = 0; i < length; i++) {
      prefix[i + 1] = (Math.imul(prefix[i]!, BASE) + bytes[i]! + 1) | 0;
      next[i] = i + 1;
      previous[i] = i - 1;
      id[i] = this.#byteId[bytes[i]!]!;
    }
    heap.size = 0;
    for (let i = 0; i < length; i++) this.#consider(bytes, i, length, but);
    for (let key = heap.pop(); key >= 0; key = heap.pop()) {
      const left = key % POSITIONS;
      const made = pair[left]!;
      if (made < 0 || ranks[made] !== (key - left) / POSITIONS) continue; // a neighbour has changed since
      const right = next[left]!;
      const after = next[right]!;
      id[left] = made;
      next[left] = after;
      pair[right] = -1;
      if (after < length) previous[after] = left;
      this.#consider(bytes, left, length, but);
      if (left > 0) this.#consider(bytes, previous[left]!, length, but);
    }
    for (let i = 0; i < length; i = next[i]!) out[at++] = id[i]!;
    return at;
  }

  /** The two tokens whose merge makes token `id`; undefined when none does (a single byte, or a token that is only ever
   *  a piece as a whole). There is one such pair at most: no merge before it crosses the ends of the token, so within
   *  them merging goes as it does for the token's bytes alone, and stops before the last step if that is left out. This
   *  is why a rank file and a list of merges can say the same. */
  halves(id: number): [number, number] | undefined {
    const bytes = this.bytes(id);
    if (bytes.length < 2) return undefined;
    const parts = new Int32Array(bytes.length);
    return this.merge(bytes, bytes.length, parts, 0, id) === 2 ? [parts[0]!, parts[1]!] : undefined;
  }

  /** Notes the merge of the part at `left` with its neighbour, if they make a token. */
  #consider(bytes: Uint8Array, left: number, length: number, but: number): void {
    const right = this.#next[left]!;
    this.#pair[left] = -1;
    if (right >= length) return;
    const end = this.#next[right]!;
    if (end - left > this.#longest) return;
    const hash = (this.#prefix[end]! - Math.imul(this.#prefix[left]!, this.#powers[end - left]!)) | 0;
    const made = this.#find(hash, bytes, left, end);
    if (made < 0 || made === but || this.ranks[made] === NONE) return;
    this.#pair[left] = made;
    this.#heap.push(this.ranks[made]! * POSITIONS + left);
  }

  #grow(length: number): void {
    this.#next = grown(this.#next, length);
    this.#previous = grown(this.#previous, length);
    this.#id = grown(this.#id, length);
    this.#pair = grown(this.#pair, length);
    this.#prefix = grown(this.#prefix, length + 1);
  }
}

/** Spreads a hash over even slots. */
const slot = (hash: number): number => (hash ^ (hash >>> 15)) << 1;

/** A heap's key is rank · 2³¹ + position: exact in a double for ranks under 2²². */
const POSITIONS = 0x80000000;

/** Numbers, least first. */
class MinHeap {
  size = 0;
  #keys = new Float64Array(1024);

  push(key: number): void {
    if (this.size === this.#keys.length) this.#keys = grown(this.#keys, this.size + 1);
    const keys = this.#keys;
    let i = this.size++;
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (keys[up]! <= key) break;
      keys[i] = keys[up]!;
      i = up;
    }
    keys[i] = key;
  }

  /** The least, taken out; -1 when empty. */
  pop(): number {
    if (this.size === 0) return -1;
    const keys = this.#keys;
    const least = keys[0]!;
    const key = keys[--this.size]!;
    let i = 0;
    for (let down = 1; down < this.size; down = 2 * i + 1) {
      if (down + 1 < this.size && keys[down + 1]! < keys[down]!) down++;
      if (keys[down]! >= key) break;
      keys[i] = keys[down]!;
      i = down;
    }
    keys[i] = key;
    return least;
  }
}
