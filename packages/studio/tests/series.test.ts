import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { duration, figure } from "../page/figures.ts";
import { RunData } from "../page/run-data.ts";
import { Column, decimate, logTicks, lowerBound, smooth, ticks } from "../page/series.ts";

const column = (values: readonly number[]): Column => {
  const all = new Column();
  for (const [row, value] of values.entries()) all.set(row, value);
  return all;
};

test("of every column of pixels the first, least, greatest and last value are kept, and nothing else", () => {
  const value = fc.oneof(fc.double({ min: -1e3, max: 1e3, noNaN: true }), fc.constant(Number.NaN));
  fc.assert(
    fc.property(fc.array(value, { maxLength: 400 }), fc.integer({ min: 1, max: 60 }), (values, width) => {
      const x = Float64Array.from(values, (_, i) => i);
      const { at, parts, points } = decimate(x, column(values), { from: 0, to: Math.max(1, values.length - 1), width });
      const bins = new Map<number, number[]>();
      for (const [i, v] of values.entries()) {
        if (Number.isNaN(v)) continue;
        const pixel = Math.round((i * width) / Math.max(1, values.length - 1));
        bins.set(pixel, [...(bins.get(pixel) ?? []), v]);
      }
      const wanted = [...bins].map(([, b]) => [b[0], Math.min(...b), Math.max(...b), b.at(-1)]);
      expect(at).toEqual([...bins.keys()]);
      expect(parts).toEqual(wanted.flat());
      expect(points).toBe(values.filter((v) => !Number.isNaN(v)).length);
    }),
  );
});

test("a window takes one point beyond each edge, so that lines run out of it", () => {
  const x = Float64Array.of(0, 10, 20, 30, 40);
  expect(decimate(x, column([1, 2, 3, 4, 5]), { from: 15, to: 25, width: 10 }).at).toEqual([-5, 5, 15]);
});

test("smoothing is a centred mean: straight lines stay straight, to their ends", () => {
  const x = Float64Array.from({ length: 101 }, (_, i) => i);
  const { at, parts } = smooth(x, column(Array.from(x, (v) => 2 * v)), { from: 0, to: 100, width: 100 }, 0.2);
  expect(at.length).toBe(101);
  for (const [i, pixel] of at.entries()) expect(parts[4 * i]).toBeCloseTo(2 * pixel, 9);
  // Fewer points than pixels: a value at each point, none between.
  const few = smooth(x, column(Array.from(x, (v) => v % 2)), { from: 0, to: 100, width: 1000 }, 0.1);
  expect(few.at).toEqual(Array.from(x, (v) => 10 * v));
  expect(few.parts[4 * 50]).toBeCloseTo(6 / 11, 9);
});

test("a column knows which rows lack it, and forgets what is cut", () => {
  const one = new Column();
  one.set(3, 5);
  one.set(1000, 7);
  expect([one.length, one.count, one.lastAt(2), one.lastAt(999), one.mean(0, 1001)]).toEqual([1001, 2, -1, 3, 6]);
  one.cut(10);
  one.set(12, 1);
  expect([one.length, one.count, one.mean(0, 13), one.lastAt(12)]).toEqual([13, 2, 3, 12]);
});

test("round numbers", () => {
  expect(ticks(0, 100, 5)).toEqual([0, 20, 40, 60, 80, 100]);
  expect(logTicks(0.5, 2000)).toEqual([1, 10, 100, 1000]);
  expect(logTicks(1, 12)).toEqual([1, 2, 5, 10]);
  expect([0, 1.2561, 12300, 3_400_000, 0.00002, 1e-5, -0.25, Number.NaN, 999.7].map(figure)).toEqual([
    "0",
    "1.256",
    "12,300",
    "3.4M",
    "2e-5",
    "1e-5",
    "-0.25",
    "–",
    "1,000",
  ]);
  expect([5, 600, 7200].map(duration)).toEqual(["5 s", "10 min", "2 h"]);
  expect(lowerBound(Float64Array.of(1, 3, 5), 3, 3)).toBe(1);
});

describe("rows of a run", () => {
  const rowsTo = (run: RunData, to: number, from = 1) => {
    for (let step = from; step <= to; step++)
      run.take({ step, tokens: step * 10, seconds: 0.5, loss: 9 - step, expertLoad: [[step, 1]] });
  };

  test("become columns; a step without tokens has those of the step before; scores become shares", () => {
    const run = new RunData("r");
    run.take({ step: 0, evalLoss: 8, worlds: [{ world: "w", n: 4, wins: 1, kinds: { act: { n: 2, wins: 1 } } }] });
    rowsTo(run, 3);
    expect([...run.x.tokens.values.slice(0, run.rows)]).toEqual([0, 10, 20, 30]);
    expect([...run.x.time.values.slice(0, run.rows)]).toEqual([0, 0.5, 1, 1.5]);
    expect(run.columns.get("held-out/w act")?.values[0]).toBe(0.5);
    expect([...run.columns.keys()].sort()).toEqual([
      "evalLoss",
      "held-out/w",
      "held-out/w act",
      "loss",
      "seconds",
      "tokens",
    ]);
    expect(run.xOf("tokens", 2)).toBe(20);
  });

  test("of an earlier step take the place of all from there on: the run went back", () => {
    const run = new RunData("r");
    rowsTo(run, 9);
    run.take({ step: 4, loss: -1, seconds: 0.5, tokens: 40 });
    expect(run.rows).toBe(4);
    expect([...run.columns.get("loss")!.values.slice(0, 4)]).toEqual([8, 7, 6, -1]);
    expect(run.x.time.values[3]).toBe(2);
    expect(run.details.map(({ step }) => step)).toEqual([1, 2, 3]);
  });

  test("matrices are thinned, evenly and from first to last", () => {
    const run = new RunData("r");
    rowsTo(run, 10_000);
    expect(run.details.length).toBeGreaterThan(250);
    expect(run.details.length).toBeLessThanOrEqual(512);
    const gaps = new Set(run.details.slice(1).map(({ step }, i) => step - run.details[i]!.step));
    expect([...gaps]).toHaveLength(1);
    expect(run.details[0]!.step).toBe(1);
    expect(run.details.at(-1)!.step).toBeGreaterThan(9900);
  });
});
