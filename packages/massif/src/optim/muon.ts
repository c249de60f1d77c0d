/**
 * Muon as Moonlight (arXiv 2502.16982 §2) and K2 (2507.20534, Algorithm 1) define it; specification §3.1–3.2:
 *
 *     M ← μ·M + G;  O ← NS(M)·√max(n, m)·0.2;  W ← W − η·(O + λ·W)
 *
 * On stacks of equal-shaped matrices: N matrices of A × B at once, each orthogonalized on its own.
 */
import { hasTiles, runsFused, type Tensor, torch } from "@massif/torch";

/** Chosen by Keller Jordan for a steep start: singular values end near 1, not at 1, which does not hurt. */
const [a, b, c] = [3.4445, -4.775, 2.0315];

/** Five Newton–Schulz steps on each matrix of a stack [N, A, B]: nearly U·Vᵀ of its singular value decomposition. */
export function newtonSchulz(g_NAB: Tensor, { steps = 5, dtype }: { steps?: number; dtype?: "bfloat16" } = {}): Tensor {
  const tall = g_NAB.shape[1]! > g_NAB.shape[2]!;
  let x = tall ? g_NAB.mT : g_NAB;
  if (dtype) x = x.to(dtype);
  x = x.div(x.norm(2, [-2, -1], true).add(1e-7));
  for (let i = 0; i < steps; i++) {
    const xx = x.bmm(x.mT);
    const poly = xx.baddbmm(xx, xx, { beta: b, alpha: c });
    x = x.baddbmm(poly, x, { beta: a });
  }
  x = x.to(g_NAB.dtype);
  return tall ? x.mT : x;
}

export interface MuonOptions {
  learningRate: number;
  /** μ: 0.95 in Moonlight's code. */
  momentum: number;
  weightDecay: number;
  /** Feed G + μ·M to Newton–Schulz (Moonlight's code) rather than M (K2's Algorithm 1). */
  nesterov: boolean;
  /** The dtype of Newton–Schulz's products. bfloat16 pays on processors that multiply it. */
  newtonSchulz: "float32" | "bfloat16" | null;
}

/** One step on a stack of matrices, in place on `w` and `momentum`. Of ATen operators: the twin of `muonSteps`. */
export function muonStep(w_NAB: Tensor, g_NAB: Tensor, momentum_NAB: Tensor, options: MuonOptions): void {
  const { learningRate, momentum, weightDecay, nesterov } = options;
  const [, A, B] = w_NAB.shape as [number, number, number];
  using _ = torch.scope();
  momentum_NAB.mul_(momentum).add_(g_NAB);
  const direction = nesterov ? g_NAB.add(momentum_NAB, { alpha: momentum }) : momentum_NAB;
  const o_NAB = newtonSchulz(direction, options.newtonSchulz === "bfloat16" ? { dtype: "bfloat16" } : {});
  w_NAB.mul_(1 - learningRate * weightDecay).add_(o_NAB, { alpha: -learningRate * 0.2 * Math.sqrt(Math.max(A, B)) });
}

/** One step on several stacks, [weights, gradients, momentum] each: by our own operator where it runs. */
export function muonSteps(
  stacks: readonly [w_NAB: Tensor, g_NAB: Tensor, momentum_NAB: Tensor][],
  options: MuonOptions,
): void {
  const narrow = options.newtonSchulz === "bfloat16";
  if (!stacks[0] || !runsFused(stacks[0][0]) || (narrow && hasTiles())) {
    for (const stack of stacks) muonStep(...stack, options);
    return;
  }
  const [w, g, m] = [0, 1, 2].map((i) => stacks.map((stack) => stack[i]!)) as [Tensor[], Tensor[], Tensor[]];
  const { learningRate, momentum, weightDecay, nesterov } = options;
  torch.ops.massif.muon_update_(w, g, m, learningRate, momentum, weightDecay, nesterov, 5, narrow);
}
