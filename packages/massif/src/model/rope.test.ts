import { torch } from "@massif/torch";
import { expect, test } from "vitest";
import { ModelConfig } from "./config.ts";
import { inverseFrequencies, RotaryTable, softmaxScale } from "./rope.ts";

/** The attention of K2 with a YaRN factor (specification §1.1). */
const k2 = (factor: number | null, more: object = {}): ModelConfig =>
  ModelConfig.parse({
    vocabSize: 8,
    hiddenSize: 8,
    numHiddenLayers: 1,
    intermediateSize: 8,
    moeIntermediateSize: 8,
    numAttentionHeads: 64,
    kvLoraRank: 512,
    qkNopeHeadDim: 128,
    qkRopeHeadDim: 64,
    vHeadDim: 128,
    nRoutedExperts: 8,
    numExpertsPerTok: 2,
    ropeScaling: factor && {
      type: "yarn",
      factor,
      originalMaxPositionEmbeddings: 4096,
      betaFast: 1,
      betaSlow: 1,
      mscale: 1,
      mscaleAllDim: 1,
      ...more,
    },
  });

// Nine digits are given, hence 1e-8 relative.
const LOW = [
  1, 0.713111085, 0.508527419, 0.36263654, 0.258600136, 0.184410624, 0.13150526, 0.0937778586, 0.0668740305,
  0.0476886124, 0.0340072782, 0.024250967, 0.0172936334, 0.0123322817, 0.00879428677, 0.00627130338, 0.00447213595,
  0.00318912972, 0.00227420376, 0.00162175991,
];
const HIGH_32 = [
  3.61404677e-5, 2.57721682e-5, 1.83784188e-5, 1.31058542e-5, 9.34592988e-6, 6.6646862e-6, 4.75266161e-6, 3.38917567e-6,
  2.41685874e-6, 1.72348876e-6, 1.22903894e-6, 8.76441291e-7,
];

test.for([
  [32, HIGH_32],
  [64, HIGH_32.map((f) => f / 2)],
] as const)("YaRN's inverse frequencies at factor %s are the specification's", ([factor, high]) => {
  const got = inverseFrequencies(k2(factor));
  const expected = [...LOW, ...high];
  expect(got).toHaveLength(32);
  for (const [i, f] of got.entries()) expect(Math.abs(f / expected[i]! - 1)).toBeLessThan(1e-8);
});

test("without YaRN the frequencies are the plain powers of the base", () => {
  const got = inverseFrequencies(k2(null));
  expect(got[20]).toBeCloseTo(0.00115649497, 11);
  expect(got[31]).toBeCloseTo(2.80461213e-5, 13);
});

test("beta_fast 32 ramps from index 8 (as K2.5 has it)", () => {
  const [plain, got] = [inverseFrequencies(k2(null)), inverseFrequencies(k2(32, { betaFast: 32 }))];
  expect(got.slice(0, 9)).toEqual(plain.slice(0, 9));
  expect(got[9]).toBeLessThan(plain[9]!);
  expect(got[20]! / plain[20]!).toBeCloseTo(1 / 32, 12);
});

test.for([
  [32, 0.13086079996295005],
  [64, 0.14467962580268923],
  [null, 0.07216878364870322],
] as const)("the softmax scale at factor %s", ([factor, scale]) => {
  expect(Math.abs(softmaxScale(k2(factor)) / scale - 1)).toBeLessThan(1e-14);
});

test("cos and sin are scaled by the ratio of the mscales, and by the factor's own when one is missing", () => {
  const cosAt0 = (more: object) => {
    using _ = torch.scope();
    return new RotaryTable(k2(40, more), "float64").rows(0, 1)[0].select(1, 0).item();
  };
  const m = (k: number) => 0.1 * k * Math.log(40) + 1;
  expect(cosAt0({})).toBe(1);
  expect(cosAt0({ mscale: 0.7, mscaleAllDim: 0.5 })).toBeCloseTo(m(0.7) / m(0.5), 14);
  expect(cosAt0({ mscale: 0.7, mscaleAllDim: 0 })).toBeCloseTo(m(1), 14);
  expect(cosAt0({ mscale: undefined, mscaleAllDim: 1 })).toBeCloseTo(m(1), 14);
});

test("a table that has grown gives the same rows, from any start", () => {
  using _ = torch.scope();
  const small = new RotaryTable(k2(32), "float64");
  const first = small.rows(0, 7)[0].clone();
  expect(torch.equal(small.rows(0, 700)[0].narrow(0, 0, 7), first)).toBe(true);
  expect(torch.equal(small.rows(3, 2)[0], first.narrow(0, 3, 2))).toBe(true);
});
