import { expect, test } from "vitest";
import {
  type DType,
  linear,
  linearCrossEntropy,
  mlaAttention,
  moeExperts,
  rmsNorm,
  swiglu,
  type Tensor,
  torch,
  usePlain,
} from "./index.ts";
import { freshly, randn } from "./testing.ts";

freshly();

test.for(
  (["bfloat16", "float32"] as const).flatMap((weights) =>
    (["bfloat16", "float32"] as const).flatMap((result) =>
      [
        { N: 1, I: 1, O: 1 },
        { N: 13, I: 33, O: 7 },
        { N: 200, I: 64, O: 48 },
        { N: 37, I: 129, O: 65 },
      ].map((sizes) => ({ weights, result, ...sizes })),
    ),
  ),
)("bfloat16 products %o", ({ weights, result, N, I, O }) => {
  const x_NI = randn([N, I], "bfloat16");
  const w_OI = randn([O, I], "bfloat16").to(weights);
  const gain_I = randn([I], "bfloat16").to(weights);
  const [gateUp, down] = [
    [4, 2 * O, I],
    [4, I, O],
  ].map((shape) => randn(shape, "bfloat16").to(weights)) as [Tensor, Tensor];
  const [idx_Nk, w_Nk] = [torch.randint(0, 4, [N, 2], { dtype: "int64" }), randn([N, 2], "float32")];
  const works: [string, Tensor[], (inputs: Tensor[], dtype: DType) => Tensor][] = [
    ["linear", [x_NI, w_OI], ([x, w], dtype) => linear(x!, w!, dtype)],
    ["rmsNorm", [x_NI, gain_I], ([x, w]) => rmsNorm(x!, w!, 1e-6)],
    [
      "moeExperts",
      [x_NI, w_Nk, gateUp, down],
      ([x_ND, w, gateUp_EID, down_EDI], dtype) =>
        moeExperts({ x_ND: x_ND!, idx_Nk, w_Nk: w!, gateUp_EID: gateUp_EID!, down_EDI: down_EDI!, dtype }),
    ],
    ["linearCrossEntropy", [x_NI, w_OI], ([x, w]) => linearCrossEntropy(x!, w!, torch.zeros([N], { dtype: "int64" }))],
  ];
  for (const [name, inputs, fn] of works) {
    const [narrow, exact] = [false, true].map((off) => {
      usePlain(off);
      const leaves = inputs.map((t) => (off ? t.to("float32") : t.detach()).clone());
      for (const leaf of leaves) leaf.requiresGrad = true;
      const out = fn(leaves, off ? "float32" : result);
      return [out, ...torch.grad(out.to("float32").square().sum(), leaves)];
    }) as [Tensor[], Tensor[]];
    if (name === "linear" || name === "moeExperts") expect(narrow[0]!.dtype, name).toBe(result);
    for (const [i, got] of narrow.entries()) {
      if (i) expect(got.dtype, `${name}, gradient ${i - 1}`).toBe(inputs[i - 1]!.dtype);
      // A few roundings to 8 bits.
      const [apart, size] = [got.to("float32").sub(exact[i]!).norm().item(), exact[i]!.norm().item()];
      expect(apart, `${name}, ${i ? `gradient ${i - 1}` : "value"}`).toBeLessThanOrEqual(2e-2 * Math.max(size, 1e-3));
    }
  }
});

test("rmsNorm of float32 rounds to bfloat16 once, at the end", () => {
  const [x, w] = [randn([5, 40], "float32"), randn([40], "float32")];
  expect(torch.equal(rmsNorm(x, w, 1e-6, "bfloat16"), rmsNorm(x, w, 1e-6).to("bfloat16"))).toBe(true);
});

test("an odd width reads nothing beyond its row: what lies behind it may be no number", () => {
  const x = randn([2, 33], "bfloat16");
  x.select(0, 1).fill_(Number.NaN);
  expect(
    linear(x, randn([20, 33], "bfloat16"))
      .isfinite()
      .all(-1)
      .toArray(),
  ).toEqual([1, 0]);
});

const angles = randn([9, 2], "float32");
torch.keep(angles);
const experts = torch.keep(torch.randint(0, 5, [20, 2], { dtype: "int64" }));
const targets = torch.keep(torch.randint(0, 50, [20], { dtype: "int64" }));
test.for([
  ["swiglu", [[20, 32]], ([x]) => swiglu(x!)],
  [
    "mla_attention",
    [
      [2, 9, 3, 12],
      [2, 9, 3, 15],
      [2, 9, 4],
    ],
    ([q_BTHK, kv_BTHX, kPe_BTR]) =>
      mlaAttention({
        ...{ q_BTHK: q_BTHK!, kv_BTHX: kv_BTHX!, kPe_BTR: kPe_BTR! },
        ...{ cos_TR: angles.cos(), sin_TR: angles.sin(), docStart_BT: null, nope: 8, scale: 0.3 },
      })[0],
  ],
  [
    "linear_cross_entropy",
    [
      [20, 16],
      [50, 16],
    ],
    ([x, w]) => linearCrossEntropy(x!, w!, targets),
  ],
  [
    "moe_experts",
    [
      [20, 16],
      [20, 2],
      [5, 24, 16],
      [5, 16, 12],
    ],
    ([x_ND, w_Nk, gateUp_EID, down_EDI]) =>
      moeExperts({ x_ND: x_ND!, idx_Nk: experts, w_Nk: w_Nk!, gateUp_EID: gateUp_EID!, down_EDI: down_EDI! }),
  ],
] as [string, number[][], (inputs: Tensor[]) => Tensor][])(
  "%s in bfloat16: values and gradients are those of float32 on the same numbers, to bfloat16's 8 bits",
  ([, shapes, fn]) => {
    const inputs = shapes.map((shape) => randn(shape, "bfloat16"));
    const [narrow, exact] = (["bfloat16", "float32"] as const).map((dtype) => {
      usePlain(dtype === "float32");
      const leaves = inputs.map((t) => (dtype === "float32" ? t.to(dtype) : t.clone()));
      for (const leaf of leaves) leaf.requiresGrad = true;
      const out = fn(leaves);
      return [out, ...torch.grad(out.to("float32").square().sum(), leaves)];
    }) as [Tensor[], Tensor[]];
    for (const [i, got] of narrow.entries()) {
      const expected = exact[i]!;
      expect(got.to("float32").sub(expected).norm().item() / expected.norm().item()).toBeLessThan(2e-2);
    }
  },
);
