import fc from "fast-check";
import { expect, test } from "vitest";
import { countingFile } from "./fixture.ts";
import { DataOrder, type DataSet, type OrderConfig } from "./order.ts";

const all = (n: number) => Uint32Array.from({ length: n }, (_, i) => i);

function dataSet(lengths: readonly number[], name = "text", weight = 1): DataSet {
  return { name, file: countingFile(lengths), documents: all(lengths.length), weight };
}

const lengths = fc.array(fc.nat(12), { minLength: 1, maxLength: 8 });
const config = fc.record({ seqLen: fc.integer({ min: 1, max: 9 }), seed: fc.nat(1000) });

test("a row: inputs, targets one ahead, and where attention may begin", () => {
  // Documents 0 1 2 · and 3 4 · (· is the end, 5): this seed lays them as 3 4 · 0 1 2 · and draws the first row first.
  const order = new DataOrder([dataSet([3, 2])], { seqLen: 5, seed: 6 });
  const { ids, targets, docStart, origins } = order.next(1);
  expect([...ids]).toEqual([3, 4, 5, 0, 1]);
  expect([...targets]).toEqual([4, 5, -100, 1, 2]);
  expect([...docStart]).toEqual([0, 0, 0, 3, 3]);
  expect(origins).toEqual([{ dataset: "text", epoch: 0, documents: [1, 0] }]);

  const predicted = new DataOrder([dataSet([3, 2])], { seqLen: 5, seed: 6, firstToken: "predicted" }).next(1);
  expect([...predicted.ids]).toEqual([3, 4, 5, 0, 1]);
  expect([...predicted.targets]).toEqual([4, 5, 0, 1, 2]);
  expect([...predicted.docStart]).toEqual([0, 0, 2, 2, 2]);
});

test("every epoch holds every token exactly once, and its remainder goes on into the next", () => {
  fc.assert(
    fc.property(lengths, config, (sizes, { seqLen, seed }) => {
      const set = dataSet(sizes);
      const order = new DataOrder([set], { seqLen, seed });
      const tokens = set.file.length;
      const counts = new Map<number, number>();
      const rows = Math.ceil((3 * tokens) / seqLen);
      for (const id of order.next(rows).ids) counts.set(id, (counts.get(id) ?? 0) + 1);
      const carried = rows * seqLen - 3 * tokens;
      const seen = [...counts].filter(([id]) => id !== set.file.info.endId).map(([, n]) => n);
      expect(Math.min(3, ...seen)).toBe(3);
      const extra = [...counts.values()].reduce((sum, n) => sum + n, 0) - 3 * tokens;
      expect(extra).toBe(carried);
      if (carried < tokens) expect(Math.max(3, ...seen)).toBeLessThanOrEqual(4);
      expect(counts.get(set.file.info.endId)).toBeGreaterThanOrEqual(3 * sizes.length);
      set.file.close();
    }),
  );
});

test("targets follow their inputs within a document, and attention never leaves it", () => {
  fc.assert(
    fc.property(lengths, config, fc.boolean(), (sizes, { seqLen, seed }, predicted) => {
      const set = dataSet(sizes);
      const end = set.file.info.endId;
      const documentOf = new Map<number, number>();
      for (let d = 0; d < sizes.length; d++) {
        for (const id of set.file.tokens(set.file.start(d), set.file.ends[d]! - 1)) documentOf.set(id, d);
      }
      const last = (id: number) => documentOf.get(id) !== documentOf.get(id + 1);
      const order = new DataOrder([set], { seqLen, seed, firstToken: predicted ? "predicted" : "masked" });
      const { ids, targets, docStart } = order.next(20);
      for (let at = 0; at < ids.length; at++) {
        const id = ids[at]!;
        const i = at % seqLen;
        if (id !== end) expect(targets[at]).toBe(last(id) ? end : id + 1);
        else if (!predicted) expect(targets[at]).toBe(-100);
        const before = i === 0 ? undefined : ids[at - 1]!;
        const goesOn = before !== undefined && (predicted ? id !== end : before !== end);
        expect(docStart[at]).toBe(goesOn ? docStart[at - 1] : i);
      }
      set.file.close();
    }),
  );
});

