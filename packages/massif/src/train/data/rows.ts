/**
 * Packing: documents laid end to end and cut into rows of T tokens, with no padding and no token lost.
 *
 * Attention looks back only within the row and only within the document: `docStart` says where that is. The end token
 * closes its document and is predicted from it. What follows the end token is another document's first token, which
 * nothing before it announces; it is no target (−100), unless `firstToken` is "predicted": then the end token opens the
 * next document (it attends only to itself), and every token of a document is predicted from that document alone.
 */
import type { TokenFile } from "./tokens.ts";

/** The target that no loss counts, as in PyTorch's cross_entropy. */
export const IGNORE = -100;

export type FirstToken = "masked" | "predicted";

/** B rows of T tokens, row-major. */
export interface Rows {
  batch: number;
  seqLen: number;
  /** [B, T] the inputs. */
  ids: Int32Array;
  /** [B, T] the token that follows each input, or −100. */
  targets: Int32Array;
  /** [B, T] for each position, the first position of its row that it may attend to. */
  docStart: Int32Array;
  /** [B, T, 2] the stretch of its row, [from, to), that a position's document shares with others and sees besides itself;
   *  absent where none does. */
  shared?: Int32Array;
}

/** A stretch of one document: tokens [start, start + length) of the file. */
export interface Piece {
  document: number;
  start: number;
  length: number;
  /** Whether it begins with the document's first token. */
  first: boolean;
  file: TokenFile;
}

export function emptyRows(batch: number, seqLen: number): Rows {
  const of = () => new Int32Array(batch * seqLen);
  return { batch, seqLen, ids: of(), targets: of().fill(IGNORE), docStart: of() };
}

/** Documents of a token file, end to end in the order given. */
export class Sequence {
  readonly file: TokenFile;
  readonly documents: Uint32Array;
  /** Where each document starts in the sequence; the last entry is the sequence's length in tokens. */
  readonly #starts: Float64Array;

  constructor(file: TokenFile, documents: Uint32Array) {
    this.file = file;
    this.documents = documents;
    this.#starts = new Float64Array(documents.length + 1);
    for (let i = 0; i < documents.length; i++) {
      this.#starts[i + 1] = this.#starts[i]! + file.ends[documents[i]!]! - file.start(documents[i]!);
    }
  }

  get length(): number {
    return this.#starts[this.documents.length]!;
  }

  /** The pieces that make up tokens [from, to) of the sequence. */
  *pieces(from: number, to: number): Generator<Piece> {
    let low = 0;
    let high = this.documents.length;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.#starts[middle]! <= from) low = middle;
      else high = middle;
    }
    for (let i = low; i < this.documents.length && this.#starts[i]! < to; i++) {
      const begin = Math.max(from, this.#starts[i]!);
      const length = Math.min(to, this.#starts[i + 1]!) - begin;
      const document = this.documents[i]!;
      const start = this.file.start(document) + begin - this.#starts[i]!;
      yield { document, start, length, first: begin === this.#starts[i]!, file: this.file };
    }
  }
}

/** Writes T + 1 tokens (fewer in the last row of an evaluation) as row `b`: inputs, and targets one ahead.
 *  @param lead a token put before the pieces; @returns the documents that the row's inputs are from */
export function writeRow(
  rows: Rows,
  b: number,
  pieces: Iterable<Piece>,
  firstToken: FirstToken,
  lead?: number,
): number[] {
  const T = rows.seqLen;
  const ids = rows.ids.subarray(b * T, (b + 1) * T);
  const targets = rows.targets.subarray(b * T, (b + 1) * T);
  const docStart = rows.docStart.subarray(b * T, (b + 1) * T);
  const documents: number[] = [];
  let at = 0;
  if (lead !== undefined) ids[at++] = lead;
  for (const { document, start, length, first, file } of pieces) {
    const tokens = file.tokens(start, start + length);
    const inputs = Math.min(length, T - at);
    ids.set(tokens.subarray(0, inputs), at);
    if (at > 0) targets.set(tokens, at - 1);
    else targets.set(tokens.subarray(1));
    let begin = at;
    if (first && at > 0) {
      if (firstToken === "masked") targets[at - 1] = IGNORE;
      else begin = at - 1;
    }
    docStart.fill(begin, begin, at + inputs);
    if (inputs > 0) documents.push(document);
    at += length;
  }
  // Padding sees padding only, and is no target.
  if (at < T) {
    ids.fill(ids[at - 1] ?? 0, at);
    docStart.fill(at, at);
  }
  return documents;
}
