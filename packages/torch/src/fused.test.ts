import { afterEach, beforeEach, expect, test } from "vitest";
import {
  chooseExperts,
  type DType,
  linear,
  linearCrossEntropy,
  mlaAttention,
  mlaDecode,
  moeExperts,
  rmsNorm,
  sigmoid,
  swiglu,
  type Tensor,
  torch,
  usePlain,
} from "./index.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
  torch.manualSeed(4);
});
afterEach(() => {
  usePlain(false);
  scope.end();
});

/** Sums in another order, relative to the norm of the whole tensor (of one that is zero but for rounding, to 0.1). */
const TOLERANCE = { float32: 1e-5, float64: 1e-13 } as const;
type Wide = keyof typeof TOLERANCE;
const WIDE = ["float32", "float64"] as const;

const randn = (shape: number[], dtype: DType) => torch.randn(shape, { dtype });

/** Runs `fn` fused and plain on the same inputs; compares what it returns, and the gradient of every input that is differentiated. */
function agree(dtype: Wide, inputs: Tensor[], fn: (inputs: Tensor[]) => Tensor): void {
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

const each = <S>(shapes: readonly S[]) => WIDE.flatMap((dtype) => shapes.map((shape): [Wide, S] => [dtype, shape]));

test.for(
  each([
    [1, 1],
    [3, 7],
    [257, 64],
    [2, 1000],
  ] as const),
)("rmsNorm, %s, %s", ([dtype, [N, D]]) => {
  agree(dtype, [randn([N, D], dtype), randn([D], dtype)], ([x, w]) => rmsNorm(x!, w!, 1e-6));
  agree(dtype, [randn([N, 2, D], dtype).mul(1e-4), randn([D], dtype)], ([x, w]) => rmsNorm(x!, w!, 1e-5));
});

test.for(each([[1], [130, 33], [3, 4097]]))("sigmoid, %s, %s", ([dtype, shape]) => {
  agree(dtype, [randn(shape, dtype).mul(5)], ([x]) => sigmoid(x!));
});

test.for(
  each([
    [1, 1],
    [3, 7],
    [130, 33],
  ] as const),
)("swiglu, %s, %s", ([dtype, [N, D]]) => {
  agree(dtype, [randn([N, 2 * D], dtype)], ([x]) => swiglu(x!));
  agree(dtype, [randn([2, N, 2 * D], dtype).mul(30)], ([x]) => swiglu(x!));
});

test.for(
  each([
    { B: 1, T: 1, H: 1, nope: 1, rope: 2, V: 1, docs: false },
    { B: 2, T: 1, H: 3, nope: 4, rope: 2, V: 5, docs: true },
    { B: 2, T: 47, H: 3, nope: 16, rope: 8, V: 12, docs: false },
    { B: 2, T: 49, H: 2, nope: 7, rope: 6, V: 9, docs: true },
    { B: 1, T: 300, H: 2, nope: 16, rope: 8, V: 16, docs: false },
    { B: 2, T: 515, H: 1, nope: 5, rope: 4, V: 3, docs: true },
    { B: 2, T: 60, H: 2, nope: 7, rope: 6, V: 9, docs: true, share: 7 },
    { B: 1, T: 700, H: 2, nope: 16, rope: 8, V: 16, docs: true, share: 300 },
  ] as { B: number; T: number; H: number; nope: number; rope: number; V: number; docs: boolean; share?: number }[]),
)("mlaAttention, %s, %o", ([dtype, { B, T, H, nope, rope, V, docs, share = 0 }]) => {
  const angle_TR = torch.rand([T, rope / 2], { dtype }).mul(6);
  const [cos_TR, sin_TR] = [angle_TR.cos(), angle_TR.sin()];
  // Documents of 1, 2, 3, … positions behind what they share; the second row's are one document.
  const starts = Int32Array.from({ length: B * T }, (_, i) => {
    const n = Math.floor((Math.sqrt(8 * ((i % T) - share) + 1) - 1) / 2);
    return i < T && i >= share ? share + (n * (n + 1)) / 2 : 0;
  });
  const docStart_BT = docs ? torch.tensor(starts, { shape: [B, T] }) : null;
  // The first two positions belong to none of them.
  const stretches = Int32Array.from({ length: 2 * B * T }, (_, i) => (starts[i >> 1] ? (i % 2 ? share : 2) : 0));
  const shared_BT2 = share ? torch.tensor(stretches, { shape: [B, T, 2] }) : null;
  const run = (inputs: Tensor[]) => {
    const [q_BTHK, kv_BTHX, kPe_BTR] = inputs as [Tensor, Tensor, Tensor];
    return mlaAttention({ q_BTHK, kv_BTHX, kPe_BTR, cos_TR, sin_TR, docStart_BT, shared_BT2, nope, scale: 0.7 });
  };
  const inputs = [randn([B, T, H, nope + rope], dtype), randn([B, T, H, nope + V], dtype), randn([B, T, rope], dtype)];
  agree(dtype, inputs, (leaves) => run(leaves)[0]);
  const fused = run(inputs)[1].toArray();
  usePlain(true);
  const plain = run(inputs)[1].toArray();
  // Maxima are float32: each within a few of its last bits.
  for (const [h, max] of plain.entries())
    expect(Math.abs(fused[h]! - max)).toBeLessThan(2e-6 * Math.max(1, Math.abs(max)));
});

test("mlaAttention shows a NaN in the maximum, in either form", () => {
  const q_BTHK = torch.zeros([1, 4, 2, 4]);
  q_BTHK.select(2, 1).fill_(Number.NaN);
  const rest = {
    kv_BTHX: torch.ones([1, 4, 2, 4]),
    kPe_BTR: torch.ones([1, 4, 2]),
    docStart_BT: null,
    nope: 2,
    scale: 1,
  };
  for (const plain of [false, true]) {
    usePlain(plain);
    const [, max_H] = mlaAttention({ q_BTHK, ...rest, cos_TR: torch.ones([4, 1]), sin_TR: torch.zeros([4, 1]) });
    expect(max_H.toArray()).toEqual([0, Number.NaN]);
  }
});

test.for(
  each([
    { N: 1, D: 3, C: 2 },
    { N: 1, D: 8, C: 257 },
    { N: 97, D: 33, C: 600 },
    { N: 1030, D: 5, C: 31 },
  ]),
)("linearCrossEntropy, %s, %o", ([dtype, { N, D, C }]) => {
  const target_N = torch.randint(0, C, [N], { dtype: "int64" });
  const inputs = [randn([N, D], dtype), randn([C, D], dtype)];
  agree(dtype, inputs, ([x, w]) => linearCrossEntropy(x!, w!, target_N));
  if (N > 1) target_N.narrow(0, 0, N >> 1).fill_(-100);
  agree(dtype, inputs, ([x, w]) => linearCrossEntropy(x!, w!, target_N));
  target_N.fill_(-100);
  agree(dtype, inputs, ([x, w]) => linearCrossEntropy(x!, w!, target_N));
});

test("linearCrossEntropy of more logits than are kept for the backward pass", () => {
  const target_N = torch.randint(0, 30_000, [600]);
  const inputs = [randn([600, 2], "float64"), randn([30_000, 2], "float64")];
  agree("float64", inputs, ([x, w]) => linearCrossEntropy(x!, w!, target_N));
});

test("linearCrossEntropy of logits that would overflow is finite", () => {
  const [x, w] = [
    torch.full([1, 1], 100, { dtype: "float32" }),
    torch.tensor([[10], [-10], [9]], { dtype: "float32" }),
  ];
  for (const plain of [false, true]) {
    usePlain(plain);
    expect(linearCrossEntropy(x, w, torch.tensor([1])).toArray()).toEqual([2000]);
  }
});

test.for(["float32", "bfloat16"] as const)(
  "linearCrossEntropy in %s: no bit depends on the number of threads",
  (dtype) => {
    const inputs = [randn([1100, 20], dtype), randn([1300, 20], "float32").to(dtype)];
    const target_N = torch.randint(0, 1300, [1100]);
    const threads = torch.getNumThreads();
    const [alone, together] = [1, 3].map((count) => {
      torch.setNumThreads(count);
      const leaves = inputs.map((t) => t.detach().clone());
      for (const leaf of leaves) leaf.requiresGrad = true;
      const nll_N = linearCrossEntropy(leaves[0]!, leaves[1]!, target_N);
      return [nll_N, ...torch.grad(nll_N.sum(), leaves)];
    });
    torch.setNumThreads(threads);
    for (const [i, one] of alone!.entries()) expect(torch.equal(one!, together![i]!)).toBe(true);
  },
);

test.for(
  each([
    { N: 1, E: 1, k: 1, normalize: true },
    { N: 300, E: 16, k: 2, normalize: true },
    { N: 5, E: 7, k: 7, normalize: false },
  ]),
)("chooseExperts, %s, %o", ([dtype, { N, E, k, normalize }]) => {
  const bias_E = randn([E], dtype);
  agree(dtype, [torch.rand([N, E], { dtype })], ([scores_NE]) => {
    const choice_NE = scores_NE!.detach().add(bias_E);
    const [idx_Nk, w_Nk] = chooseExperts(scores_NE!, choice_NE, k, { normalize, scale: 2.5 });
    return torch.zeros_like(scores_NE!).scatter(1, idx_Nk, w_Nk); // in whichever order they come
  });
});

test.for(
  each([
    { N: 1, D: 3, E: 1, I: 2, k: 1 }, // one token, one expert
    { N: 1, D: 8, E: 16, I: 5, k: 2 }, // most experts empty
    { N: 33, D: 17, E: 5, I: 9, k: 5 }, // every expert for every token
    { N: 200, D: 24, E: 8, I: 16, k: 3 },
  ]),
)("moeExperts, %s, %o", ([dtype, { N, D, E, I, k }]) => {
  const choose = (scores_NE: Tensor) => scores_NE.topk(k, -1)[1];
  const inputs = [
    randn([N, D], dtype),
    torch.rand([N, k], { dtype }),
    randn([E, 2 * I, D], dtype),
    randn([E, D, I], dtype),
  ];
  const run = (idx_Nk: Tensor) => (leaves: Tensor[]) => {
    const [x_ND, w_Nk, gateUp_EID, down_EDI] = leaves as [Tensor, Tensor, Tensor, Tensor];
    return moeExperts({ x_ND, idx_Nk, w_Nk, gateUp_EID, down_EDI });
  };
  agree(dtype, inputs, run(choose(torch.rand([N, E]))));
  agree(dtype, inputs, run(choose(torch.arange(E, { dtype: "float32" }).expand([N, E])))); // all to the last k experts
});

test.for(
  each([
    { D: 3, I: 5, N: 40 }, // narrower than a vector
    { D: 37, I: 21, N: 40 },
    { D: 560, I: 300, N: 40 }, // sums longer than a slice of the packed product
  ]),
)("a row of linear and of moeExperts has the same bits, however many rows come with it: %s, %o", ([dtype, n]) => {
  const { D, I, N } = n;
  const [x_ND, weight] = [randn([N, D], dtype), randn([I, D], dtype)];
  const [gateUp_EID, down_EDI, w_Nk] = [
    randn([2, 2 * I, D], dtype),
    randn([2, D, I], dtype),
    torch.rand([N, 1], { dtype }),
  ];
  const idx_Nk = torch.arange(N).remainder(2).unsqueeze(1);
  const products = (from: number, count: number) => {
    const [x, idx, w] = [x_ND, idx_Nk, w_Nk].map((t) => t.narrow(0, from, count)) as [Tensor, Tensor, Tensor];
    return [linear(x, weight), moeExperts({ x_ND: x, idx_Nk: idx, w_Nk: w, gateUp_EID, down_EDI })];
  };
  const together = products(0, N);
  for (const count of [1, 2, 3, 7, 12, 13, 25])
    for (const [i, part] of products(N - count, count).entries())
      expect(
        torch.equal(part, together[i]!.narrow(0, N - count, count)),
        `${i ? "experts" : "linear"}, ${count} rows`,
      ).toBe(true);
});

test("moeExperts is the sum over chosen experts of the definition, written out", () => {
  const [x, gateUp, down] = [randn([2, 3], "float64"), randn([4, 4, 3], "float64"), randn([4, 3, 2], "float64")];
  const [idx, w] = [
    [
      [2, 0],
      [3, 2],
    ],
    [
      [0.25, 2],
      [1, -1],
    ],
  ];
  const silu = (z: number) => z / (1 + Math.exp(-z));
  const [X, G, D] = [x.tolist() as number[][], gateUp.tolist() as number[][][], down.tolist() as number[][][]];
  const dot = (a: number[], b: number[]) => a.reduce((sum, value, i) => sum + value * b[i]!, 0);
  const expected = X.map((row, n) =>
    row.map((_, d) =>
      idx[n]!.reduce((sum, e, slot) => {
        const h = [0, 1].map((i) => silu(dot(G[e]![i]!, row)) * dot(G[e]![i + 2]!, row));
        return sum + w[n]![slot]! * dot(D[e]![d]!, h);
      }, 0),
    ),
  );
  for (const plain of [false, true]) {
    usePlain(plain);
    const got = moeExperts({
      x_ND: x,
      idx_Nk: torch.tensor(idx),
      w_Nk: torch.tensor(w, { dtype: "float64" }),
      gateUp_EID: gateUp,
      down_EDI: down,
    });
    expect(
      got
        .sub(torch.tensor(expected, { dtype: "float64" }))
        .abs()
        .max()
        .item(),
    ).toBeLessThan(1e-13);
  }
});

test.for(
  each([
    { B: 1, T: 1, H: 1, nope: 2, R: 2, C: 3, V: 1, block: 4, lengths: [0] },
    { B: 3, T: 1, H: 5, nope: 8, R: 4, C: 16, V: 7, block: 4, lengths: [0, 9, 30] },
    { B: 2, T: 5, H: 13, nope: 17, R: 6, C: 33, V: 20, block: 64, lengths: [3, 40] },
  ]),
)("mla_decode %o: values and the cache it writes are its twin's, rows as if they were alone", ([dtype, n]) => {
  const { B, T, H, nope, R, C, V, block, lengths } = n;
  const M = Math.ceil((Math.max(...lengths) + T) / block);
  const pages = torch.randperm(2 * B * M).to("int32");
  const table_BM = pages.narrow(0, 0, B * M).view([B, M]);
  const position_BT = torch
    .tensor(Int32Array.from(lengths))
    .unsqueeze(1)
    .add(torch.arange(T, { dtype: "int32" }));
  const angles_NR = randn([B * T, R / 2], dtype);
  const inputs = {
    q_BTHK: randn([B, T, H, nope + R], dtype),
    latent_BTC: randn([B, T, C], dtype),
    kPe_BTR: randn([B, T, R + 3], dtype).narrow(-1, 3, R), // not contiguous, as it comes
    cos_NR: angles_NR.cos(),
    sin_NR: angles_NR.sin(),
    kv_HXC: randn([H, nope + V, C], dtype),
    ...{ table_BM, position_BT, block, nope, scale: 0.3 },
  };
  const held_SW = randn([2 * B * M * block, C + R], dtype);
  const [[fused, wrote], [plain, expected]] = [false, true].map((off) => {
    usePlain(off);
    const cache_SW = held_SW.clone();
    return [mlaDecode({ ...inputs, cache_SW }), cache_SW] as const;
  }) as [readonly [Tensor, Tensor], readonly [Tensor, Tensor]];
  expect(fused.shape).toEqual([B, T, H, V]);
  const apart = (a: Tensor, b: Tensor) => a.sub(b).norm().item() / b.norm().item();
  expect(apart(fused, plain)).toBeLessThan(TOLERANCE[dtype]);
  expect(apart(wrote, expected)).toBeLessThan(TOLERANCE[dtype]);
  expect(wrote.ne(held_SW).any(-1).sum().item()).toBe(B * T);

  usePlain(false);
  const last = B - 1; // the last sequence alone: the same bits
  const of = (t: Tensor) => t.narrow(0, last, 1);
  const rows = (t: Tensor) => t.narrow(0, last * T, T);
  const alone = mlaDecode({
    ...inputs,
    q_BTHK: of(inputs.q_BTHK),
    latent_BTC: of(inputs.latent_BTC),
    kPe_BTR: of(inputs.kPe_BTR),
    cos_NR: rows(inputs.cos_NR),
    sin_NR: rows(inputs.sin_NR),
    table_BM: of(table_BM),
    position_BT: of(position_BT),
    cache_SW: held_SW.clone(),
  });
  expect(torch.equal(alone, of(fused))).toBe(true);
});

test("mla_decode refuses a position outside its sequence's blocks, and a block outside the cache", () => {
  const run = (block: number, position: number) =>
    mlaDecode({
      q_BTHK: torch.zeros([1, 1, 1, 4]),
      latent_BTC: torch.zeros([1, 1, 3]),
      kPe_BTR: torch.zeros([1, 1, 2]),
      cos_NR: torch.ones([1, 1]),
      sin_NR: torch.zeros([1, 1]),
      cache_SW: torch.zeros([8, 5]),
      table_BM: torch.tensor(Int32Array.of(block), { shape: [1, 1] }),
      position_BT: torch.tensor(Int32Array.of(position), { shape: [1, 1] }),
      kv_HXC: torch.zeros([1, 4, 3]),
      ...{ block: 4, nope: 2, scale: 1 },
    });
  expect(() => run(0, 4)).toThrow("found position 4 in 1 blocks of 4");
  expect(() => run(2, 0)).toThrow("found block 2 in a cache of 2");
  expect(run(1, 3).shape).toEqual([1, 1, 1, 2]);
});

/** x in bfloat16 beside weights in bfloat16 or float32, results in either: against float32 on the same numbers. */
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
