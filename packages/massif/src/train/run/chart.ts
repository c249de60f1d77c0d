/** A line chart as data and as SVG: pure, without a DOM; colours come from the page's style by class (`c0` … `c5`). */
import { escapeHtml, figure } from "./format.ts";

export type Point = [x: number, y: number];

export interface Line {
  name: string;
  points: Point[];
  /** Low and high around the line at each of its points. */
  band?: [low: number, high: number][];
  /** Which colour; by default the place in the list. */
  colour?: number;
  dashed?: boolean;
}

export interface Chart {
  title: string;
  /** What x counts. */
  x: string;
  lines: Line[];
  /** A level to compare with, left out where it lies so far off that it would flatten the lines. */
  threshold?: { y: number; name: string };
  /** Whether the scale begins at zero. */
  zero?: boolean;
}

const WIDTH = 460;
const HEIGHT = 220;
export const BOX = { left: 46, top: 12, right: WIDTH - 12, bottom: HEIGHT - 28 };

/** The mean of equal runs of points, with their least and greatest as a band, once there are more than `most`. */
export function thin(points: Point[], most = 240): Pick<Line, "points" | "band"> {
  const finite = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  if (finite.length <= most) return { points: finite };
  const means: Point[] = [];
  const band: [number, number][] = [];
  for (let i = 0; i < most; i++) {
    const part = finite.slice(Math.floor((i * finite.length) / most), Math.floor(((i + 1) * finite.length) / most));
    const ys = part.map(([, y]) => y);
    // A part stands where it ends, so that the last point is the last step.
    means.push([part.at(-1)![0], ys.reduce((a, b) => a + b, 0) / ys.length]);
    band.push([Math.min(...ys), Math.max(...ys)]);
  }
  return { points: means, band };
}

/** Round numbers from `low` to `high`, about `n` of them: steps of 1, 2 or 5 times a power of ten. */
export function ticks(low: number, high: number, n = 4): number[] {
  if (!(high > low)) return [low];
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((m) => m * power >= rough * 0.8) ?? 10);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toFixed(Math.min(20, digits))));
}

/** Whether the threshold lies near enough to the lines to be drawn with them. */
export function thresholdInView({ lines, threshold }: Chart): boolean {
  const high = Math.max(...lines.flatMap((line) => line.points.map(([, y]) => y)));
  return threshold !== undefined && threshold.y <= 4 * high;
}

export function chartSvg(chart: Chart): string {
  const xs = chart.lines.flatMap((line) => line.points.map(([x]) => x));
  const ys = chart.lines.flatMap((line) => [...line.points.map(([, y]) => y), ...(line.band ?? []).flat()]);
  if (!xs.length) return "";
  const level = thresholdInView(chart) ? chart.threshold : undefined;
  if (level) ys.push(level.y * 1.06);
  if (chart.zero) ys.push(0);
  const [x0, x1] = spread(least(xs), greatest(xs), 0);
  const [y0, y1] = spread(least(ys), greatest(ys), chart.zero ? 0 : 0.04);
  const x = (value: number) => round(BOX.left + ((value - x0) / (x1 - x0)) * (BOX.right - BOX.left));
  const y = (value: number) => round(BOX.bottom - ((value - y0) / (y1 - y0)) * (BOX.bottom - BOX.top));

  const parts = [
    ...ticks(y0, y1).map((t) => `${gridLine(y(t))}${label(BOX.left - 6, y(t) + 4, "end", figure(t))}`),
    ...ticks(x0, x1, 5).map((t) => label(x(t), BOX.bottom + 17, t === x1 ? "end" : "middle", figure(t))),
  ];
  for (const [i, { points, band, colour = i, dashed }] of chart.lines.entries()) {
    if (band) {
      const above = points.map(([px], j) => `${x(px)},${y(band[j]![1])}`);
      const below = points.map(([px], j) => `${x(px)},${y(band[j]![0])}`).reverse();
      parts.push(`<polygon class="band c${colour % 6}" points="${[...above, ...below].join(" ")}"/>`);
    }
    const [only] = points;
    if (points.length === 1)
      parts.push(`<circle class="dot c${colour % 6}" cx="${x(only![0])}" cy="${y(only![1])}" r="3"/>`);
    const way = points.map(([px, py]) => `${x(px)},${y(py)}`).join(" ");
    parts.push(`<polyline class="line c${colour % 6}${dashed ? " dashed" : ""}" points="${way}"/>`);
  }
  if (level) {
    const at = y(level.y);
    parts.push(`<line class="threshold" x1="${BOX.left}" x2="${BOX.right}" y1="${at}" y2="${at}"/>`);
    parts.push(label(BOX.left + 4, at - 4, "start", `${level.name} ${figure(level.y)}`));
  }
  const data = {
    x: chart.x,
    box: BOX,
    x0,
    x1,
    lines: chart.lines.map(({ name, points }) => ({
      name,
      points: points.map(([a, b]) => [round(a), Number(b.toPrecision(5))]),
    })),
  };
  return svg(`${chart.title}. ${chart.lines.map(inWords).join("; ")}`, data, parts);
}

/** An SVG that a screen reader can name and the page's script can ask for values (`data-plot`). */
export function svg(name: string, data: object, parts: string[]): string {
  const plot = escapeHtml(JSON.stringify(data));
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" tabindex="0" aria-label="${escapeHtml(name)}" data-plot="${plot}">${parts.join("")}<line class="cursor" y1="${BOX.top}" y2="${BOX.bottom}"/></svg>`;
}

export function label(x: number, y: number, anchor: "start" | "middle" | "end", text: string): string {
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${escapeHtml(text)}</text>`;
}

function inWords({ name, points }: Line): string {
  if (!points.length) return `${name}: none`;
  return `${name}: from ${figure(points[0]![1])} to ${figure(points.at(-1)![1])}`;
}

const gridLine = (y: number) => `<line class="grid" x1="${BOX.left}" x2="${BOX.right}" y1="${y}" y2="${y}"/>`;
export const round = (n: number): number => Math.round(n * 10) / 10;
// Not Math.min(...list): a spread of 10⁵ values overflows the stack.
const least = (ns: number[]) => ns.reduce((a, b) => Math.min(a, b), Infinity);
const greatest = (ns: number[]) => ns.reduce((a, b) => Math.max(a, b), -Infinity);

function spread(low: number, high: number, margin: number): [number, number] {
  if (low === high) return [low - (Math.abs(low) || 1) * 0.5, high + (Math.abs(high) || 1) * 0.5];
  return [low - (high - low) * margin, high + (high - low) * margin];
}
