import { type Tensor, torch } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { ModelConfig } from "./config.ts";
import { route, sequenceBalance, updateRouterBias } from "./router.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
});
afterEach(() => scope.end());

const config = (more: object): ModelConfig =>
  ModelConfig.parse({
    vocabSize: 8,
    hiddenSize: 8,
    numHiddenLayers: 1,
    intermediateSize: 8,
    moeIntermediateSize: 8,
    numAttentionHeads: 1,
    kvLoraRank: 4,
    qkNopeHeadDim: 4,
    qkRopeHeadDim: 2,
    vHeadDim: 4,
    nRoutedExperts: 10,
    numExpertsPerTok: 4,
    ...more,
  });
const f64 = (data: number[] | number[][]): Tensor => torch.tensor(data, { dtype: "float64" });
const eye = (n: number): Tensor => torch.eye(n, { dtype: "float64" });

/** expert → weight of one token. */
function weights({ idx_Nk, w_Nk }: { idx_Nk: Tensor; w_Nk: Tensor }, n = 0): Map<number, number> {
  const [idx, w] = [idx_Nk.select(0, n).toArray(), w_Nk.select(0, n).toArray()];
  return new Map(idx.map((e, i): [number, number] => [e, w[i]!]).sort(([a], [b]) => a - b));
}

test("the specification's vector: bias chooses, scores without bias weigh", () => {
  const z = f64([[0.1, -0.2, 0.3, 1.5, -1, 0, 2, -0.5, 0.7, 0.65]]);
  const bias = f64([0, 0.5, 0, 0, 0.6, 0, -0.4, 0, 0, 0.02]);
  const got = weights(route(z, eye(10), bias, config({ routedScalingFactor: 2.827 })));
  expect([...got.keys()]).toEqual([1, 3, 4, 9]);
  const expected = [0.5801265989, 1.0536039981, 0.3465834185, 0.8466859845];
  for (const [i, w] of [...got.values()].entries()) expect(w).toBeCloseTo(expected[i]!, 9);
});

test("group-limited routing agrees with a plain reading of the rule on 200 random tokens", () => {
  const random = new Random(1);
  const [N, E, G, open, k] = [200, 24, 4, 2, 5];
  const size = E / G;
  const z = Array.from({ length: N }, () => Array.from({ length: E }, () => 6 * random.float() - 3));
  // All choices below zero too: closed groups are −∞, not 0.
  const bias = Array.from({ length: E }, () => random.float() - 2);
  const c = config({ nRoutedExperts: E, nGroup: G, topkGroup: open, numExpertsPerTok: k, normTopkProb: false });
  const routing = route(f64(z), eye(E), f64(bias), c);
  for (const [n, row] of z.entries()) {
    const score = row.map((x) => 1 / (1 + Math.exp(-x)));
    const choice = score.map((s, e) => s + bias[e]!);
    const best = Array.from({ length: G }, (_, g) => {
      const sorted = choice.slice(g * size, (g + 1) * size).sort((a, b) => b - a);
      return { g, sum: sorted[0]! + sorted[1]! };
    });
    const groups = best.sort((a, b) => b.sum - a.sum).slice(0, open);
    const experts = choice
      .map((value, e) => ({ e, value }))
      .filter(({ e }) => groups.some(({ g }) => g === Math.floor(e / size)))
      .sort((a, b) => b.value - a.value)
      .slice(0, k)
      .map(({ e }) => e)
      .sort((a, b) => a - b);
    const got = weights(routing, n);
    expect([...got.keys()]).toEqual(experts);
    for (const [e, w] of got) expect(w).toBeCloseTo(score[e]! * c.routedScalingFactor, 12);
  }
});

test("the gradient reaches the gate through the weights and not through the choice", () => {
  const gate = torch.randn([10, 10], { dtype: "float64" });
  gate.requiresGrad = true;
  const { w_Nk, idx_Nk } = route(torch.randn([1, 10], { dtype: "float64" }), gate, torch.zeros([10]), config({}));
  const [g] = torch.grad(w_Nk.square().sum(), [gate]);
  const touched = g!.abs().sum([1]).toArray();
  const chosen = new Set(idx_Nk.toArray());
  for (const [e, size] of touched.entries()) expect(size > 0).toBe(chosen.has(e));
});

test("the sequence balance loss of an example by hand", () => {
  // E 4, k 2, two sequences of two tokens.
  const scores = f64([
    [0.8, 0.6, 0.4, 0.2],
    [0.1, 0.4, 0.9, 0.6],
    [0.4, 0.3, 0.2, 0.1],
    [0.7, 0.05, 0.05, 0.2],
  ]);
  // Sequence 0: chosen 0 1, 2 3 → f = E/(kT)·counts = 1·[1 1 1 1]; P sums to 1 → 1.
  // Sequence 1: chosen 0 1, 0 3 → f = [2 1 0 1]; P = [.55 .175 .125 .15] → 1.1 + .175 + .15 = 1.425.
  const c = config({ nRoutedExperts: 4, numExpertsPerTok: 2 });
  expect(sequenceBalance(scores, 2, c).item()).toBeCloseTo((1 + 1.425) / 2, 10);
});

test("the bias moves towards experts below the mean load, and its mean stays", () => {
  const bias = torch.tensor([0.5, 0, 0, -0.5], { dtype: "float32" });
  updateRouterBias(bias, torch.tensor([9, 1, 2, 0]), 0.1);
  // e = 3 − load: signs − + + +, mean ½.
  const got = bias.toArray();
  for (const [i, b] of [0.35, 0.05, 0.05, -0.45].entries()) expect(got[i]).toBeCloseTo(b, 6);
  updateRouterBias(bias, torch.tensor([3, 3, 3, 3]), 0.1);
  expect(bias.toArray()).toEqual(got);
});
