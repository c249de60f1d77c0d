/** Training a byte-level BPE vocabulary: join the most frequent neighbours, again and again. Gives the merges that Hugging
 *  Face's trainer gives: of equally frequent pairs the one with the lower ids is first.
 *
 *  Words are counted once each and then lie in one row of symbols. A pair knows the places where it stands; counts change
 *  at once, the heap only when a pair comes up whose count has sunk since it was put there. */
import { MassifError } from "../common/index.ts";
import { byteOrder } from "./bytes.ts";
import { Pairs } from "./pairs.ts";
import { type PatternName, splitter } from "./pattern.ts";
import { grown, PieceSet, toUtf8 } from "./pieces.ts";
import { k2Specials } from "./special.ts";
import { Tokenizer } from "./tokenizer.ts";

export interface TrainOptions {
  /** All tokens: 256 bytes, merges, special tokens. */
  vocabSize: number;
  /** A name or an expression; Kimi K2's by default. */
  pattern?: PatternName | (string & {});
  /** At the end of the vocabulary, in this order; Kimi K2's names by default. */
  special?: readonly (string | { name: string; special: boolean })[];
  /** Pairs that occur less often are not merged. Default 1, as Hugging Face's. */
  minFrequency?: number;
  /** Called now and then: texts read so far, then merges done of those wanted. */
  onProgress?: (progress: { stage: "read" | "merge"; done: number; of?: number }) => void;
}

/** Trains on texts, each a document of its own. The same texts give the same tokenizer. Throws `tokenizer.train` when the
 *  vocabulary cannot have that size: too small for bytes and special tokens, or more than the texts have pairs for. */
export function trainTokenizer(texts: Iterable<string>, options: TrainOptions): Tokenizer {
  const trainer = new Trainer(options);
  for (const text of texts) trainer.add(text);
  return trainer.finish();
}

/** `trainTokenizer` for texts that come one by one. */
export class Trainer {
  readonly #options: TrainOptions;
  readonly #specials: { name: string; special: boolean }[];
  readonly #splitter;
  readonly #words = new PieceSet();
  #counts = new Float64Array(1 << 12);
  #units = new Uint16Array(1 << 12);
  #texts = 0;

