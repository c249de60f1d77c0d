import { torch } from "@massif/torch";
import { expect, test } from "vitest";
import { adamwStep } from "./adamw.ts";

test("three steps are those of the formulas, number by number", () => {
  using _ = torch.scope();
  const f64 = (data: number[]) => torch.tensor(data, { dtype: "float64" });
  const [lr, decay, b1, b2, eps] = [0.01, 0.1, 0.9, 0.95, 1e-8];
  const start = [1, -2, 0, 0.5];
  const gradients = [
    [0.1, -3, 0, 1e-6],
    [0.2, 2, 0, -1e-6],
    [-0.4, 1, 5, 0],
  ];
  const expected = start.map((w, i) => {
    let [m, v] = [0, 0];
    for (const [t, g_N] of gradients.entries()) {
      const g = g_N[i]!;
      m = b1 * m + (1 - b1) * g;
      v = b2 * v + (1 - b2) * g * g;
      const [mHat, vHat] = [m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))];
      w = w * (1 - lr * decay) - (lr * mHat) / (Math.sqrt(vHat) + eps);
    }
    return w;
  });
  const w = f64(start);
  const state = { m: [torch.zeros_like(w)], v: [torch.zeros_like(w)], step: [torch.zeros([])] };
  for (const g of gradients)
    adamwStep([w], [f64(g)], state, { learningRate: lr, weightDecay: decay, betas: [b1, b2], eps });
  const got = w.toArray();
  for (const [i, value] of expected.entries()) expect(Math.abs(got[i]! - value)).toBeLessThan(1e-14);
  expect(state.step[0]!.item()).toBe(3);
});
