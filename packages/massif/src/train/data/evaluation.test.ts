import fc from "fast-check";
import { expect, test } from "vitest";
import { bitsPerByte, evaluationBatches } from "./evaluation.ts";
import { countingFile } from "./fixture.ts";

const all = (n: number) => Uint32Array.from({ length: n }, (_, i) => i);

test("the last row is padded with −100, and documents come in the order of their keys", () => {
  const file = countingFile([3, 2]);
  const [first, ...rest] = evaluationBatches(file, all(2), { batch: 8, seqLen: 4 });
  expect(rest).toEqual([]);
  expect(file.keys[0]! < file.keys[1]!).toBe(true);
  expect([...first!.ids]).toEqual([0, 1, 2, 5, 3, 4, 5, 5]);
  expect([...first!.targets]).toEqual([1, 2, 5, -100, 4, 5, -100, -100]);
  expect([...first!.docStart]).toEqual([0, 0, 0, 0, 0, 0, 0, 3]);
  // Tokens 1, 2 and 4 stand for 2, 3 and 5 bytes, the ends for none.
  expect([first!.batch, first!.targetCount, first!.bytes]).toEqual([2, 5, 10]);
});

test("every token of every held-out document is a target once, and the bytes are those of the text", () => {
  const lengths = fc.array(fc.nat(12), { minLength: 1, maxLength: 8 });
  const size = fc.integer({ min: 1, max: 9 });
  fc.assert(
    fc.property(lengths, size, size, fc.infiniteStream(fc.boolean()), (sizes, batch, seqLen, choose) => {
      const file = countingFile(sizes);
      const end = file.info.endId;
      const held = all(sizes.length).filter((d) => d === 0 || choose.next().value);
      for (const firstToken of ["masked", "predicted"] as const) {
        const want: number[] = [];
        for (const d of held) {
          const tokens = [...file.tokens(file.start(d), file.ends[d]!)];
          want.push(...(firstToken === "masked" ? tokens.slice(1) : tokens));
        }
        const batches = [...evaluationBatches(file, held, { batch, seqLen, firstToken })];
        const targets = batches.flatMap((rows) => [...rows.targets].filter((target) => target !== -100));
        expect(targets.sort((a, b) => a - b)).toEqual(want.sort((a, b) => a - b));
        const bytes = batches.reduce((sum, rows) => sum + rows.bytes, 0);
        expect(bytes).toBe(want.reduce((sum, token) => sum + (token === end ? 0 : (token % 5) + 1), 0));
        if (firstToken === "predicted") expect(bytes).toBe(held.reduce((sum, d) => sum + file.bytes[d]!, 0));
        expect(batches.reduce((sum, rows) => sum + rows.targetCount, 0)).toBe(want.length);
      }
      file.close();
    }),
  );
});

test("maxRows takes the first rows, whatever the batch", () => {
  const file = countingFile(Array.from({ length: 12 }, (_, i) => 5 + i));
  const ids = (batch: number, maxRows?: number) =>
    [...evaluationBatches(file, all(12), { batch, seqLen: 8, maxRows })].flatMap((rows) => [...rows.ids]);
  expect(ids(4)).toEqual(ids(3));
  expect(ids(4, 5)).toEqual(ids(1).slice(0, 40));
});

test("bits per byte", () => {
  // 80 bytes at two bits each.
  expect(bitsPerByte(80 * 2 * Math.log(2), 80)).toBeCloseTo(2, 12);
});
