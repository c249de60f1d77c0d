import { expect, test } from "vitest";
import {
  chooseExperts,
  linear,
  linearCrossEntropy,
  moeExperts,
  rmsNorm,
  sigmoid,
  swiglu,
  type Tensor,
  torch,
  usePlain,
} from "./index.ts";
import { agree, each, freshly, randn } from "./testing.ts";

freshly();

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
