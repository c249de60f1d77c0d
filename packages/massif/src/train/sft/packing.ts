/**
 * Which examples a step has: as many as fit, each whole, into rows of T tokens. Every epoch packs them anew in a seeded order
 * (best fit), so they have other mates each time. What they share is computed once (layout.ts).
 */
import { createHash } from "node:crypto";
import { MassifError, Random } from "../../common/index.ts";
import type { Rows } from "../data/rows.ts";
import type { Example } from "./examples.ts";
import { layOut } from "./layout.ts";

/** Positions that an example takes: its last token is a target only. */
const lengthOf = ({ ids }: Example): number => ids.length - 1;

/** Best fit: each example, in the given order, goes to the fullest open row that has room. */
export function pack(examples: readonly Example[], order: Iterable<number>, seqLen: number): number[][] {
  const rows: number[][] = [];
  const withRoom: number[][][] = Array.from({ length: seqLen + 1 }, () => []);
  for (const i of order) {
    const length = lengthOf(examples[i]!);
    let room = length;
    while (room <= seqLen && !withRoom[room]!.length) room++;
    let row = withRoom[room]?.pop();
    if (!row) {
      rows.push((row = []));
      room = seqLen;
    }
    row.push(i);
    withRoom[room - length]!.push(row);
  }
  return rows;
}

export interface PackedBatch extends Rows {
  /** Numbers of the examples. */
  examples: number[];
}

/** JSON: all that it takes to go on with the next row. */
export interface PackingState {
  epoch: number;
  /** Rows drawn of the epoch. */
  row: number;
  /** Of the examples, row length and seed. */
  fingerprint: string;
}

/** The seeded order of examples, for ever. */
export class PackedOrder {
  readonly #examples: readonly Example[];
  readonly #seqLen: number;
  readonly #seed: number;
  readonly fingerprint: string;
  #epoch = 0;
  #row = 0;
  #rows: number[][] = [];

  constructor(examples: readonly Example[], { seqLen, seed }: { seqLen: number; seed: number }) {
    this.#examples = examples;
    this.#seqLen = seqLen;
    this.#seed = seed;
    const hash = createHash("sha256").update(JSON.stringify([seqLen, seed]));
    for (const { ids, learn } of examples)
      hash.update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength)).update(learn);
    this.fingerprint = hash.digest("hex").slice(0, 16);
    this.#pack();
  }

  /** Rows of the epoch under way. */
  get rowsPerEpoch(): number {
    return this.#rows.length;
  }

  #pack(): void {
    const random = Random.of(this.#seed, "sft", this.#epoch);
    const order = random.shuffle(Uint32Array.from(this.#examples, (_, i) => i));
    // Early rows are the fullest: in their own order, batches would differ from each other for no reason.
    this.#rows = random.shuffle(pack(this.#examples, order, this.#seqLen));
  }

  next(rows: number): PackedBatch {
    const packed: number[][] = [];
    while (packed.length < rows) {
      if (this.#row >= this.#rows.length) {
        this.#epoch++;
        this.#row = 0;
        this.#pack();
      }
      packed.push(this.#rows[this.#row++]!);
    }
    const examples = packed.flat();
    const [layout] = layOut(this.#examples, examples, { rows, seqLen: this.#seqLen });
    return { ...layout!.rows, examples };
  }

  get state(): PackingState {
    return { epoch: this.#epoch, row: this.#row, fingerprint: this.fingerprint };
  }

  /** Goes on where `state` was taken.
   *  @throws MassifError `sft.order` when it was taken over other examples: going on would repeat or skip some */
  restore({ epoch, row, fingerprint }: PackingState): void {
    if (fingerprint !== this.fingerprint)
      throw new MassifError("sft.order", {
        found: "the conversations are not those that the checkpoint was trained on",
        expected: "the same rows, tokenizer, template, split, row length and seed",
        fix: "restore them, or begin a new run from the checkpoint's weights (--model)",
      });
    this.#epoch = epoch;
    this.#row = row;
    this.#pack();
  }
}
