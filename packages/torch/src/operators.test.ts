import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type DType, type NestedNumbers, Tensor, torch } from "./index.ts";
import type { Operator } from "./overloads.ts";

/** A tensor as fixtures/operators.py writes it. */
interface Encoded {
  dtype: DType;
  shape: number[];
  values: NestedNumbers;
}
interface Row {
  name: string;
  args: unknown[];
  kw: Record<string, unknown>;
  result: unknown;
}
const rows: Row[] = JSON.parse(readFileSync(`${import.meta.dirname}/fixtures/operators.json`, "utf8"));

const isEncoded = (x: unknown): x is Encoded => typeof x === "object" && x !== null && "dtype" in x;

const decode = (value: unknown): unknown =>
  isEncoded(value)
    ? torch.tensor(value.values, { dtype: value.dtype })
    : Array.isArray(value)
      ? value.map(decode)
      : value;

/** Dtype and shape exactly, numbers to float32's rounding (both sides run the same kernels; threads may differ). */
function expectEqual(found: unknown, expected: unknown): void {
  if (Array.isArray(expected)) {
    expect(found).toHaveLength(expected.length);
    for (const [i, one] of expected.entries()) expectEqual((found as unknown[])[i], one);
  } else if (isEncoded(expected)) {
    const { dtype, shape } = found as Tensor;
    expect({ dtype, shape }).toEqual({ dtype: expected.dtype, shape: expected.shape });
    const numbers = [expected.values].flat(9).map(Number);
    for (const [i, x] of (found as Tensor).toArray().entries())
      expect(Math.abs(x - numbers[i]!)).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(numbers[i]!)));
  } else {
    expect(found).toEqual(expected);
  }
}

test.each(rows.map((row, i) => [i, row.name, row] as const))("%i %s gives what Python gives", (_, name, row) => {
  using _scope = torch.scope();
  const args = row.args.map(decode);
  if (Object.keys(row.kw).length) args.push(row.kw);
  expectEqual((torch as unknown as Record<string, Operator>)[name]!(...args), row.result);
  const [self, ...rest] = args;
  const method = self instanceof Tensor && (self as unknown as Record<string, Operator | undefined>)[name];
  if (method) expectEqual(method.call(self, ...rest), row.result);
});

test("the fixture is wide", () => {
  expect(new Set(rows.map((row) => row.name)).size).toBeGreaterThan(100);
});
