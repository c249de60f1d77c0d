/** For tests of operators: both forms on the same numbers. */
import { afterEach, beforeEach, expect } from "vitest";
import { type DType, type Tensor, torch, usePlain } from "./index.ts";

let scope: ReturnType<typeof torch.scope>;
/** A seed and a scope for each test of a file; our own operators are on again after it. */
export function freshly(): void {
  beforeEach(() => {
    scope = torch.scope();
    torch.manualSeed(4);
  });
  afterEach(() => {
    usePlain(false);
    scope.end();
  });
}

/** Sums in another order, relative to the norm of the whole tensor (of one that is zero but for rounding, to 0.1). */
export const TOLERANCE = { float32: 1e-5, float64: 1e-13 } as const;
export type Wide = keyof typeof TOLERANCE;
const WIDE = ["float32", "float64"] as const;

export const randn = (shape: number[], dtype: DType) => torch.randn(shape, { dtype });

/** Runs `fn` fused and plain on the same inputs; compares what it returns, and the gradient of every input that is differentiated. */
export function agree(dtype: Wide, inputs: Tensor[], fn: (inputs: Tensor[]) => Tensor): void {
  const [fused, plain] = [false, true].map((off) => {
    usePlain(off);
    const leaves = inputs.map((t) => t.detach().clone());
    for (const leaf of leaves) leaf.requiresGrad = true;
    const out = fn(leaves);
    torch.manualSeed(9);
    const gradient = torch.randn(out.shape, { dtype });
    return [out, ...torch.grad(out, leaves, { gradOutputs: [gradient] })];
  });
  for (const [i, got] of fused!.entries()) {
    const expected = plain![i]!;
    const what = i ? `gradient ${i - 1}` : "value";
    expect(got.shape, what).toEqual(expected.shape);
    expect(got.dtype, what).toBe(expected.dtype);
    const [apart, size] = [got.sub(expected).norm().item(), expected.norm().item()];
    expect(apart, what).toBeLessThanOrEqual(TOLERANCE[dtype] * Math.max(size, 0.1));
  }
}

export const each = <S>(shapes: readonly S[]) =>
  WIDE.flatMap((dtype) => shapes.map((shape): [Wide, S] => [dtype, shape]));
