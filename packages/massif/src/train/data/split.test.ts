import fc from "fast-check";
import { expect, test } from "vitest";
import { documentKey, splitDocuments } from "./split.ts";

const keys = (ids: string[]) => BigUint64Array.from(ids, documentKey);
const ids = (n: number) => Array.from({ length: n }, (_, i) => `books/${i}`);

test("a document's side is fixed by its id and the seed", () => {
  expect(documentKey("books/0")).toBe(9267354595628806720n);
  expect([...splitDocuments(keys(ids(40)), { fraction: 0.1, seed: 0 }).heldOut]).toEqual([10, 19, 21, 34, 35]);
  expect([...splitDocuments(keys(ids(40)), { fraction: 0.1, seed: 1 }).heldOut]).toEqual([10, 23, 26, 31, 34]);
  expect([...splitDocuments(keys(ids(40)), { documents: 3, seed: 0 }).heldOut]).toEqual([19, 34, 35]);
});

test("adding documents moves none of the others", () => {
  const names = fc.uniqueArray(fc.string(), { minLength: 60, maxLength: 80 });
  fc.assert(
    fc.property(names, fc.uniqueArray(fc.string(), { maxLength: 40 }), fc.nat(), (old, added, seed) => {
      const config = { fraction: 0.5, seed };
      const before = splitDocuments(keys(old), config);
      const all = [...added.filter((id) => !old.includes(id)), ...old];
      const after = new Set([...splitDocuments(keys(all), config).heldOut].map((i) => all[i]));
      expect([...before.heldOut].every((i) => after.has(old[i]))).toBe(true);
      expect([...before.train].some((i) => after.has(old[i]))).toBe(false);
    }),
  );
});

test("the fraction is met: 1,000 ± 5 standard deviations (√900 = 30) of 10,000", () => {
  const { train, heldOut } = splitDocuments(keys(ids(10_000)), { fraction: 0.1, seed: 7 });
  expect(train.length + heldOut.length).toBe(10_000);
  expect(Math.abs(heldOut.length - 1000)).toBeLessThan(150);
});

test("an empty side is an error that says what to do", () => {
  expect(() => splitDocuments(keys(["a"]), { fraction: 0.5, seed: 0 })).toThrow(/documents: 1/);
  expect(() => splitDocuments(keys(["a", "b"]), { documents: 2, seed: 0 })).toThrow(/0 to train on and 2 to evaluate/);
});
