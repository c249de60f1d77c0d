/** Advantages of the K answers to one task, from their rewards. All are zero where all rewards are equal. */

export type Advantage = (rewards: readonly number[]) => number[];

const meanOf = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

/** r − r̄ (K1.5, K2, Dr.GRPO). */
export const mean: Advantage = (rewards) => {
  const baseline = meanOf(rewards);
  return rewards.map((r) => r - baseline);
};

/** r − mean of the others = (r − r̄)·K/(K − 1): a baseline that the answer itself is no part of (RLOO, 2402.14740). */
export const leaveOneOut: Advantage = (rewards) => {
  const scale = rewards.length > 1 ? rewards.length / (rewards.length - 1) : 0;
  return mean(rewards).map((a) => a * scale);
};

/** (r − r̄)/std with the sample's standard deviation (GRPO, 2402.03300). */
export const standardized: Advantage = (rewards) => {
  const centred = mean(rewards);
  const std = Math.sqrt(centred.reduce((sum, a) => sum + a * a, 0) / Math.max(1, rewards.length - 1));
  return centred.map((a) => (std > 0 ? a / (std + 1e-6) : 0));
};

/** Whether the answers differ in reward by more than rounding: only then is there anything to learn from them. */
export const hasSignal = (rewards: readonly number[]): boolean => Math.max(...rewards) - Math.min(...rewards) > 1e-9;
