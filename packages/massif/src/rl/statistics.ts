/** What groups of answers say of a policy: unbiased estimates from `wins` of `n` samples of one task (2107.03374). */

/** 1 − C(n − c, k)/C(n, k): at least one of k succeeds. */
export function passAtK(wins: number, n: number, k: number): number {
  if (n - wins < k) return 1;
  let none = 1;
  for (let i = 0; i < k; i++) none *= (n - wins - i) / (n - i);
  return 1 - none;
}

/** C(c, k)/C(n, k): all of k succeed (τ-bench's pass^k). */
export function passHatK(wins: number, n: number, k: number): number {
  let all = 1;
  for (let i = 0; i < k; i++) all *= Math.max(0, wins - i) / (n - i);
  return all;
}

export const meanOf = (values: readonly number[]): number =>
  values.length ? values.reduce((a, b) => a + b, 0) / values.length : 0;

export const shareOf = <T>(items: readonly T[], test: (item: T) => boolean): number =>
  items.length ? items.filter(test).length / items.length : 0;
