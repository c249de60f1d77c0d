/** Byte-level BPE as tiktoken and Kimi K2 do it (spec §7.1–7.4): text ↔ ids. */
import { MassifError, nearest } from "../common/index.ts";
import { type PatternName, type Splitter, splitter } from "./pattern.ts";
import { grown, PieceSet, toUtf8 } from "./pieces.ts";
import { Vocabulary } from "./vocabulary.ts";

/** A token outside the merging: a name that stands for one id. */
export interface SpecialToken {
  name: string;
  id: number;
  /** Hugging Face's flag: false means that `skipSpecial` keeps it, as K2's tool-call and think tokens. */
  special: boolean;
}

export interface TokenizerParts {
  /** Ordinary tokens by id; a hole where the id belongs to a special token. */
  tokens: readonly (Uint8Array | undefined)[];
  /** When each token may be made by merging, by id; left out: the ids are the ranks. */
  ranks?: Int32Array;
  specials?: readonly SpecialToken[];
  /** A name or an expression; left out: Kimi K2's. */
  pattern?: PatternName | (string & {});
  /** A piece that is a token as a whole is taken as it is (tiktoken; `ignore_merges` of Hugging Face). Default true. */
  wholePieces?: boolean;
  /** A Unicode normal form to bring text into first (Qwen's files ask for NFC). */
  normalize?: "NFC" | "NFD" | "NFKC" | "NFKD";
}

export interface EncodeOptions {
  /** Which special-token texts in the input become special tokens: none (false, the default: content from outside stays
   *  text), all (true or "all"), or those named. */
  allowSpecial?: boolean | "all" | ReadonlySet<string>;
}

export interface DecodeOptions {
  /** Leaves out tokens whose `special` flag is set. */
  skipSpecial?: boolean;
}

/** Distinct pieces remembered with their ids; then the memory starts afresh. */
const REMEMBERED = 1 << 17;
/** Longer pieces are rare and not remembered (code units). */
const LONGEST_REMEMBERED = 48;
/** Spec §7.4: characters a slice; characters of a run of only white space or only none. */
const SLICE = 400_000;
const RUN = 25_000;

export class Tokenizer {
  readonly vocabulary: Vocabulary;
  readonly splitter: Splitter;
  readonly specials: readonly SpecialToken[];
  readonly wholePieces: boolean;
  readonly normalize: TokenizerParts["normalize"];
  /** Special tokens: name → id. */
  readonly special: ReadonlyMap<string, number>;
  /** One more than the highest id, special ones included. */
  readonly vocabSize: number;

  readonly #specialById: ReadonlyMap<number, SpecialToken>;
  readonly #allSpecials: RegExp | undefined;
  readonly #known = new PieceSet();
  /** Of each known piece its id, or ~i where #long[i] is a count and the ids follow. */
  readonly #ids = new Int32Array(REMEMBERED);
  #long = new Int32Array(1 << 12);
  #longEnd = 0;
  #units = new Uint16Array(1 << 12);
  #bytes = new Uint8Array(1 << 10);
  #out = new Int32Array(1 << 12);
  #end = 0;

  /** Throws `tokenizer.vocabulary` and `tokenizer.pattern`. */
  constructor({ tokens, ranks, specials = [], pattern, wholePieces = true, normalize }: TokenizerParts) {
    this.vocabulary = new Vocabulary(tokens, ranks);
    this.splitter = splitter(pattern);
    this.specials = specials.toSorted((a, b) => a.id - b.id);
    this.wholePieces = wholePieces;
    this.normalize = normalize;
    this.special = new Map(this.specials.map(({ name, id }) => [name, id]));
    this.#specialById = new Map(this.specials.map((token) => [token.id, token]));
    this.vocabSize = Math.max(this.vocabulary.size, (this.specials.at(-1)?.id ?? -1) + 1);
    const clash = this.specials.find(({ name, id }) => this.special.get(name) !== id || tokens[id] !== undefined);
    if (clash || this.#specialById.size !== this.specials.length || this.special.has("")) {
      throw new MassifError("tokenizer.vocabulary", {
        found: `special token ${JSON.stringify(clash?.name ?? "")} shares its name or its id with another token`,
      });
    }
    this.#allSpecials = anyOf(this.special.keys());
  }

