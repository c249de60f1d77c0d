import { torch } from "@massif/torch";
import { describe, expect, test } from "vitest";
import { hasSignal, leaveOneOut, mean, standardized } from "./advantages.ts";
import {
  cispo,
  dapo,
  differentiate,
  drGrpo,
  grpo,
  gspo,
  type Objective,
  type Parameters,
  pmd,
  reinforce,
  square,
  truncatedWeights,
} from "./objectives.ts";

/** Two sequences, of two tokens and of one. */
const sequences = [0, 0, 1];
const parameters: Parameters = { tau: 0.5, clipLow: 0.2, clipHigh: 0.2, maxTokens: 10 };

function run(
  objective: Objective,
  { ratios = [1, 1, 1], advantages = [2, -1] }: { ratios?: number[]; advantages?: number[] },
  more: Partial<Parameters> = {},
): { loss: number; gradient: number[] } {
  using _ = torch.scope();
  const old = [-1, -2, -0.5];
  const { loss, gradient } = differentiate(
    objective,
    {
      logp: Float32Array.from(old, (logp, i) => logp + Math.log(ratios[i]!)),
      old_N: torch.tensor(old, { dtype: "float32" }),
      sequence_N: torch.tensor(BigInt64Array.from(sequences, BigInt)),
      advantage_B: torch.tensor(advantages, { dtype: "float32" }),
      total: { sequences: 2, tokens: 3 },
    },
    { ...parameters, ...more },
  );
  return { loss, gradient: [...gradient] };
}

/** Float32 against hand computation: a few roundings of numbers of size 1. */
const near = (values: number[]) => values.map((v) => expect.closeTo(v, 5));

describe("advantages", () => {
  test("mean, leave-one-out, standardized", () => {
    expect(mean([1, 0, 0, 1])).toEqual([0.5, -0.5, -0.5, 0.5]);
    // Each against the mean of the other three: 1 − 1/3, 0 − 2/3.
    expect(leaveOneOut([1, 0, 0, 1])).toEqual(near([2 / 3, -2 / 3, -2 / 3, 2 / 3]));
    // The sample's standard deviation of 1, 0, 0, 1 is √(1/3).
    expect(standardized([1, 0, 0, 1])).toEqual(
      near([0.866025, -0.866025, -0.866025, 0.866025].map((v) => v * 0.999998)),
    );
  });
  test("equal rewards have no signal and no advantage", () => {
    for (const advantage of [mean, leaveOneOut, standardized])
      expect(advantage([0.7, 0.7, 0.7])).toEqual(near([0, 0, 0]));
    expect(leaveOneOut([1])).toEqual([0]);
    expect(hasSignal([0.1, 0.1])).toBe(false);
    expect(hasSignal([0, 1])).toBe(true);
  });
});

describe("policy mirror descent", () => {
  test("at the old policy its gradient is that of REINFORCE, whatever τ", () => {
    const expected = [-1, -1, 0.5]; // −A/B for each token
    expect(run(reinforce, {}).gradient).toEqual(near(expected));
    for (const tau of [0, 0.01, 1, 100]) expect(run(pmd, {}, { tau }).gradient).toEqual(near(expected));
  });
  test("away from it the square pulls back: −A + τℓ, the same for all tokens of a sequence", () => {
    // ℓ₀ = log 2 + log 3 = log 6, ℓ₁ = log ½; τ = 0.5; mean over two sequences.
    const [a, b] = [(-2 + 0.5 * Math.log(6)) / 2, (1 + 0.5 * Math.log(0.5)) / 2];
    const { loss, gradient } = run(pmd, { ratios: [2, 3, 0.5] });
    expect(gradient).toEqual(near([a, a, b]));
    const l = [Math.log(6), Math.log(0.5)];
    expect(loss).toBeCloseTo((-2 * l[0]! + 0.25 * l[0]! ** 2 + l[1]! + 0.25 * l[1]! ** 2) / 2, 5);
  });
  test("K2's square is 2τ times the expanded form, plus A²", () => {
    for (const tau of [0.1, 0.5, 2]) {
      const [expanded, literal] = [pmd, square].map((objective) => run(objective, { ratios: [2, 3, 0.5] }, { tau }));
      expect(literal!.gradient).toEqual(expanded!.gradient.map((g) => expect.closeTo(2 * tau * g, 4)));
      expect(literal!.loss).toBeCloseTo(2 * tau * expanded!.loss + (4 + 1) / 2, 4);
    }
  });
});

