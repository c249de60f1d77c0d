/** Columns of numbers that grow, and what of them fits on so many pixels. */

/** One metric, a value a row; NaN where a row lacks it. */
export class Column {
  #values = new Float64Array(256);
  /** Sums and counts of the values before an index: a mean over any stretch costs two look-ups. */
  #sums = new Float64Array(257);
  #counts = new Uint32Array(257);
  length = 0;

  get values(): Float64Array {
    return this.#values;
  }

  /** Rows that lacked it until now are NaN. */
  set(row: number, value: number): void {
    while (this.length < row) this.#push(Number.NaN);
    this.#push(value);
  }

  #push(value: number): void {
    const n = this.length++;
    if (n === this.#values.length) {
      this.#values = grown(this.#values, 2 * n);
      this.#sums = grown(this.#sums, 2 * n + 1);
      const counts = new Uint32Array(2 * n + 1);
      counts.set(this.#counts);
      this.#counts = counts;
    }
    this.#values[n] = value;
    const is = Number.isFinite(value);
    this.#sums[n + 1] = this.#sums[n]! + (is ? value : 0);
    this.#counts[n + 1] = this.#counts[n]! + (is ? 1 : 0);
  }

  cut(rows: number): void {
    this.length = Math.min(this.length, rows);
  }

  get count(): number {
    return this.#counts[this.length]!;
  }

  /** Of the values from `from` up to `to`; NaN where there is none. */
  mean(from: number, to: number): number {
    const [a, b] = [Math.max(0, from), Math.min(this.length, to)];
    return b > a ? (this.#sums[b]! - this.#sums[a]!) / (this.#counts[b]! - this.#counts[a]!) : Number.NaN;
  }

  /** Index of the last value at or before a row; −1 where there is none. */
  lastAt(row: number): number {
    for (let i = Math.min(row, this.length - 1); i >= 0; i--) if (!Number.isNaN(this.#values[i]!)) return i;
    return -1;
  }
}

function grown(old: Float64Array, length: number): Float64Array<ArrayBuffer> {
  const more = new Float64Array(length);
  more.set(old);
  return more;
}

/** First index with `x[i] ≥ value`; x ascends. */
export function lowerBound(x: Float64Array, length: number, value: number): number {
  let [low, high] = [0, length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What a line is on pixels: of each column of pixels that has values the first, least, greatest and last. A drawing of
 *  these covers the same pixels as one of all points. */
export interface Pixels {
  /** Four numbers a column, and its x in `at`. */
  at: number[];
  parts: number[];
  min: number;
  max: number;
  /** Points that it stands for. */
  points: number;
}

export interface Window {
  /** Values of x at the left and right edge. */
  from: number;
  to: number;
  /** Pixels between them. */
  width: number;
}

export function decimate(x: Float64Array, y: Column, { from, to, width }: Window): Pixels {
  const out: Pixels = { at: [], parts: [], min: Infinity, max: -Infinity, points: 0 };
  const scale = width / (to - from || 1);
  const values = y.values;
  // One point beyond each edge, so that lines run out of the picture instead of ending in it.
  const begin = Math.max(0, lowerBound(x, y.length, from) - 1);
  const end = Math.min(y.length, lowerBound(x, y.length, to) + 1);
  let [column, first, low, high, last] = [-Infinity, 0, 0, 0, 0];
  const flush = () => {
    out.at.push(column);
    out.parts.push(first, low, high, last);
  };
  for (let i = begin; i < end; i++) {
    const value = values[i]!;
    if (!Number.isFinite(value)) continue;
    const at = Math.round((x[i]! - from) * scale);
    if (at !== column) {
      if (column > -Infinity) flush();
      column = at;
      first = low = high = value;
    } else if (value < low) low = value;
    else if (value > high) high = value;
    last = value;
    out.points++;
    if (value < out.min) out.min = value;
    if (value > out.max) out.max = value;
  }
  if (column > -Infinity) flush();
  return out;
}

/** A centred running mean over a share of the window: at each column of pixels, or at each point where there are fewer. */
export function smooth(x: Float64Array, y: Column, { from, to, width }: Window, share: number): Pixels {
  const out: Pixels = { at: [], parts: [], min: Infinity, max: -Infinity, points: 0 };
  const half = ((to - from) * share) / 2;
  const [least, most] = [x[0] ?? 0, x[y.length - 1] ?? 0];
  const scale = width / (to - from || 1);
  const put = (centre: number) => {
    // Near an end both sides shrink alike: the mean stays in the middle of what it is the mean of.
    const reach = Math.min(half, centre - least, most - centre);
    const a = lowerBound(x, y.length, centre - reach);
    const b = lowerBound(x, y.length, centre + reach);
    const value = y.mean(a, Math.max(b + 1, a + 1));
    if (Number.isNaN(value)) return;
    out.at.push((centre - from) * scale);
    out.parts.push(value, value, value, value);
    out.points++;
    if (value < out.min) out.min = value;
    if (value > out.max) out.max = value;
  };
  const begin = lowerBound(x, y.length, from);
  const end = lowerBound(x, y.length, to);
  if (end - begin < width) {
    const values = y.values;
    for (let i = begin; i <= Math.min(end, y.length - 1); i++) if (!Number.isNaN(values[i]!)) put(x[i]!);
  } else
    for (let at = 0; at <= width; at++) {
      const centre = from + at / scale;
      if (centre >= least && centre <= most) put(centre);
    }
  return out;
}

/** Round numbers in [low, high], about `many` of them. */
export function ticks(low: number, high: number, many: number): number[] {
  const rough = (high - low) / Math.max(1, many);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * ten).find((s) => s >= rough * 0.7)!;
  const out: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step + 0); // no −0
  return out;
}

/** Powers of ten in [low, high]; between few of them also 2 and 5. */
export function logTicks(low: number, high: number): number[] {
  const [a, b] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const within = (value: number) => value >= low * 0.999 && value <= high * 1.001;
  const every = Math.max(1, Math.ceil((b - a) / 6));
  const tens = Array.from({ length: b - a + 1 }, (_, i) => a + i).filter((e) => e % every === 0);
  const out = tens.map((e) => 10 ** e).filter(within);
  return out.length > 2 ? out : tens.flatMap((e) => [1, 2, 5].map((m) => m * 10 ** e)).filter(within);
}
