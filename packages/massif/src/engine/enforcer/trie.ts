/** A vocabulary as a trie of bytes, laid out in depth-first order so that a walk is one loop without recursion. */

import type { Tokenizer } from "../../tokenizer/index.ts";

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

function build(vocabulary: Vocabulary): Trie {
  const control = new Set(vocabulary.special?.values());
  const entries: { id: number; bytes: Buffer }[] = [];
  let longest = 0;
  let room = 1;
  for (let id = 0; id < vocabulary.vocabSize; id++) {
    const bytes = control.has(id) ? undefined : vocabulary.tokenBytes(id);
    if (!bytes?.length) continue;
    entries.push({ id, bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length) });
    longest = Math.max(longest, bytes.length);
    room += bytes.length;
  }
  entries.sort((a, b) => Buffer.compare(a.bytes, b.bytes) || a.id - b.id);

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
    vocabSize: vocabulary.vocabSize,
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

function child({ byte, end }: Trie, node: number, wanted: number): number {
  for (let at = node + 1; at < end[node]!; at = end[at]!) if (byte[at] === wanted) return at;
  return -1;
}
