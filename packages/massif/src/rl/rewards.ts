/**
 * From verdicts to rewards, one component each: the verifier's outcome, K2's budget penalty (arXiv 2507.20534 §3.2.3) K1.5's
 * length reward (2501.12599 §2.3.3), the critic's ranking. Each is a number for every answer of a group.
 */
import type { RlRecipe } from "./recipe.ts";
import type { Answer } from "./rollouts.ts";

export interface RewardOptions {
  /** Taken off an answer that was cut at its budget. */
  budgetPenalty: number;
  /** Weight of the length reward. */
  lengthWeight: number;
  criticWeight: number;
}

/** The recipe's, at a step. */
export const weightsAt = ({ budget, length, critic }: RlRecipe, step: number): RewardOptions => ({
  budgetPenalty: budget.penalty,
  lengthWeight: step > length.warmup ? length.weight : 0,
  criticWeight: critic.weight,
});

/** λ = ½ − (len − min)/(max − min) for a right answer, min(0, λ) for a wrong one; 0 where all are of one length. */
export function lengthRewards(answers: readonly { length: number; success: boolean }[]): number[] {
  const lengths = answers.map(({ length }) => length);
  const [least, most] = [Math.min(...lengths), Math.max(...lengths)];
  if (least === most) return answers.map(() => 0);
  return answers.map(({ length, success }) => {
    const lambda = 0.5 - (length - least) / (most - least);
    return success ? lambda : Math.min(0, lambda);
  });
}

/** The components of each answer of a group; their sum is its reward. What is 0 by its weight is left out. */
export function rewardsOf(
  answers: readonly Pick<Answer, "outcome" | "length" | "truncated" | "rank">[],
  { budgetPenalty, lengthWeight, criticWeight }: RewardOptions,
): Record<string, number>[] {
  const byLength = lengthWeight
    ? lengthRewards(answers.map(({ outcome, length }) => ({ length, success: outcome === 1 })))
    : [];
  return answers.map(({ outcome, truncated, rank = 0 }, i) => ({
    outcome,
    ...(budgetPenalty && { budget: truncated ? -budgetPenalty : 0 }),
    ...(lengthWeight && { length: lengthWeight * byLength[i]! }),
    ...(criticWeight && { critic: criticWeight * rank }),
  }));
}

export const totalOf = (components: Record<string, number>): number =>
  Object.values(components).reduce((a, b) => a + b, 0);
