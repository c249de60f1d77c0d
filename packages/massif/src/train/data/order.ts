import { createHash } from "node:crypto";
import { MassifError, Random } from "../../common/index.ts";
import { emptyRows, type FirstToken, type Rows, Sequence, writeRow } from "./rows.ts";
import type { TokenFile } from "./tokens.ts";

/** One part of a mixture. */
export interface DataSet {
  name: string;
  file: TokenFile;
  /** The documents to train on, e.g. `splitDocuments(file.keys, …).train`. */
  documents: Uint32Array;
  /** Share of the rows, relative to the other sets' weights. */
  weight: number;
}

export interface OrderConfig {
  /** T, tokens a row. */
  seqLen: number;
  seed: number;
  /** This process among the data-parallel ones: it takes every `world`-th row. */
  rank?: number;
  world?: number;
  firstToken?: FirstToken;
}

/** A batch and where it came from. */
export interface Batch extends Rows {
  origins: RowOrigin[];
}

export interface RowOrigin {
  dataset: string;
  /** Counted from 0; a row that crosses into the next epoch belongs to the one it begins in. */
  epoch: number;
  /** Documents of its inputs, by their number in the token file (`file.id` names them). */
  documents: number[];
}

/** All that a checkpoint needs to go on with exactly the next batch; JSON. The same for every rank and any `world`. */
export interface OrderState {
  version: 1;
  /** Rows drawn by all ranks together. */
  rows: number;
  /** Rows drawn from each set, and what the set was. */
  sets: Record<string, { rows: number; fingerprint: string }>;
}

/**
 * The seeded order in which a training run sees its data, for ever. Each epoch lays all documents end to end in a new
 * order and cuts them into rows; the last row of an epoch goes on into the next, so nothing is dropped. The rows of an
 * epoch are then drawn in a random order: consecutive rows of a long document would make a batch of one voice.
 *
 * Every row is a function of seed and number, so going on, skipping and sharing rows out among ranks only count.
 */
export class DataOrder {
  readonly #config: Required<OrderConfig>;
  readonly #sets: Packing[];
  readonly #weights: number[];
  #rows = 0;

  /** @throws MassifError `data.order.empty`, `data.order.weight` */
  constructor(sets: DataSet[], config: OrderConfig) {
    this.#config = { rank: 0, world: 1, firstToken: "masked", ...config };
    this.#sets = sets.map((set) => new Packing(set, this.#config));
    this.#weights = sets.map((set) => set.weight);
    if (!this.#weights.every((w) => w >= 0) || !this.#weights.some((w) => w > 0)) {
      throw new MassifError("data.order.weight", {
        found: `weights ${sets.map((set) => `${set.name} ${set.weight}`).join(", ") || "of no data set at all"}`,
        expected: "weights of at least 0, one of them above",
      });
    }
  }

  /** The next `batch` rows of this rank. A batch that is to be skipped is drawn and thrown away. */
  next(batch: number): Batch {
    const { rank, world, seqLen, firstToken } = this.#config;
    const rows = emptyRows(batch, seqLen);
    const origins: RowOrigin[] = [];
    for (let i = 0; i < batch * world; i++) {
      const set = this.#sets[this.#choose(this.#rows++)]!;
      const number = set.drawn++;
      if (i % world === rank) origins.push(set.write(rows, origins.length, number, firstToken));
    }
    return { ...rows, origins };
  }

