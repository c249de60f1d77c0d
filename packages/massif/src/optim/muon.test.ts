import { type Tensor, torch } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type MuonOptions, muonStep, muonSteps, newtonSchulz } from "./muon.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
});
afterEach(() => scope.end());

type Matrix = number[][];
const f64 = (data: number[] | Matrix | Matrix[]): Tensor => torch.tensor(data, { dtype: "float64" });
/** [[1, 2], [3, 4], [5, 6]]. */
const counting = (): Tensor => torch.arange(1, 7, { dtype: "float64" }).view([1, 3, 2]);
const apart = (a: Tensor, b: Tensor): number => a.sub(b).abs().max().item();

// Plain matrices, to have something to compare with.
const transpose = (x: Matrix): Matrix => x[0]!.map((_, j) => x.map((row) => row[j]!));
const product = (x: Matrix, y: Matrix): Matrix =>
  x.map((row) => y[0]!.map((_, j) => row.reduce((sum, value, k) => sum + value * y[k]![j]!, 0)));
const combine = (a: number, x: Matrix, b: number, y: Matrix): Matrix =>
  x.map((row, i) => row.map((value, j) => a * value + b * y[i]![j]!));

function orthogonalized(g: Matrix, steps = 5): Matrix {
  if (g.length > g[0]!.length) return transpose(orthogonalized(transpose(g), steps));
  const norm = Math.hypot(...g.flat());
  let x = g.map((row) => row.map((value) => value / (norm + 1e-7)));
  for (let i = 0; i < steps; i++) {
    const a = product(x, transpose(x));
    x = combine(3.4445, x, 1, product(combine(-4.775, a, 2.0315, product(a, a)), x));
  }
  return x;
}

// Specification §3.2; eight digits are given.
test.for([
  [
    1,
    [
      [-0.0282654, 0.2279057],
      [0.1933195, 0.3167535],
      [0.4149043, 0.4056014],
    ],
    1e-7,
  ],
  [
    5,
    [
      [-0.46751857, 0.57347331],
      [0.07243229, 0.40945262],
      [0.61238314, 0.24543194],
    ],
    1e-8,
  ],
] as const)("Newton–Schulz after %s steps is the specification's", ([steps, expected, tolerance]) => {
  const g = counting();
  const got = newtonSchulz(g, { steps });
  expect(apart(got.select(0, 0), f64(expected.map((row) => [...row])))).toBeLessThan(tolerance);
  expect(apart(newtonSchulz(g.mT, { steps }).mT, got)).toBeLessThan(1e-14);
});

test("its singular values after five steps are the specification's, 0.81757 and 0.69797", () => {
  const x = newtonSchulz(counting());
  const values = torch.linalg_svdvals(x.select(0, 0)).toArray();
  expect(values[0]).toBeCloseTo(0.81757, 5);
  expect(values[1]).toBeCloseTo(0.69797, 5);
});

test("in bfloat16 it is the same to bfloat16's precision, and a zero gradient stays zero", () => {
  torch.manualSeed(1);
  const g = torch.randn([3, 16, 24]);
  const [exact, rounded] = [newtonSchulz(g), newtonSchulz(g, { dtype: "bfloat16" })];
  // Eight bits of mantissa, five iterations: a few per cent of the whole.
  expect(rounded.sub(exact).norm().item() / exact.norm().item()).toBeLessThan(0.05);
  expect(rounded.dtype).toBe("float32");
  expect(
    newtonSchulz(torch.zeros([1, 4, 4]))
      .abs()
      .max()
      .item(),
  ).toBe(0);
});

test.for([
  [5, 5, true],
  [3, 8, false],
  [9, 4, true],
] as const)("two steps on a stack of %s × %s matrices, each as if alone (Nesterov %s)", ([A, B, nesterov]) => {
  torch.manualSeed(5);
  const options: MuonOptions = {
    learningRate: 0.02,
    momentum: 0.95,
    weightDecay: 0.1,
    nesterov,
    newtonSchulz: "float32",
  };
  const randn = () => torch.randn([3, A, B], { dtype: "float64" });
  const [w, m, g1, g2] = [randn(), torch.zeros([3, A, B], { dtype: "float64" }), randn(), randn().mul(40)];
  const expected = (w.tolist() as Matrix[]).map((w0, n) => {
    let [weight, momentum] = [w0, w0.map((row) => row.map(() => 0))];
    for (const g of [g1, g2]) {
      const gradient = g.select(0, n).tolist() as Matrix;
      momentum = combine(0.95, momentum, 1, gradient);
      const o = orthogonalized(nesterov ? combine(1, gradient, 0.95, momentum) : momentum);
      const scale = 0.2 * Math.sqrt(Math.max(A, B));
      weight = combine(1, weight, -0.02, combine(scale, o, 0.1, weight)); // W − η (O + λ W)
    }
    return weight;
  });
  for (const g of [g1, g2]) muonStep(w, g, m, options);
  expect(apart(w, f64(expected))).toBeLessThan(1e-13);
});

test.for([true, false])(
  "our own operator takes the same steps on stacks of several shapes (Nesterov %s)",
  (nesterov) => {
    torch.manualSeed(6);
    const options: MuonOptions = {
      learningRate: 0.02,
      momentum: 0.95,
      weightDecay: 0.1,
      nesterov,
      newtonSchulz: "float32",
    };
    const shapes = [
      [3, 5, 7],
      [1, 64, 16],
      [2, 33, 33],
      [16, 8, 24],
    ];
    const stacks = shapes.map(
      (shape) => [torch.randn(shape), torch.randn(shape), torch.randn(shape)] as [Tensor, Tensor, Tensor],
    );
    const twins = stacks.map((stack) => stack.map((t) => t.clone()) as [Tensor, Tensor, Tensor]);
    for (let step = 0; step < 2; step++) {
      muonSteps(stacks, options);
      for (const twin of twins) muonStep(...twin, options);
    }
    for (const [i, [w, , momentum]] of stacks.entries()) {
      expect(apart(momentum, twins[i]![2])).toBeLessThan(1e-5);
      expect(apart(w, twins[i]![0])).toBeLessThan(1e-5); // float32 sums in another order, through five iterations
    }
  },
);