  /** The ids of a text. No BOS or EOS is added. A lone surrogate is encoded as U+FFFD. */
  encode(text: string, { allowSpecial = false }: EncodeOptions = {}): Int32Array {
    this.#end = 0;
    const specials =
      typeof allowSpecial === "object"
        ? anyOf(this.#checked(allowSpecial))
        : allowSpecial
          ? this.#allSpecials
          : undefined;
    // As in Kimi K2's own code the cuts come first: a special token across one is not seen.
    for (const slice of this.splitter.k2 ? slices(text) : [text]) {
      let from = 0;
      if (specials) {
        for (const { 0: name, index } of slice.matchAll(specials)) {
          this.#ordinary(slice.slice(from, index));
          this.#emit(this.special.get(name)!);
          from = index + name.length;
        }
      }
      this.#ordinary(from ? slice.slice(from) : slice);
    }
    return this.#out.slice(0, this.#end);
  }

  #checked(names: ReadonlySet<string>): ReadonlySet<string> {
    for (const name of names) this.idOf(name);
    return names;
  }

  #ordinary(raw: string): void {
    if (!raw) return;
    const text = this.normalize ? raw.normalize(this.normalize) : raw;
    if (text.length > this.#units.length) this.#units = grown(this.#units, text.length);
    const { buffer, byteLength } = this.#units;
    Buffer.from(buffer, 0, byteLength).write(text, "utf16le");
    this.splitter.split(text, this.#units, this.#piece);
    if (this.#units.length > 4 * SLICE) this.#units = new Uint16Array(1 << 12);
  }

  readonly #piece = (start: number, end: number): void => {
    if (end - start > LONGEST_REMEMBERED) {
      this.#end = this.#merged(start, end, this.#end);
      return;
    }
    const size = this.#known.size;
    const piece = this.#known.add(this.#units, start, end);
    if (piece === size) {
      this.#learn(start, end);
      return;
    }
    const id = this.#ids[piece]!;
    if (id >= 0) {
      this.#emit(id);
      return;
    }
    const from = ~id + 1;
    for (let i = from, to = from + this.#long[~id]!; i < to; i++) this.#emit(this.#long[i]!);
  };

  /** Merges a piece that `#known` has just taken up, and remembers the ids. */
  #learn(start: number, end: number): void {
    const from = this.#end;
    const to = this.#merged(start, end, from);
    this.#end = to;
    const known = this.#known.size;
    if (to - from === 1) this.#ids[known - 1] = this.#out[from]!;
    else {
      if (this.#longEnd + to - from >= this.#long.length) this.#long = grown(this.#long, this.#longEnd + to - from + 1);
      this.#ids[known - 1] = ~this.#longEnd;
      this.#long[this.#longEnd++] = to - from;
      for (let i = from; i < to; i++) this.#long[this.#longEnd++] = this.#out[i]!;
    }
    if (known < REMEMBERED) return;
    this.#known.clear();
    this.#longEnd = 0;
  }

  /** Writes the ids of units[start, end) to `#out` from `at` on; returns the end. */
  #merged(start: number, end: number, at: number): number {
    const room = 3 * (end - start);
    if (room > this.#bytes.length) this.#bytes = grown(this.#bytes, room);
    if (at + room > this.#out.length) this.#out = grown(this.#out, at + room);
    const bytes = this.#bytes;
    const length = toUtf8(this.#units, start, end, bytes);
    const whole = this.wholePieces ? this.vocabulary.find(bytes, length) : -1;
    if (whole < 0) return this.vocabulary.merge(bytes, length, this.#out, at);
    this.#out[at] = whole;
    return at + 1;
  }

  #emit(id: number): void {
    if (this.#end === this.#out.length) this.#out = grown(this.#out, this.#end + 1);
    this.#out[this.#end++] = id;
  }

  /** The bytes of one token; a special token's are its name in UTF-8. Throws `tokenizer.id` for an id that is none. */
  tokenBytes(id: number): Uint8Array {
    const special = this.#specialById.get(id);
    if (special) return new TextEncoder().encode(special.name);
    const bytes = this.vocabulary.bytes(id);
    if (bytes.length) return bytes;
    throw new MassifError("tokenizer.id", {
      found: `${id} is not the id of a token`,
      expected: `a whole number from 0 to ${this.vocabSize - 1}`,
    });
  }

  /** Whether an id is a token's: vocabularies have gaps, and a model's may be padded. */
  has(id: number): boolean {
    return this.#specialById.has(id) || (id < this.vocabSize && this.vocabulary.bytes(id).length > 0);
  }

  /** The bytes of ids, one after another. */
  decodeBytes(ids: Iterable<number>, { skipSpecial = false }: DecodeOptions = {}): Uint8Array {
    const parts: Uint8Array[] = [];
    for (const id of ids) if (!(skipSpecial && this.isSkipped(id))) parts.push(this.tokenBytes(id));
    return Buffer.concat(parts);
  }

  /** The text of ids; bytes that are not UTF-8 read as U+FFFD. */
  decode(ids: Iterable<number>, options?: DecodeOptions): string {
    return utf8Decoder().decode(this.decodeBytes(ids, options));
  }

  /** Is this a token that `skipSpecial` leaves out? */
  isSkipped(id: number): boolean {
    return this.#specialById.get(id)?.special ?? false;
  }

  /** The id of a special token. Throws `tokenizer.special` if there is none of that name. */
  idOf(name: string): number {
    const id = this.special.get(name);
    if (id !== undefined) return id;
    const like = nearest(name, this.special.keys());
    throw new MassifError("tokenizer.special", {
      found: `there is no special token ${name}`,
      fix: like && `did you mean ${like}?`,
    });
  }

  /** A decoder for ids as they come. */
  decoder(options?: DecodeOptions): StreamDecoder {
    return new StreamDecoder(this, options);
  }
}

/** Turns ids into text as they come: each `push` returns the text that has become complete, holding back the bytes of an
 *  unfinished character. All it returned, and `end()`, together are what `decode` gives. */
export class StreamDecoder {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecial: boolean;
  readonly #utf8 = utf8Decoder();

  constructor(tokenizer: Tokenizer, { skipSpecial = false }: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecial = skipSpecial;
  }

  push(id: number): string {
    if (this.#skipSpecial && this.#tokenizer.isSkipped(id)) return "";
    return this.#utf8.decode(this.#tokenizer.tokenBytes(id), { stream: true });
  }

  /** What is left: U+FFFD if the ids ended within a character. */
  end(): string {
    return this.#utf8.decode();
  }
}

/** Keeps a byte order mark: it is text. */
const utf8Decoder = () => new TextDecoder("utf-8", { ignoreBOM: true });

/** Any of these strings, the longest where several begin. */
function anyOf(names: Iterable<string>): RegExp | undefined {
  const sorted = [...names].sort((a, b) => b.length - a.length);
  return sorted.length ? new RegExp(sorted.map((name) => RegExp.escape(name)).join("|"), "gu") : undefined;
}

/** Kimi K2's slices of a text (spec §7.4): of 400,000 characters, and within those cut where a run of only white space
 *  (Python's `isspace`) or only other characters would exceed 25,000. */
export function* slices(text: string): Generator<string> {
  if (text.length <= RUN) {
    yield text;
    return;
  }
  let from = 0;
  let count = 0;
  let run = 0;
  let inSpace = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (i > 0 && (c & 0xfc00) === 0xdc00 && (text.charCodeAt(i - 1) & 0xfc00) === 0xd800) continue; // second half of a pair
    const space = isSpace(c);
    const full = count === SLICE;
    run = !full && space === inSpace ? run + 1 : 1;
    inSpace = space;
    if (full || run > RUN) {
      yield text.slice(from, i);
      from = i;
      run = 1;
      if (full) count = 0;
    }
    count++;
  }
  yield text.slice(from);
}

/** Python's `str.isspace`: Unicode white space and the four separators U+001C–U+001F. */
function isSpace(c: number): boolean {
  if (c < 0x80) return c === 32 || (c >= 9 && c <= 13) || (c >= 28 && c <= 31);
  if (c < 0x1680) return c === 0x85 || c === 0xa0;
  return (
    c === 0x1680 ||
    (c >= 0x2000 && c <= 0x200a) ||
    c === 0x2028 ||
    c === 0x2029 ||
    c === 0x202f ||
    c === 0x205f ||
    c === 0x3000
  );
}