  /** Passes over each set so far, e.g. `{ text: 1.25 }`. */
  get epochs(): Record<string, number> {
    return Object.fromEntries(this.#sets.map((s) => [s.set.name, (s.drawn * this.#config.seqLen) / s.tokens]));
  }

  get state(): OrderState {
    const sets = this.#sets.map((s) => [s.set.name, { rows: s.drawn, fingerprint: s.fingerprint }] as const);
    return { version: 1, rows: this.#rows, sets: Object.fromEntries(sets) };
  }

  /** Goes on where `state` was taken.
   *  @throws MassifError `data.order.state` when it was taken over other data: going on would repeat or skip text */
  restore(state: OrderState): void {
    for (const packing of this.#sets) {
      const { name } = packing.set;
      if (state.sets[name]?.fingerprint === packing.fingerprint) continue;
      throw new MassifError("data.order.state", {
        found: `the data set ${name} is not the one that the checkpoint was trained on`,
        expected: "the same documents, tokenizer, split, row length and seed",
        fix: "restore the old data and config, or begin a new run from the checkpoint's weights",
      });
    }
    for (const packing of this.#sets) packing.drawn = state.sets[packing.set.name]!.rows;
    this.#rows = state.rows;
  }

  #choose(row: number): number {
    if (this.#weights.length === 1) return 0;
    const total = this.#weights.reduce((sum, weight) => sum + weight, 0);
    let rest = Random.of(this.#config.seed, "mixture", row).float() * total;
    return this.#weights.findIndex((weight, i) => (rest -= weight) < 0 || i === this.#weights.length - 1);
  }
}

/** One data set as an endless list of rows: row k holds tokens [kT, kT + T] of all epochs laid end to end, and is drawn
 *  in the k-th place of a shuffle within its epoch. */
class Packing {
  readonly set: DataSet;
  /** Tokens an epoch. */
  readonly tokens: number;
  readonly fingerprint: string;
  drawn = 0;
  readonly #seed: number;
  readonly #seqLen: number;
  readonly #epochs = new Map<number, { sequence: Sequence; order: Uint32Array }>();

  constructor(set: DataSet, { seed, seqLen }: OrderConfig) {
    this.set = set;
    this.#seed = seed;
    this.#seqLen = seqLen;
    this.tokens = set.documents.reduce((sum, d) => sum + set.file.ends[d]! - set.file.start(d), 0);
    if (this.tokens === 0) {
      throw new MassifError("data.order.empty", { found: `the data set ${set.name} has no documents to train on` });
    }
    const { tokenizer, config } = set.file.info;
    this.fingerprint = createHash("sha256")
      .update(JSON.stringify([tokenizer, config, set.file.length, seed, seqLen]))
      .update(new Uint8Array(set.documents.buffer, set.documents.byteOffset, set.documents.byteLength))
      .digest("hex")
      .slice(0, 16);
  }

  write(rows: Rows, b: number, number: number, firstToken: FirstToken): RowOrigin {
    const T = this.#seqLen;
    const epoch = Math.floor((number * T) / this.tokens);
    const first = Math.ceil((epoch * this.tokens) / T);
    const row = first + this.#epoch(epoch).order[number - first]!;
    const documents = writeRow(rows, b, this.#pieces(row * T, row * T + T + 1), firstToken);
    return { dataset: this.set.name, epoch, documents };
  }

  *#pieces(from: number, to: number) {
    while (from < to) {
      const epoch = Math.floor(from / this.tokens);
      const base = epoch * this.tokens;
      const end = Math.min(to, base + this.tokens);
      yield* this.#epoch(epoch).sequence.pieces(from - base, end - base);
      from = end;
    }
  }

  #epoch(epoch: number) {
    let found = this.#epochs.get(epoch);
    if (!found) {
      const random = Random.of(this.#seed, "epoch", this.set.name, epoch);
      const rowsBefore = (e: number) => Math.ceil((e * this.tokens) / this.#seqLen);
      found = {
        sequence: new Sequence(this.set.file, random.shuffle(Uint32Array.from(this.set.documents))),
        order: random.shuffle(Uint32Array.from({ length: rowsBefore(epoch + 1) - rowsBefore(epoch) }, (_, i) => i)),
      };
      // The last row of an epoch reaches into the next, so two are at hand.
      for (const old of this.#epochs.keys()) if (old < epoch - 1) this.#epochs.delete(old);
      this.#epochs.set(epoch, found);
    }
    return found;
  }
}
