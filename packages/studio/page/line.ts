/** One line of a chart: a metric of a run. */
import type { ChartSpec } from "./curated.ts";
import type { RunData, XAxis } from "./run-data.ts";
import { type Column, decimate, lowerBound, type Window } from "./series.ts";

/** A run among those on a chart. */
export interface Shown {
  run: RunData;
  /** Its name beside others. */
  name: string;
  /** Of the eight. */
  colour: number;
}

export interface Line {
  id: string;
  label: string;
  run: RunData;
  x: Column;
  y: Column;
  colour: number;
  dash: readonly number[];
}

const dashes: readonly (readonly number[])[] = [[], [7, 3], [2, 3], [9, 3, 2, 3]];

/** Every line of every run that has it: several runs differ in colour, and the lines of each in their dashes. */
export function linesOf(spec: ChartSpec, runs: readonly Shown[], axis: XAxis): Line[] {
  const [alone, single] = [runs.length === 1, spec.lines.length === 1];
  return runs.flatMap(({ run, name, colour }) =>
    spec.lines.flatMap(({ key, label }, i) => {
      const y = run.columns.get(key);
      if (!y?.count) return [];
      return {
        id: `${run.id} ${key}`,
        label: [!alone && name, !single && label].filter(Boolean).join(" · "),
        ...{ run, x: run.x[axis], y },
        colour: alone ? (colour + i) % 8 : colour,
        dash: alone ? dashes[Math.floor(i / 8) % 4]! : dashes[i % 4]!,
      };
    }),
  );
}

/** At a place on the axis; without one the last. NaN where there is none. */
export function valueAt({ x, y }: Line, at: number | undefined): number {
  if (at === undefined) return y.values[y.lastAt(y.length)] ?? Number.NaN;
  // Another run may go on where this one has ended.
  if (at > x.values[x.length - 1]!) return Number.NaN;
  const next = lowerBound(x.values, x.length, at);
  // The row that is nearer.
  const row = next > 0 && (next === x.length || at - x.values[next - 1]! < x.values[next]! - at) ? next - 1 : next;
  return y.values[y.lastAt(row)] ?? Number.NaN;
}

/** From the first to the last row of all runs. */
export function extent(of: readonly { run: RunData }[], axis: XAxis): { from: number; to: number } {
  let [from, to] = [Infinity, -Infinity];
  for (const { run } of of) {
    if (!run.rows) continue;
    from = Math.min(from, run.x[axis].values[0]!);
    to = Math.max(to, run.x[axis].values[run.rows - 1]!);
  }
  return from > to ? { from: 0, to: 1 } : { from, to: to > from ? to : from + 1 };
}

/** Where a column is above 0, one mark a pixel. */
export function marksOf(run: RunData, key: string, axis: XAxis, window: Window): number[] {
  const column = run.columns.get(key);
  if (!column) return [];
  const { at, parts } = decimate(run.x[axis].values, column, window);
  const unit = (window.to - window.from) / window.width;
  return at.flatMap((pixel, i) => (parts[4 * i + 2]! > 0 ? window.from + pixel * unit : []));
}

/** Events after which a curve is not what it was. */
const troubles = new Set(["skip", "rollback", "lock-in"]);

export function troublesOf(run: RunData, axis: XAxis): number[] {
  const steps = new Set(run.events.filter(({ event }) => troubles.has(event)).map(({ step }) => step));
  return [...steps].map((step) => run.xOf(axis, step));
}
