import { expect, test } from "vitest";
import { type Chart, chartSvg, type Point, thin, thresholdInView, ticks } from "./chart.ts";
import { heatmapSvg, levelOf, thinColumns } from "./heatmap.ts";

test("ticks are round", () => {
  expect(ticks(0, 100)).toEqual([0, 20, 40, 60, 80, 100]);
  expect(ticks(0, 0.02)).toEqual([0, 0.005, 0.01, 0.015, 0.02]);
  expect(ticks(-1.2, 2.9)).toEqual([-1, 0, 1, 2]);
  expect(ticks(3, 3)).toEqual([3]);
  expect(ticks(1e6, 5e6)).toEqual([1e6, 2e6, 3e6, 4e6, 5e6]);
});

test("thin keeps few points as they are, and gives many a mean with its spread", () => {
  const few: Point[] = [
    [1, 4],
    [2, Number.NaN],
    [3, 6],
  ];
  expect(thin(few)).toEqual({
    points: [
      [1, 4],
      [3, 6],
    ],
  });
  const many: Point[] = [1, 3, 5, 7, 2, 2].map((y, i) => [i + 1, y]);
  expect(thin(many, 3)).toEqual({
    points: [
      [2, 2],
      [4, 6],
      [6, 2],
    ],
    band: [
      [1, 3],
      [5, 7],
      [2, 2],
    ],
  });
});

const chart: Chart = {
  title: "a < b",
  x: "step",
  zero: true,
  lines: [
    {
      name: "loss & more",
      points: [
        [0, 10],
        [100, 0],
      ],
    },
  ],
};

test("a chart maps its values onto the frame, and says in words what it shows", () => {
  const svg = chartSvg(chart);
  expect(svg).toContain('<polyline class="line c0" points="46,12 448,192"/>');
  expect(svg).toContain('aria-label="a &lt; b. loss &amp; more: from 10 to 0"');
  expect(svg).toContain('<text x="40" y="124" text-anchor="end">4</text>');
  expect(svg).not.toContain("NaN");
});

test("one point is a dot, a flat line stays in the middle, no point is no picture", () => {
  const one = chartSvg({ ...chart, zero: false, lines: [{ name: "x", points: [[5, 3]] }] });
  expect(one).toContain('<circle class="dot c0" cx="247" cy="102" r="3"/>');
  expect(chartSvg({ ...chart, lines: [{ name: "x", points: [] }] })).toBe("");
});

test("a threshold is drawn where it is near, and left out where it would flatten the lines", () => {
  const near = { ...chart, threshold: { y: 40, name: "clip" } };
  expect(thresholdInView(near)).toBe(true);
  expect(chartSvg(near)).toContain(">clip 40</text>");
  const far = { ...chart, threshold: { y: 41, name: "clip" } };
  expect(thresholdInView(far)).toBe(false);
  expect(chartSvg(far)).not.toContain("threshold");
});

test("a band goes there above and back below", () => {
  const band: [number, number][] = [
    [0, 10],
    [0, 5],
  ];
  expect(chartSvg({ ...chart, lines: [{ ...chart.lines[0]!, band }] })).toContain(
    'points="46,12 448,102 448,192 46,192"',
  );
});

test("levels of load run from a quarter of the mean to four times it", () => {
  expect([0, 0.25, 0.5, 1, 2, 4, 100].map(levelOf)).toEqual([0, 0, 3, 5, 8, 10, 10]);
});

test("a heat map joins equal neighbours, one path a colour", () => {
  const svg = heatmapSvg({
    title: "layer 0",
    x: "step",
    row: "expert",
    steps: [1, 2],
    values: [
      [1, 4],
      [1, 0.25],
    ],
  });
  expect(svg.match(/<path [^>]*>/g)).toEqual([
    '<path class="h0" d="M247 102H448V192H247z"/>',
    '<path class="h5" d="M46 12H448V102H46z"/>',
    '<path class="h10" d="M46 102H247V192H46z"/>',
  ]);
  expect(svg).toContain('aria-label="layer 0. At the end between 0.25 and 1 times the mean"');
});

test("many columns are averaged in equal runs", () => {
  expect(
    thinColumns(
      [1, 2, 3, 4],
      [
        [1, 0],
        [3, 0],
        [5, 2],
        [7, 4],
      ],
      2,
    ),
  ).toEqual({
    steps: [2, 4],
    values: [
      [2, 0],
      [6, 3],
    ],
  });
});
