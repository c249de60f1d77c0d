import { expect, test } from "vitest";
import { wilson } from "./wilson.ts";

test("Wilson's interval: values of the literature, bounds at the ends", () => {
  // Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29 (method 3).
  const rounded = (wins: number, n: number) =>
    [wilson(wins, n).low, wilson(wins, n).high].map((x) => Number(x.toFixed(4)));
  expect(rounded(81, 263)).toEqual([0.2553, 0.3662]);
  expect(rounded(15, 148)).toEqual([0.0624, 0.1605]);
  expect(rounded(0, 20)).toEqual([0, 0.1611]);
  expect(rounded(1, 29)).toEqual([0.0061, 0.1718]);
  expect(wilson(7, 7)).toMatchObject({ value: 1, high: 1 });
  expect(wilson(0, 0)).toEqual({ value: 0, low: 0, high: 1 });
});
