/** A vocabulary as a trie of bytes, laid out in depth-first order so that a walk is one loop without recursion. */

import type { Tokenizer } from "../tokenizer/index.ts";

export interface Vocabulary {
  readonly vocabSize: number;
  /** The bytes of a token; undefined for what stands for no text. */
  tokenBytes(id: number): Uint8Array | undefined;
  /** Control tokens by name: never text, whatever bytes they are printed as. */
  readonly special?: ReadonlyMap<string, number>;
}

/** A tokenizer as a vocabulary of `vocabSize` tokens, a model's rows beyond the tokenizer's own included. */
export function vocabularyOf(tokenizer: Tokenizer, vocabSize = tokenizer.vocabSize): Vocabulary {
  const { special, vocabulary } = tokenizer;
  return {
    vocabSize,
    special,
    tokenBytes: (id) => (id < vocabulary.size ? vocabulary.bytes(id) : undefined),
  };
}

export interface Trie {
  readonly vocabSize: number;
  /** The byte that leads to each node; node 0 is the root. */
  readonly byte: Uint8Array;
  readonly depth: Uint16Array;
  /** The node after the last one below this. */
  readonly end: Int32Array;
  /** Tokens that end at node `n`: `tokens[from[n]] … tokens[from[n + 1]]`. */
  readonly from: Int32Array;
  readonly tokens: Int32Array;
  /** Bytes of the longest token. */
  readonly longest: number;
}

const tries = new WeakMap<Vocabulary, Trie>();

/** The trie of a vocabulary, built once. */
export function trieOf(vocabulary: Vocabulary): Trie {
  const known = tries.get(vocabulary);
  if (known) return known;
  const trie = build(vocabulary);
  tries.set(vocabulary, trie);
  return trie;
}

interface Entry {
  id: number;
  bytes: Buffer;
}

function build(vocabulary: Vocabulary): Trie {
  const control = new Set(vocabulary.special?.values());
  const entries: Entry[] = [];
  for (let id = 0; id < vocabulary.vocabSize; id++) {
    const bytes = control.has(id) ? undefined : vocabulary.tokenBytes(id);
    if (bytes?.length) entries.push({ id, bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length) });
  }
  return plant(vocabulary.vocabSize, entries);
}

/** What the tokens below any of `nodes` have behind them, as a trie of its own: one walk instead of many. */
export function tails(trie: Trie, nodes: readonly number[]): Trie {
  const { byte, depth, end, from, tokens } = trie;
  const entries: Entry[] = [];
  const path = Buffer.alloc(trie.longest);
  for (const root of nodes) {
    for (let node = root + 1; node < end[root]!; node++) {
      const length = depth[node]! - depth[root]!;
      path[length - 1] = byte[node]!;
      for (let t = from[node]!; t < from[node + 1]!; t++) {
        entries.push({ id: tokens[t]!, bytes: Buffer.from(path.subarray(0, length)) });
      }
    }
  }
  return plant(trie.vocabSize, entries);
}

function plant(vocabSize: number, entries: Entry[]): Trie {
  entries.sort((a, b) => Buffer.compare(a.bytes, b.bytes) || a.id - b.id);
  const room = entries.reduce((sum, { bytes }) => sum + bytes.length, 1);
  const longest = entries.reduce((most, { bytes }) => Math.max(most, bytes.length), 0);
  const byte = new Uint8Array(room);
  const depth = new Uint16Array(room);
  const end = new Int32Array(room);
  const from = new Int32Array(room + 1);
  const tokens = new Int32Array(entries.length);
  const path = [0];
  let size = 1;
  let before: Buffer = Buffer.alloc(0);
  entries.forEach(({ id, bytes }, i) => {
    let shared = 0;
    while (shared < bytes.length && shared < before.length && bytes[shared] === before[shared]) shared++;
    while (path.length > shared + 1) end[path.pop()!] = size;
    for (let d = shared; d < bytes.length; d++) {
      byte[size] = bytes[d]!;
      depth[size] = d + 1;
      from[size] = i;
      path.push(size++);
    }
    tokens[i] = id;
    before = bytes;
  });
  while (path.length) end[path.pop()!] = size;
  from[size] = entries.length;
  return {
    vocabSize,
    byte: byte.slice(0, size),
    depth: depth.slice(0, size),
    end: end.slice(0, size),
    from: from.slice(0, size + 1),
    tokens,
    longest,
  };
}

/** The fewest tokens that spell each suffix of `bytes`: `best[i]` for the suffix from `i`; Infinity where none do. */
export function fewestTokens(trie: Trie, bytes: readonly number[]): Float64Array {
  const best = new Float64Array(bytes.length + 1).fill(Infinity);
  best[bytes.length] = 0;
  for (let i = bytes.length - 1; i >= 0; i--) {
    let node = 0;
    for (let j = i; j < bytes.length; j++) {
      node = child(trie, node, bytes[j]!);
      if (node < 0) break;
      if (trie.from[node] !== trie.from[node + 1]) best[i] = Math.min(best[i]!, 1 + best[j + 1]!);
    }
  }
  return best;
}

/** The node reached by these bytes, −1 where there is none. */
export function find(trie: Trie, bytes: Uint8Array): number {
  let node = 0;
  for (let i = 0; node >= 0 && i < bytes.length; i++) node = child(trie, node, bytes[i]!);
  return node;
}

function child({ byte, end }: Trie, node: number, wanted: number): number {
  for (let at = node + 1; at < end[node]!; at = end[at]!) if (byte[at] === wanted) return at;
  return -1;
}