test("restored from its state (as JSON), at any point and with any later batch size, it gives the same batches", () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(lengths, lengths, config, sizes, sizes, (a, b, { seqLen, seed }, before, after) => {
      const sets = [dataSet(a, "text", 3), dataSet(b, "worlds", 1)];
      const whole = new DataOrder(sets, { seqLen, seed });
      for (const n of before) whole.next(n);
      const resumed = new DataOrder(sets, { seqLen, seed });
      resumed.restore(JSON.parse(JSON.stringify(whole.state)));
      for (const n of after) expect(resumed.next(n)).toEqual(whole.next(n));
      expect(resumed.state).toEqual(whole.state);
      for (const set of sets) set.file.close();
    }),
  );
});

test("ranks share out the rows of one process, and a state serves any number of them", () => {
  const sets = [dataSet([30, 20, 10], "text", 2), dataSet([15, 25], "worlds", 1)];
  const one = new DataOrder(sets, { seqLen: 4, seed: 3 });
  const ranks = [0, 1, 2].map((rank) => new DataOrder(sets, { seqLen: 4, seed: 3, rank, world: 3 }));
  for (let step = 0; step < 5; step++) {
    const all = one.next(6);
    const parts = ranks.map((order) => order.next(2));
    for (let row = 0; row < 6; row++) {
      const part = parts[row % 3]!;
      const at = Math.floor(row / 3) * 4;
      expect([...part.ids.subarray(at, at + 4)]).toEqual([...all.ids.subarray(row * 4, row * 4 + 4)]);
      expect(part.origins[Math.floor(row / 3)]).toEqual(all.origins[row]);
    }
  }
  for (const order of ranks) expect(order.state).toEqual(one.state);
});

test("a mixture keeps its weights: 3,000 of 4,000 rows ± 5 standard deviations (√750 = 27)", () => {
  const order = new DataOrder([dataSet([50], "text", 3), dataSet([50], "worlds", 1)], { seqLen: 4, seed: 0 });
  const { origins } = order.next(4000);
  const text = origins.filter((origin) => origin.dataset === "text").length;
  expect(Math.abs(text - 3000)).toBeLessThan(137);
  expect(order.epochs).toEqual({ text: (text * 4) / 51, worlds: ((4000 - text) * 4) / 51 });
});

test("epochs differ in order, and so do seeds; a batch mixes documents", () => {
  const set = dataSet(Array.from({ length: 20 }, () => 99));
  const draw = (extra: Partial<OrderConfig>) => new DataOrder([set], { seqLen: 10, seed: 1, ...extra }).next(400);
  const rows = draw({});
  expect([...rows.ids.subarray(0, 2000)]).not.toEqual([...rows.ids.subarray(2000)]);
  expect(rows.origins.map((origin) => origin.epoch)).toEqual([...Array(200).fill(0), ...Array(200).fill(1)]);
  expect(draw({ seed: 2 }).ids).not.toEqual(rows.ids);
  expect(new Set(rows.origins.slice(0, 16).flatMap((origin) => origin.documents)).size).toBeGreaterThan(8);
});

test("going on over other data is refused, and so are sets without documents or weight", () => {
  const text = dataSet([10, 20]);
  const state = new DataOrder([text], { seqLen: 4, seed: 0 }).state;
  const fewer = { ...text, documents: Uint32Array.of(1) };
  for (const [set, changed] of [
    [fewer, { seqLen: 4, seed: 0 }],
    [text, { seqLen: 8, seed: 0 }],
    [text, { seqLen: 4, seed: 1 }],
    [
      { ...text, name: "prose" },
      { seqLen: 4, seed: 0 },
    ],
  ] as const) {
    expect(() => new DataOrder([set], changed).restore(state)).toThrow(/not the one that the checkpoint/);
  }
  expect(() => new DataOrder([{ ...text, documents: all(0) }], { seqLen: 4, seed: 0 })).toThrow(/no documents/);
  expect(() => new DataOrder([{ ...text, weight: 0 }], { seqLen: 4, seed: 0 })).toThrow(/text 0/);
});
