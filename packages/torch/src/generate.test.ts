import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { generate } from "./generate.ts";
import { torch } from "./index.ts";

test.runIf(torch.info().torch === "2.13.0")("the committed types are those of torch 2.13.0 and of native/ops", () => {
  // No toBe: a difference of a megabyte is nothing to read.
  for (const [name, text] of Object.entries(generate()))
    expect(
      readFileSync(`${import.meta.dirname}/generated/${name}`, "utf8") === text,
      `${name}: run node packages/torch/src/generate.ts`,
    ).toBe(true);
});

test("keywords, optional arguments, lists of a fixed length, names that TypeScript reserves", () => {
  const files = generate();
  const line = (file: string, start: string) => files[file]!.split("\n").filter((l) => l.startsWith(`  ${start}`));
  expect(line("methods.ts", "softmax(")).toEqual([
    "  softmax(kw: { dim: number; dtype?: DType | null }): Tensor;",
    "  softmax(dim: number, kw?: { dtype?: DType | null }): Tensor;",
    "  softmax(dim: number, dtype: DType | null): Tensor;",
    "  softmax(kw: { dim: number; dtype?: DType | null; out: Tensor }): Tensor;",
    "  softmax(dim: number, kw: { dtype?: DType | null; out: Tensor }): Tensor;",
    "  softmax(dim: number, dtype: DType | null, kw: { out: Tensor }): Tensor;",
  ]);
  expect(line("methods.ts", "roll(")[1]).toBe(
    "  roll(shifts: readonly number[] | number, kw?: { dims?: readonly number[] | number }): Tensor;",
  );
  expect(line("functions.ts", "topk(")).toContain(
    "  topk(self: Tensor, k: number, dim: number, kw?: { largest?: boolean; sorted?: boolean }): [Tensor, Tensor];",
  );
  expect(files["functions.ts"]).toContain("export interface OwnOperators {\n");
  expect(line("functions.ts", "rms_norm(x: ")).toContain(
    "  rms_norm(x: Tensor, weight: Tensor, eps: number, kw?: { dtype?: DType | null }): Tensor;",
  );
});
