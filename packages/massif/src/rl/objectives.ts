/**
 * Objectives of policy optimization, side by side: pure functions from log-probabilities to a loss, of which autograd
 * makes dL/dlog π for each token. What is eligible (groups with signal, on-policy tokens) is decided outside.
 *
 * B sequences with N tokens that the model wrote, ρ_t = π_θ/π_old of a token, ℓ = Σ_t log ρ_t of a sequence. A micro-batch
 * adds its share: sums are divided by the number of sequences or tokens of the whole batch (`total`), so that it does not
 * matter how the batch is cut.
 */
import { type Tensor, torch } from "@massif/torch";
import { type Advantage, leaveOneOut, mean, standardized } from "./advantages.ts";

export interface Samples {
  /** log π_θ of each token, [N]: what is differentiated. */
  logp_N: Tensor;
  /** log π_old, [N]. */
  old_N: Tensor;
  /** The sequence of each token, int64 [N], from 0 to B − 1. */
  sequence_N: Tensor;
  /** Advantage of each sequence, [B]. */
  advantage_B: Tensor;
  /** Of the whole batch. */
  total: { sequences: number; tokens: number };
}

export interface Parameters {
  /** τ of mirror descent: how strongly the new policy is held to the old one. */
  tau: number;
  /** How far below and above 1 a ratio may go before its gradient is cut. */
  clipLow: number;
  clipHigh: number;
  /** Dr.GRPO's constant in place of a sequence's length, tokens. */
  maxTokens: number;
}

/** The loss of a micro-batch, a scalar. */
export type Objective = (samples: Samples, parameters: Parameters) => Tensor;

/** Sum over the tokens of each sequence, [N] → [B]. */
const sumBySequence = (x_N: Tensor, { sequence_N, advantage_B }: Samples): Tensor =>
  torch.zeros_like(advantage_B).index_add(0, sequence_N, x_N);

const ofTokens = (x_B: Tensor, { sequence_N }: Samples): Tensor => x_B.index_select(0, sequence_N);

const logRatio = (s: Samples): Tensor => sumBySequence(s.logp_N.sub(s.old_N), s);

const lengths = (s: Samples): Tensor => sumBySequence(torch.ones_like(s.old_N), s);

/** −min(ρA, clip(ρ)A): no gradient where the ratio has left the region in the direction of the advantage (PPO). */
function clipped(ratio: Tensor, advantage: Tensor, { clipLow, clipHigh }: Parameters): Tensor {
  return ratio
    .mul(advantage)
    .minimum(ratio.clamp(1 - clipLow, 1 + clipHigh).mul(advantage))
    .neg();
}

const clippedTokens = (s: Samples, parameters: Parameters): Tensor =>
  clipped(s.logp_N.sub(s.old_N).exp(), ofTokens(s.advantage_B, s), parameters);

/** Policy mirror descent of K1.5 (arXiv 2501.12599 §2.3.2) and K2 (2507.20534 §3.2.3), expanded: −A·ℓ + (τ/2)·ℓ², mean
 *  over sequences. There is no clip and no importance weight: stale samples are held by the square alone. */
export const pmd: Objective = (s, { tau }) => {
  const l_B = logRatio(s);
  return l_B
    .square()
    .mul(tau / 2)
    .sub(s.advantage_B.mul(l_B))
    .sum()
    .div(s.total.sequences);
};

/** K2's square as it is written: (A − τℓ)² = 2τ·[−Aℓ + (τ/2)ℓ²] + A². Its step shrinks with τ; `pmd`'s does not. */
export const square: Objective = (s, { tau }) =>
  s.advantage_B.sub(logRatio(s).mul(tau)).square().sum().div(s.total.sequences);

/** REINFORCE with a baseline, mean over sequences: −A·Σ_t log π_θ. On-policy only: it knows no ratio. */
export const reinforce: Objective = (s) =>
  s.advantage_B.mul(sumBySequence(s.logp_N, s)).sum().neg().div(s.total.sequences);

