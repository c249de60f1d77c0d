import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { adjust, draw, type SamplingOptions, sample, weigh } from "./sample.ts";

const none = { prompt: new Set<number>(), output: new Map<number, number>() };

/** What may be drawn, by sorting: of equals the first. */
function kept(weights: Float32Array, { topK = Infinity, topP = 1, minP = 0 }: SamplingOptions): Set<number> {
  const order = Array.from(weights.keys())
    .filter((i) => weights[i]! > 0)
    .sort((a, b) => weights[b]! - weights[a]! || a - b)
    .slice(0, topK);
  const total = order.reduce((sum, i) => sum + weights[i]!, 0);
  let sum = 0;
  const nucleus = order.filter((i) => {
    const before = sum;
    sum += weights[i]!;
    return before === 0 || before < topP * total;
  });
  return new Set(nucleus.filter((i) => weights[i]! >= minP * weights[order[0]!]!));
}

test("top-k, top-p and min-p keep what sorting keeps", () => {
  // Whole numbers, so that sums are exact in any order; many are equal, some zero.
  const weights = fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 1, maxLength: 40 });
  const options = fc.record(
    {
      topK: fc.integer({ min: 1, max: 45 }),
      topP: fc.constantFrom(0, 0.25, 0.5, 0.75, 1),
      minP: fc.constantFrom(0, 0.25, 0.5, 1),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(weights, options, (numbers, options) => {
      fc.pre(numbers.some((w) => w > 0));
      const w = Float32Array.from(numbers);
      const expected = kept(w, options);
      const total = [...expected].reduce((sum, i) => sum + w[i]!, 0);
      const random = new Random(1);
      const drawn = new Set<number>();
      for (let i = 0; i < 100; i++) {
        const { id, logprob } = draw(w, options, random);
        if (!drawn.has(id)) expect(logprob).toBeCloseTo(Math.log(w[id]! / total), 12);
        drawn.add(id);
      }
      for (const id of drawn) expect(expected).toContain(id);
      // A share of 1/8 is missed by 100 draws once in 600,000.
      expect([...expected].filter((i) => w[i]! * 8 > total && !drawn.has(i))).toEqual([]);
    }),
    { numRuns: 300, seed: 5 },
  );
});

test("draws follow the distribution: chi-squared over 20,000 of them", () => {
  const logits = Float32Array.from([0, 1, 2, 3, -1, 2.5, 0.5, 1.5]);
  const weights = weigh(logits, 0.8);
  const total = weights.reduce((a, b) => a + b, 0);
  const random = new Random(7);
  const counts = new Array<number>(8).fill(0);
  for (let i = 0; i < 20_000; i++) counts[sample(logits, { temperature: 0.8 }, random)]!++;
  const chi = counts.reduce((sum, n, i) => {
    const expected = (20_000 * weights[i]!) / total;
    return sum + (n - expected) ** 2 / expected;
  }, 0);
  // 7 degrees of freedom: above 24.3 once in a thousand seeds.
  expect(chi).toBeLessThan(24.3);
});

test("penalties, bias and mask change logits as their formulas say", () => {
  const logits = Float32Array.from([2, -2, 1, 4, -1]);
  const history = {
    prompt: new Set([0, 1]),
    output: new Map([
      [1, 1],
      [3, 2],
    ]),
  };
  const options = { repetitionPenalty: 2, presencePenalty: 0.5, frequencyPenalty: 0.25, logitBias: new Map([[4, 3]]) };
  adjust(logits, options, history, Uint32Array.of(0b11011));
  expect([...logits]).toEqual([1, -4.75, -Infinity, 1, 2]);
});

test("a mask over more than one word", () => {
  const logits = new Float32Array(70).fill(1);
  adjust(logits, {}, none, Uint32Array.of(0, 0xffffffff, 0b100010));
  expect(Array.from(logits.keys()).filter((i) => logits[i] === 1)).toEqual([
    ...Array.from({ length: 32 }, (_, i) => 32 + i),
    ...[65, 69],
  ]);
});

test("temperature 0 takes the first of the likeliest; nothing left is an error", () => {
  expect(sample(Float32Array.from([1, 3, 3]), { temperature: 0 }, new Random(1))).toBe(1);
  expect(() => sample(Float32Array.from([-Infinity, -Infinity]), {}, new Random(1))).toThrow(
    "no token with a probability above zero",
  );
  expect(() => draw(new Float32Array(3), {}, new Random(1))).toThrow("no token with a probability above zero");
});

test("a huge vocabulary: the nucleus of a known distribution", () => {
  const n = 163_840;
  // Geometric: p_i ∝ 0.999^i, in shuffled places. The first k reach 1 − 0.999^k.
  const places = new Random(3).shuffle(Array.from({ length: n }, (_, i) => i));
  const logits = new Float32Array(n);
  for (const [rank, place] of places.entries()) logits[place] = rank * Math.log(0.999);
  const first = new Set(places.slice(0, 2303)); // 1 − 0.999^2302 = 0.9, and one for rounding
  const random = new Random(4);
  const weights = weigh(logits, 1);
  let rarest = 0;
  const rank = new Map(places.slice(0, 2303).map((place, i) => [place, i]));
  for (let i = 0; i < 300; i++) {
    const { id } = draw(weights, { topP: 0.9 }, random);
    expect(first).toContain(id);
    rarest = Math.max(rarest, rank.get(id)!);
  }
  expect(rarest).toBeGreaterThan(1800);
});
