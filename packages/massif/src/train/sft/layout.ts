/**
 * Examples laid end to end in rows. What several begin with (the tools of a world, the question of a group of answers) stands
 * in a row once, before them, and they see it as their own: its keys, values and gradients are computed once, and are the
 * same. A long row shares more; where attention is computed whole (by ATen's operators), it costs the square of its length.
 */
import { emptyRows, type Rows } from "../data/rows.ts";
import type { Example } from "./examples.ts";

/** Where an example's own tokens lie: input `from` is position `at` of the rows, and the others follow. */
export interface Place {
  example: number;
  from: number;
  at: number;
}

export interface Layout {
  rows: Rows;
  places: Place[];
}

/** Inputs of an example: its last token is a target only. */
const inputs = ({ ids }: Example): number => ids.length - 1;

/** How many of its inputs an example may share: what it learns is predicted from its own. */
function shareable({ ids, learn }: Example): number {
  const first = learn.indexOf(1, 1);
  return (first < 0 ? ids.length - 1 : first) - 1;
}

function compare(a: Int32Array, b: Int32Array): number {
  const i = common(a, b);
  return (a[i] ?? -1) - (b[i] ?? -1);
}

/** Length of what both begin with. */
function common(a: Int32Array, b: Int32Array): number {
  const length = Math.min(a.length, b.length);
  let i = 0;
  while (i < length && a[i] === b[i]) i++;
  return i;
}

/** Examples that begin with the same `shared` tokens. */
interface Family {
  shared: number;
  members: number[];
}

/** In the order of their tokens, neighbours have most in common: an example joins the family before it where that leaves
 *  less to compute. */
function families(examples: readonly Example[], which: Iterable<number>): Family[] {
  const sorted = [...which].sort((a, b) => compare(examples[a]!.ids, examples[b]!.ids) || a - b);
  const found: Family[] = [];
  let family: Family | undefined;
  for (const i of sorted) {
    const last = examples[family?.members.at(-1) ?? i]!;
    const shared = Math.min(family?.shared ?? 0, common(last.ids, examples[i]!.ids), shareable(examples[i]!));
    // It saves what it shares; what the members share no more is computed for each of them but one.
    if (family && shared > (family.shared - shared) * (family.members.length - 1)) {
      family.members.push(i);
      family.shared = shared;
    } else found.push((family = { shared: shareable(examples[i]!), members: [i] }));
  }
  return found;
}

/** Micro-batches of at most `rows` rows of at most `seqLen` tokens; of more, where an example is longer. */
export function layOut(
  examples: readonly Example[],
  which: Iterable<number>,
  { rows: most, seqLen }: { rows: number; seqLen: number },
): Layout[] {
  const rows: Row[] = [];
  let row: Row | undefined;
  for (const { shared, members } of families(examples, which)) {
    const prefix = members.length > 1 ? shared : 0;
    let begun: number | undefined;
    for (const example of members) {
      const to = inputs(examples[example]!);
      const length = to - (begun === undefined ? 0 : prefix);
      if (!row || row.length + length > seqLen) {
        rows.push((row = { pieces: [], length: 0 }));
        begun = undefined;
      }
      if (begun === undefined) {
        begun = row.length;
        if (prefix) add(row, { example, from: 0, to: prefix, begun });
      }
      add(row, { example, from: prefix, to, begun });
    }
  }
  return Array.from({ length: Math.ceil(rows.length / most) }, (_, i) =>
    write(examples, rows.slice(i * most, (i + 1) * most)),
  );
}

/** Inputs [from, to) of an example. Those before `from` it shares: they begin at position `begun` of the row. */
interface Piece {
  example: number;
  from: number;
  to: number;
  begun: number;
}

interface Row {
  pieces: Piece[];
  length: number;
}

function add(row: Row, piece: Piece): void {
  row.pieces.push(piece);
  row.length += piece.to - piece.from;
}

function write(examples: readonly Example[], all: readonly Row[]): Layout {
  const seqLen = Math.max(...all.map(({ length }) => length));
  const rows = emptyRows(all.length, seqLen);
  const shared = new Int32Array(2 * rows.ids.length);
  const places: Place[] = [];
  for (const [b, { pieces }] of all.entries()) {
    let at = b * seqLen;
    for (const { example, from, to, begun } of pieces) {
      const { ids, learn } = examples[example]!;
      // What is shared is nobody's own.
      if (from || to === ids.length - 1) places.push({ example, from, at });
      rows.ids.set(ids.subarray(from, to), at);
      rows.docStart.fill(at - b * seqLen, at, at + to - from);
      for (let t = from; t < to; t++, at++) {
        if (learn[t + 1]) rows.targets[at] = ids[t + 1]!;
        if (from) shared.set([begun, begun + from], 2 * at);
      }
    }
    // Padding sees padding only.
    rows.docStart.fill(at - b * seqLen, at, (b + 1) * seqLen);
  }
  return { rows: { ...rows, ...(shared.some(Boolean) && { shared }) }, places };
}
