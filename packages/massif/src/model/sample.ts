/** Choosing the next token from logits: temperature, then top-k, top-p and min-p, then one draw. */
import type { Random } from "../common/index.ts";

export interface SamplingOptions {
  /** 0 takes the likeliest token. */
  temperature?: number;
  /** Only the k likeliest. */
  topK?: number;
  /** Only the likeliest that together reach this probability. */
  topP?: number;
  /** Only tokens at least this share as likely as the likeliest. */
  minP?: number;
}

/** The index of the largest; of equals the first. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** A token drawn from softmax(logits / temperature) over what the filters leave. */
export function sample(
  logits: Float32Array,
  { temperature = 1, topK, topP, minP }: SamplingOptions,
  random: Random,
): number {
  if (temperature === 0) return argmax(logits);
  const top = logits[argmax(logits)]!;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - top) / temperature));
  let kept: ArrayLike<number> = { length: weights.length };
  if (topK !== undefined || topP !== undefined) {
    const order = Array.from(weights.keys()).sort((a, b) => weights[b]! - weights[a]! || a - b);
    const enough = (topP ?? 1) * weights.reduce((a, b) => a + b, 0);
    let sum = 0;
    let n = 0;
    while (n < Math.min(topK ?? Infinity, order.length) && (n === 0 || sum < enough)) sum += weights[order[n++]!]!;
    kept = order.slice(0, n);
  }
  const at = (i: number) => kept[i] ?? i;
  const weight = (i: number) => (weights[at(i)]! >= (minP ?? 0) ? weights[at(i)]! : 0);
  let total = 0;
  for (let i = 0; i < kept.length; i++) total += weight(i);
  let rest = random.float() * total;
  let last = 0;
  for (let i = 0; i < kept.length; i++) {
    if (weight(i) === 0) continue;
    last = at(i);
    if ((rest -= weight(i)) < 0) break;
  }
  return last;
}
