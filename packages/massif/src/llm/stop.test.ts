import fc from "fast-check";
import { expect, test } from "vitest";
import { StopScanner } from "./stop.ts";

function scan(pieces: readonly string[], stops: readonly string[]): [text: string, stop: string | undefined] {
  const scanner = new StopScanner(stops);
  const text = pieces.map((piece) => scanner.push(piece)).join("");
  return [text + (scanner.stop === undefined ? scanner.end() : ""), scanner.stop];
}

test("a stop is found across pieces and is no part of the text; what only begins like one is", () => {
  expect(scan(["Hello E", "N", "D of it"], ["END"])).toEqual(["Hello ", "END"]);
  expect(scan(["Hello E", "N", "E of it"], ["END"])).toEqual(["Hello ENE of it", undefined]);
  expect(scan(["Hello EN"], ["END"])).toEqual(["Hello EN", undefined]);
  expect(scan(["abc"], ["abc", "b"])).toEqual(["a", "b"]);
  expect(scan(["abc"], ["bc", "abc"])).toEqual(["", "abc"]);
  const scanner = new StopScanner(["aab"]);
  expect([scanner.push("xaa"), scanner.push("a"), scanner.push("c")]).toEqual(["x", "a", "aac"]);
});

test("the same for every way of cutting the text", () => {
  const word = (most: number) => fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: most });
  fc.assert(
    fc.property(fc.array(word(4), { maxLength: 8 }), fc.array(word(3), { maxLength: 3 }), (pieces, stops) => {
      const text = pieces.join("");
      const found = scan(pieces, stops);
      expect(found).toEqual(scan([text], stops));
      expect(stops.some((stop) => found[0].includes(stop))).toBe(false);
      if (found[1] !== undefined) expect(text.startsWith(found[0] + found[1])).toBe(true);
      else expect(found[0]).toBe(text);
    }),
    { numRuns: 2000 },
  );
});
