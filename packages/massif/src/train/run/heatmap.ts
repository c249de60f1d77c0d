/** A heat map over time around an even share: rows are experts, 1 is the mean; blue is idle, orange is overloaded. */
import { BOX, label, round, svg, ticks } from "./chart.ts";
import { figure } from "./format.ts";

export interface Heatmap {
  title: string;
  x: string;
  row: string;
  /** The steps of the columns, ascending. */
  steps: number[];
  /** columns × rows: load over the mean load, so that 1 is even. */
  values: number[][];
}

/** Colours from a quarter of the mean (0) over the mean (5) to four times it (10). */
const LEVELS = 11;
export const levelOf = (value: number): number =>
  Math.max(0, Math.min(LEVELS - 1, Math.round(5 + 2.5 * Math.log2(Math.max(value, 1e-9)))));

/** Columns averaged in equal runs, once there are more than `most`. */
export function thinColumns(steps: number[], values: number[][], most = 60): Pick<Heatmap, "steps" | "values"> {
  if (steps.length <= most) return { steps, values };
  const cut = (i: number) => Math.floor((i * steps.length) / most);
  const runs = Array.from({ length: most }, (_, i) => values.slice(cut(i), cut(i + 1)));
  return {
    steps: runs.map((_, i) => steps[cut(i + 1) - 1]!),
    values: runs.map((run) => run[0]!.map((_, row) => run.reduce((sum, column) => sum + column[row]!, 0) / run.length)),
  };
}

export function heatmapSvg({ title, x, row, steps, values }: Heatmap): string {
  const rows = values[0]?.length ?? 0;
  if (!rows) return "";
  const width = (BOX.right - BOX.left) / steps.length;
  const height = (BOX.bottom - BOX.top) / rows;
  // One path a colour, equal neighbours in one rectangle: 10⁴ cells stay some kilobytes.
  const paths = Array.from({ length: LEVELS }, () => "");
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < steps.length; ) {
      const level = levelOf(values[c]![r]!);
      let end = c + 1;
      while (end < steps.length && levelOf(values[end]![r]!) === level) end++;
      const [left, top] = [round(BOX.left + c * width), round(BOX.top + r * height)];
      paths[level] += `M${left} ${top}H${round(BOX.left + end * width)}V${round(BOX.top + (r + 1) * height)}H${left}z`;
      c = end;
    }
  }
  const [first, last] = [steps[0]!, steps.at(-1)!];
  const at = (step: number) => BOX.left + (nearest(steps, step) + 0.5) * width;
  const marks = ticks(0, rows - 1, Math.min(4, rows - 1)).filter(Number.isInteger);
  const parts = [
    ...paths.map((path, level) => (path ? `<path class="h${level}" d="${path}"/>` : "")),
    ...marks.map((r) => label(BOX.left - 6, BOX.top + (r + 0.5) * height + 4, "end", String(r))),
    ...ticks(first, last, 5).map((t) => label(at(t), BOX.bottom + 17, "middle", figure(t))),
  ];
  const end = values.at(-1)!;
  const words = `${title}. At the end between ${figure(Math.min(...end))} and ${figure(Math.max(...end))} times the mean`;
  const data = { x, row, box: BOX, steps, map: values.map((column) => column.map((v) => Math.round(v * 100) / 100)) };
  return svg(words, data, parts);
}

const nearest = (steps: number[], step: number) =>
  steps.reduce((best, s, i) => (Math.abs(s - step) < Math.abs(steps[best]! - step) ? i : best), 0);
