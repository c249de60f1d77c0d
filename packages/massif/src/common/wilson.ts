/** A share with its bounds. */
export interface Interval {
  value: number;
  low: number;
  high: number;
}

/** Wilson's score interval of `wins` of `n` (Wilson 1927); 95 % by default. Without any trial it is the whole of [0, 1]. */
export function wilson(wins: number, n: number, z = 1.959964): Interval {
  if (n === 0) return { value: 0, low: 0, high: 1 };
  const p = wins / n;
  const denominator = 1 + z ** 2 / n;
  const centre = (p + z ** 2 / (2 * n)) / denominator;
  const half = (z / denominator) * Math.sqrt((p * (1 - p)) / n + z ** 2 / (4 * n ** 2));
  return { value: p, low: wins ? Math.max(0, centre - half) : 0, high: wins < n ? Math.min(1, centre + half) : 1 };
}