describe("clipped ratios", () => {
  // Token 0 has left the region upwards, token 1 downwards, token 2 is within.
  const ratios = [1.5, 0.5, 1.1];
  test("GRPO: a gain beyond the clip has no gradient, a loss beyond it has; mean of each sequence's tokens", () => {
    // d(ρA)/dlog π = ρA. A = 2: token 0 is cut, token 1 (ρ too low, gain small) is not.
    expect(run(grpo, { ratios }).gradient).toEqual(near([0, -(0.5 * 2) / 2 / 2, 1.1 / 2]));
    // A < 0 in sequence 0: now token 1 is cut and token 0 is not.
    expect(run(grpo, { ratios, advantages: [-2, 1] }).gradient).toEqual(near([(1.5 * 2) / 2 / 2, 0, -1.1 / 2]));
  });
  test("Dr.GRPO divides by a constant, DAPO by the tokens of the batch", () => {
    expect(run(drGrpo, { ratios }).gradient).toEqual(near([0, -1 / 20, 1.1 / 20]));
    expect(run(dapo, { ratios }).gradient).toEqual(near([0, -1 / 3, 1.1 / 3]));
  });
  test("DAPO's clip is higher above than below", () => {
    const higher = { clipLow: 0.2, clipHigh: 0.28 };
    expect(run(dapo, { ratios: [1.25, 1, 1] }, higher).gradient[0]).toBeCloseTo(-(1.25 * 2) / 3, 5);
    expect(run(dapo, { ratios: [1.29, 1, 1] }, higher).gradient[0]).toBeCloseTo(0, 6);
  });
  test("GSPO: one ratio a sequence, normalized by its length", () => {
    // √(1.21 · 1) = 1.1 is within 0.2: d/dlog π_t = A·ρ/|y|, over two sequences.
    const gradient = near([-(2 * 1.1) / 2 / 2, -(2 * 1.1) / 2 / 2, 0.5]);
    expect(run(gspo, { ratios: [1.21, 1, 1] }).gradient).toEqual(gradient);
    const cut = run(gspo, { ratios: [1.5, 1.2, 1] }).gradient;
    expect(cut).toEqual(near([0, 0, 0.5]));
  });
  test("CISPO: a ratio beyond the cap still has the cap's gradient", () => {
    expect(run(cispo, { ratios: [1.1, 9, 1] }, { clipHigh: 4 }).gradient).toEqual(near([-2.2 / 3, -10 / 3, 1 / 3]));
  });
});

test("a batch cut into micro-batches has the same gradient", () => {
  using _ = torch.scope();
  for (const objective of [pmd, square, reinforce, grpo, drGrpo, dapo, gspo, cispo]) {
    const whole = run(objective, { ratios: [1.1, 0.9, 1.05] }).gradient;
    const alone = differentiate(
      objective,
      {
        logp: Float32Array.of(-0.5 + Math.log(1.05)),
        old_N: torch.tensor([-0.5], { dtype: "float32" }),
        sequence_N: torch.tensor(BigInt64Array.of(0n)),
        advantage_B: torch.tensor([-1], { dtype: "float32" }),
        total: { sequences: 2, tokens: 3 },
      },
      parameters,
    ).gradient;
    expect([...alone]).toEqual(near(whole.slice(2)));
  }
});

test("truncated importance weights", () => {
  const logs = (ps: number[]) => Float32Array.from(ps, Math.log);
  expect([...truncatedWeights(logs([0.5, 0.8, 0.1]), logs([0.5, 0.2, 0.2]), 2)]).toEqual(near([1, 2, 0.5]));
});
