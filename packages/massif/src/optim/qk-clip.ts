/**
 * QK-Clip (arXiv 2507.20534 §2.1, Algorithm 1; specification §3.5). After the optimizer's step, each head whose largest
 * softmax input S of this step's forward pass exceeds τ has its query and key weights scaled by γ = τ/S, so that every one
 * of its logits becomes γ times what it was: √γ on the parts without position (query and key), γ on the rotary query; the
 * rotary key is shared by all heads and is left alone. Heads below τ keep their bits. Momentum is not rescaled.
 */
import type { Tensor } from "@massif/torch";
import { MassifError } from "../common/index.ts";

/** Row layout of a layer's projections: q [H·(nope + rope), ·], kv [H·(nope + value), ·]. */
export interface QkRows {
  heads: number;
  nope: number;
  rope: number;
  value: number;
}

export interface ClippedHead {
  head: number;
  /** τ / S. */
  gamma: number;
}

/** The heads to clip and their γ, from one layer's maxima. Zero, negative and −∞ maxima ask for nothing. */
export function headsToClip(maxLogits_H: ArrayLike<number>, threshold: number): ClippedHead[] {
  const out: ClippedHead[] = [];
  for (let head = 0; head < maxLogits_H.length; head++) {
    const max = maxLogits_H[head]!;
    if (Number.isNaN(max) || max === Infinity) {
      throw new MassifError("optim.not-finite", {
        found: `the largest logit of head ${head} is ${max}`,
        expected: "a finite number",
        fix: "skip this step: its forward pass overflowed",
      });
    }
    if (max > threshold) out.push({ head, gamma: threshold / max });
  }
  return out;
}

/** Scales the rows of the given heads, in place. */
export function clipHeads(q: Tensor, kv: Tensor, clipped: readonly ClippedHead[], { nope, rope, value }: QkRows): void {
  for (const { head, gamma } of clipped) {
    const q_start = head * (nope + rope);
    q.narrow(0, q_start, nope).mul_(Math.sqrt(gamma));
    q.narrow(0, q_start + nope, rope).mul_(gamma);
    kv.narrow(0, head * (nope + value), nope).mul_(Math.sqrt(gamma));
  }
}
