/** A run as the page knows it: its rows as columns, its matrices thinned, its events, its files. */
import { Column, lowerBound } from "./series.ts";

export type XAxis = "step" | "tokens" | "time";

export interface RunEvent {
  event: string;
  step: number;
  time?: string;
  [key: string]: unknown;
}

/** Matrices of one step, [layer][head] and [layer][expert]. */
export interface Detail {
  step: number;
  maxLogits?: number[][];
  maxLogitsAfter?: number[][];
  expertLoad?: number[][];
}

export interface Files {
  episodes: string[];
  samples: string[];
}

/** Most matrices that are kept: more than a picture has columns. */
const DETAILS = 512;
const matrices = ["maxLogits", "maxLogitsAfter", "expertLoad"] as const;

interface Score {
  world?: string;
  n?: number;
  wins?: number;
  kinds?: Record<string, { n: number; wins: number }>;
}

export class RunData {
  readonly id: string;
  columns = new Map<string, Column>();
  x: Record<XAxis, Column> = { step: new Column(), tokens: new Column(), time: new Column() };
  events: RunEvent[] = [];
  details: Detail[] = [];
  /** Every so many matrices one is kept. */
  #stride = 1;
  #passed = 0;
  files: Files = { episodes: [], samples: [] };
  rows = 0;
  /** Counts up with every change. */
  version = 0;

  constructor(id: string) {
    this.id = id;
  }

  clear(): void {
    this.columns = new Map();
    this.x = { step: new Column(), tokens: new Column(), time: new Column() };
    this.details = [];
    [this.rows, this.#stride, this.#passed] = [0, 1, 0];
    this.version++;
  }

  /** Takes a row. One of an earlier step than the last takes the place of all from there on: the run went back. */
  take(row: Record<string, unknown>): void {
    const step = Number(row.step);
    if (!Number.isFinite(step)) return;
    const steps = this.x.step;
    if (this.rows && step <= steps.values[this.rows - 1]!) this.#cut(lowerBound(steps.values, this.rows, step));
    const at = this.rows++;
    steps.set(at, step);
    const before = (column: Column) => (at ? column.values[at - 1]! : 0);
    const { tokens, seconds } = row;
    this.x.tokens.set(at, Math.max(before(this.x.tokens), typeof tokens === "number" ? tokens : 0));
    this.x.time.set(at, before(this.x.time) + (typeof seconds === "number" ? seconds : 0));
    for (const key in row) {
      const value = row[key];
      if (typeof value === "number") {
        if (key !== "step") this.#set(key, at, value);
      } else if (key === "worlds" && Array.isArray(value)) this.#scores(at, value as Score[]);
      else if (typeof value === "object" && value !== null && !Array.isArray(value)) {
        for (const [name, inner] of Object.entries(value))
          if (typeof inner === "number") this.#set(`${key}/${name}`, at, inner);
      }
    }
    if (matrices.some((key) => Array.isArray(row[key]))) this.#detail(step, row);
    this.version++;
  }

  #set(key: string, at: number, value: number): void {
    let column = this.columns.get(key);
    if (!column) this.columns.set(key, (column = new Column()));
    column.set(at, value);
  }

  /** Held-out success, by world and by what its tasks want. */
  #scores(at: number, scores: readonly Score[]): void {
    for (const { world = "", n = 0, wins = 0, kinds = {} } of scores) {
      if (n) this.#set(`held-out/${world}`, at, wins / n);
      for (const [kind, count] of Object.entries(kinds))
        if (count.n) this.#set(`held-out/${world} ${kind}`, at, count.wins / count.n);
    }
  }

  #detail(step: number, row: Record<string, unknown>): void {
    if (this.#passed++ % this.#stride) return;
    const detail: Detail = { step };
    for (const key of matrices) if (Array.isArray(row[key])) detail[key] = row[key] as number[][];
    this.details.push(detail);
    if (this.details.length <= DETAILS) return;
    this.details = this.details.filter((_, i) => i % 2 === 0);
    this.#stride *= 2;
  }

  #cut(rows: number): void {
    const from = this.x.step.values[rows]!;
    for (const column of [...this.columns.values(), ...Object.values(this.x)]) column.cut(rows);
    this.details = this.details.filter(({ step }) => step < from);
    this.rows = rows;
  }

  /** Where a step lies on an axis. */
  xOf(axis: XAxis, step: number): number {
    if (axis === "step") return step;
    const row = Math.min(lowerBound(this.x.step.values, this.rows, step), this.rows - 1);
    return row < 0 ? 0 : this.x[axis].values[row]!;
  }
}