  constructor(options: TrainOptions) {
    this.#options = options;
    this.#splitter = splitter(options.pattern);
    this.#specials = (options.special ?? k2Specials).map((one) =>
      typeof one === "string" ? { name: one, special: true } : one,
    );
    const least = 256 + this.#specials.length;
    if (Number.isInteger(options.vocabSize) && options.vocabSize >= least) return;
    throw new MassifError("tokenizer.train", {
      found: `a vocabulary of ${options.vocabSize} tokens`,
      expected: `a whole number from ${least} on: 256 bytes and ${this.#specials.length} special tokens`,
    });
  }

  /** Counts the words of one more text. */
  add(text: string): void {
    if (text.length > this.#units.length) this.#units = grown(this.#units, text.length);
    const { buffer, byteLength } = this.#units;
    Buffer.from(buffer, 0, byteLength).write(text, "utf16le");
    this.#splitter.split(text, this.#units, this.#count);
    this.#options.onProgress?.({ stage: "read", done: ++this.#texts });
  }

  readonly #count = (start: number, end: number): void => {
    const word = this.#words.add(this.#units, start, end);
    if (word === this.#counts.length) this.#counts = grown(this.#counts, word + 1);
    this.#counts[word]!++;
  };

  /** Merges, and returns the tokenizer. */
  finish(): Tokenizer {
    const { vocabSize, pattern, minFrequency = 1, onProgress } = this.#options;
    const row = layOut(this.#words, this.#counts);
    const tokens = byteOrder.map((byte) => Uint8Array.of(byte));
    const wanted = vocabSize - this.#specials.length;
    for (let pair = row.pairs.best(); tokens.length < wanted; pair = row.pairs.best()) {
      if (pair < 0 || row.pairs.counts[pair]! < minFrequency) {
        throw new MassifError("tokenizer.train", {
          found: `the texts have pairs for ${tokens.length + this.#specials.length} tokens only`,
          expected: `${vocabSize} tokens`,
          fix: "train on more text, or ask for a smaller vocabulary",
        });
      }
      const { left, right } = row.pairs;
      tokens.push(Buffer.concat([tokens[left[pair]!]!, tokens[right[pair]!]!]));
      join(row, pair, tokens.length - 1);
      if (tokens.length % 256 === 0) onProgress?.({ stage: "merge", done: tokens.length - 256, of: wanted - 256 });
    }
    const specials = this.#specials.map((one, i) => ({ ...one, id: wanted + i }));
    return new Tokenizer({ tokens, specials, pattern });
  }
}

/** All words one after another, a gap (symbol -1) before and after each. Arrays are by place. */
interface Row {
  symbols: Int32Array;
  /** where the symbols to the right and left are */
  next: Int32Array;
  previous: Int32Array;
  /** the pair of this symbol and the next; -1 where none is */
  pairAt: Int32Array;
  /** how often the word occurs */
  weight: Float64Array;
  pairs: Pairs;
}

function layOut(words: PieceSet, counts: Float64Array): Row {
  const idOf = new Int32Array(256);
  for (const [id, byte] of byteOrder.entries()) idOf[byte] = id;
  const room = 3 * words.starts[words.size]! + words.size + 1;
  const bytes = new Uint8Array(room);
  const ends = new Int32Array(words.size);
  let length = 0;
  for (let word = 0; word < words.size; word++) {
    length += toUtf8(words.units, words.starts[word]!, words.starts[word + 1]!, bytes.subarray(length));
    ends[word] = length;
  }
  const places = length + words.size + 1;
  const symbols = new Int32Array(places).fill(-1);
  const next = new Int32Array(places);
  const previous = new Int32Array(places);
  const pairAt = new Int32Array(places).fill(-1);
  const weight = new Float64Array(places);
  const pairs = new Pairs();
  let place = 1;
  for (let word = 0, at = 0; word < words.size; word++, place++) {
    const count = counts[word]!;
    for (; at < ends[word]!; at++, place++) {
      symbols[place] = idOf[bytes[at]!]!;
      next[place] = place + 1;
      previous[place] = place - 1;
      weight[place] = count;
      if (symbols[place - 1]! < 0) continue;
      const pair = pairs.add(symbols[place - 1]!, symbols[place]!);
      pairAt[place - 1] = pair;
      pairs.stands(pair, place - 1, count);
    }
  }
  pairs.offerNew();
  return { symbols, next, previous, pairAt, weight, pairs };
}

/** Makes `made` of a pair wherever it stands, from left to right. */
function join({ symbols, next, previous, pairAt, weight, pairs }: Row, pair: number, made: number): void {
  const places = pairs.take(pair);
  for (let i = 0; i < places.length; i++) {
    const place = places[i]!;
    if (pairAt[place] !== pair) continue; // a merge before has used one of the two
    const count = weight[place]!;
    const right = next[place]!;
    const after = next[right]!;
    const before = previous[place]!;
    symbols[place] = made;
    next[place] = after;
    previous[after] = place;
    pairAt[place] = -1;
    if (symbols[before]! >= 0) {
      pairs.counts[pairAt[before]!]! -= count;
      const left = pairs.add(symbols[before]!, made);
      pairAt[before] = left;
      pairs.stands(left, before, count);
    }
    if (symbols[after]! >= 0) {
      pairs.counts[pairAt[right]!]! -= count;
      const both = pairs.add(made, symbols[after]!);
      pairAt[place] = both;
      pairs.stands(both, place, count);
    }
    pairAt[right] = -1;
  }
  pairs.counts[pair] = 0;
  pairs.offerNew();
}