/** GRPO (2402.03300) without its term towards a reference model (β = 0): clipped token ratios, mean over a sequence's
 *  tokens, then over sequences. */
export const grpo: Objective = (s, parameters) =>
  sumBySequence(clippedTokens(s, parameters), s).div(lengths(s).clamp(1)).sum().div(s.total.sequences);

/** Dr.GRPO (2503.20783): the same with a constant in place of each length, so that long wrong answers pay in full. */
export const drGrpo: Objective = (s, parameters) =>
  clippedTokens(s, parameters)
    .sum()
    .div(parameters.maxTokens * s.total.sequences);

/** DAPO (2503.14476): the clip reaches higher than it reaches low; every token of the batch weighs the same. */
export const dapo: Objective = (s, parameters) => clippedTokens(s, parameters).sum().div(s.total.tokens);

/** GSPO (2507.18071): one ratio a sequence, the geometric mean of its tokens', clipped. */
export const gspo: Objective = (s, parameters) => {
  const ratio_B = logRatio(s).div(lengths(s).clamp(1)).exp();
  return clipped(ratio_B, s.advantage_B, parameters).sum().div(s.total.sequences);
};

/** CISPO (2506.13585): the ratio, cut at 1 + clipHigh, is a constant weight of log π; no token loses its gradient. */
export const cispo: Objective = (s, { clipHigh }) => {
  const weight_N = s.logp_N
    .detach()
    .sub(s.old_N)
    .exp()
    .clamp(null, 1 + clipHigh);
  return weight_N.mul(ofTokens(s.advantage_B, s)).mul(s.logp_N).sum().neg().div(s.total.tokens);
};

/** Truncated importance weights min(π_old/π_rollout, C) of tokens, for rollouts of an engine that computes otherwise than
 *  the trainer: each token's gradient is multiplied by its own. 1 where both agree. */
export function truncatedWeights(old: Float32Array, rollout: Float32Array, most: number): Float32Array {
  return old.map((logp, i) => Math.min(Math.exp(logp - rollout[i]!), most));
}

/** An objective with the advantage and the parameters that are usual for it: a name alone is an algorithm. */
export interface Algorithm {
  objective: Objective;
  advantage: Advantage;
  parameters: Partial<Parameters>;
}

export const algorithms = {
  pmd: { objective: pmd, advantage: mean, parameters: {} },
  "pmd-loo": { objective: pmd, advantage: leaveOneOut, parameters: {} },
  square: { objective: square, advantage: mean, parameters: {} },
  reinforce: { objective: reinforce, advantage: mean, parameters: {} },
  grpo: { objective: grpo, advantage: standardized, parameters: { clipLow: 0.2, clipHigh: 0.2 } },
  "dr-grpo": { objective: drGrpo, advantage: mean, parameters: { clipLow: 0.2, clipHigh: 0.2 } },
  dapo: { objective: dapo, advantage: standardized, parameters: { clipLow: 0.2, clipHigh: 0.28 } },
  gspo: { objective: gspo, advantage: standardized, parameters: { clipLow: 3e-4, clipHigh: 4e-4 } },
  cispo: { objective: cispo, advantage: standardized, parameters: { clipHigh: 4 } },
} satisfies Record<string, Algorithm>;
export type AlgorithmName = keyof typeof algorithms;

/** dL/dlog π_θ of each token, and the loss. */
export function differentiate(
  objective: Objective,
  samples: Omit<Samples, "logp_N"> & { logp: Float32Array },
  parameters: Parameters,
): { loss: number; gradient: Float32Array } {
  using _ = torch.scope();
  const { logp, ...rest } = samples;
  const logp_N = torch.tensor(logp);
  logp_N.requiresGrad = true;
  const loss = torch.enableGrad(() => objective({ ...rest, logp_N }, parameters));
  const [gradient] = torch.grad(loss, [logp_N]);
  return { loss: loss.item(), gradient: Float32Array.from(gradient!.toTypedArray() as Float32Array) };
}
