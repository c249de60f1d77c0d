/** The router of DeepSeek-V3 and K2: sigmoid scores, a bias for choosing only, group-limited top-k; specification §1.10–1.11. */
import { chooseExperts, sigmoid, type Tensor, torch } from "@massif/torch";
import type { ModelConfig } from "./config.ts";

export interface Routing {
  /** sigmoid(W·x), float32 (float64 for float64). */
  scores_NE: Tensor;
  /** Chosen experts (int64). */
  idx_Nk: Tensor;
  /** Their weights: scores without bias, normalized, scaled. */
  w_Nk: Tensor;
}

export function route(
  x_ND: Tensor,
  gate_ED: Tensor,
  bias_E: Tensor,
  config: ModelConfig,
  by: { linear(x: Tensor, w: Tensor): Tensor } = torch,
): Routing {
  const dtype = x_ND.dtype === "float64" ? "float64" : "float32";
  const scores_NE = sigmoid(by.linear(x_ND.to(dtype), gate_ED.to(dtype)));
  const [idx_Nk, w_Nk] = chooseExperts(
    scores_NE,
    open(scores_NE.detach().add(bias_E), config),
    config.numExpertsPerTok,
    {
      normalize: config.normTopkProb,
      scale: config.routedScalingFactor,
    },
  );
  return { scores_NE, idx_Nk, w_Nk };
}

/** `choice` with −∞ outside of the best groups, where there are groups (a group counts by the sum of its two best). */
function open(choice_NE: Tensor, { nGroup, topkGroup }: ModelConfig): Tensor {
  if (nGroup === 1) return choice_NE;
  const grouped_NGe = choice_NE.unflatten(-1, [nGroup, -1]);
  const best_NG = grouped_NGe.topk(2, -1)[0].sum([-1]).topk(topkGroup, -1, true, false)[1];
  const open_NG = torch.zeros_like(grouped_NGe.select(-1, 0)).scatter(1, best_NG, 1).to("bool");
  return grouped_NGe.masked_fill(open_NG.unsqueeze(-1).logical_not(), -Infinity).flatten(1);
}

/**
 * The sequence-wise balance loss, unweighted: per sequence Σ_i f_i·P_i with f_i = E/(k·T)·#(tokens whose top k by score,
 * without bias, has i) and P_i the mean of s_i / Σ_j s_j; averaged over the sequences of the batch.
 */
export function sequenceBalance(
  scores_NE: Tensor,
  sequences: number,
  { nRoutedExperts: E, numExpertsPerTok: k }: ModelConfig,
): Tensor {
  const scores_BTE = scores_NE.unflatten(0, [sequences, -1]);
  const idx_BTk = scores_BTE.detach().topk(k, -1, true, false)[1];
  const f_BE = torch
    .zeros_like(scores_BTE)
    .scatter(2, idx_BTk, 1)
    .mean([1])
    .mul(E / k);
  const p_BE = scores_BTE.div(scores_BTE.sum([-1], true)).mean([1]);
  return f_BE.mul(p_BE).sum([-1]).mean();
}

/** How many tokens chose each expert (int64). */
export const expertLoad = (idx_Nk: Tensor, { nRoutedExperts }: ModelConfig): Tensor =>
  idx_Nk.flatten().bincount(null, nRoutedExperts);

/**
 * Auxiliary-loss-free balancing, in place: b_i += u·(sign(e_i) − mean_j sign(e_j)), e_i = mean load − load_i. Removing the
 * mean is Moonlight's variant (arXiv 2502.16982, App. C): the biases do not drift together.
 */
export function updateRouterBias(bias_E: Tensor, load_E: Tensor, rate: number): void {
  const load = load_E.to("float32");
  const sign_E = load.mean().sub(load).sign();
  bias_E.add_(sign_E.sub(sign_E.mean()), { alpha: rate });
}
