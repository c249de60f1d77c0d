/**
 * Examples laid end to end in one long row. What several begin with (the tools of a world, the question of a group of
 * answers) stands there once, before them, and they see it as their own: its keys, values and gradients are computed once,
 * and are the same. Nothing is padded.
 */
import { IGNORE, type Rows } from "../data/rows.ts";
import type { Example } from "./examples.ts";

/** Where an example's own tokens lie: input `from` is position `at` of the row, and the others follow. */
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

/** Micro-batches of at most `tokens` tokens; of more, where an example is longer. */
export function layOut(examples: readonly Example[], which: Iterable<number>, tokens: number): Layout[] {
  const layouts: Layout[] = [];
  let row = new Row(examples);
  for (const { shared, members } of families(examples, which)) {
    const prefix = members.length > 1 ? shared : 0;
    let begun = -1;
    for (const i of members) {
      const own = inputs(examples[i]!) - prefix;
      if (row.length && row.length + own + (begun < 0 ? prefix : 0) > tokens) {
        layouts.push(row.layout());
        row = new Row(examples);
        begun = -1;
      }
      if (begun < 0) begun = row.share(i, prefix);
      row.add(i, prefix, begun);
    }
  }
  if (row.length) layouts.push(row.layout());
  return layouts;
}

class Row {
  readonly #examples: readonly Example[];
  readonly #places: Place[] = [];
  readonly #pieces: { example: number; from: number; to: number; begun: number }[] = [];
  length = 0;

  constructor(examples: readonly Example[]) {
    this.#examples = examples;
  }

  /** The first tokens of an example, to be shared. @returns where they begin */
  share(example: number, to: number): number {
    const begun = this.length;
    if (to) this.#pieces.push({ example, from: 0, to, begun });
    this.length += to;
    return begun;
  }

  /** An example from token `from` on, behind what begins at `begun`. */
  add(example: number, from: number, begun: number): void {
    this.#places.push({ example, from, at: this.length });
    const to = inputs(this.#examples[example]!);
    this.#pieces.push({ example, from, to, begun });
    this.length += to - from;
  }

  layout(): Layout {
    const of = (size = this.length) => new Int32Array(size);
    const rows: Rows = { batch: 1, seqLen: this.length, ids: of(), targets: of().fill(IGNORE), docStart: of() };
    const shared = of(2 * this.length);
    let at = 0;
    for (const { example, from, to, begun } of this.#pieces) {
      const { ids, learn } = this.#examples[example]!;
      rows.ids.set(ids.subarray(from, to), at);
      rows.docStart.fill(at, at, at + to - from);
      for (let t = from; t < to; t++, at++) {
        if (learn[t + 1]) rows.targets[at] = ids[t + 1]!;
        if (from) shared.set([begun, begun + from], 2 * at);
      }
    }
    return { rows: { ...rows, ...(shared.some(Boolean) && { shared }) }, places: this.#places };
  }
}
