/** AdamW for what is no matrix: embedding, head, gains. ATen's fused kernel, betas and epsilon of Moonlight's recipe. */
import { type Tensor, torch } from "@massif/torch";

export interface AdamWOptions {
  learningRate: number;
  weightDecay: number;
  betas: readonly [number, number];
  eps: number;
}

export interface AdamWState {
  /** First and second moments, shaped like the parameters. */
  m: Tensor[];
  v: Tensor[];
  /** Steps done, a float32 scalar for each parameter, as the kernel wants it. */
  step: Tensor[];
}

/** One step, in place on the parameters and the state. */
export function adamwStep(
  w: Tensor[],
  g: Tensor[],
  { m, v, step }: AdamWState,
  { learningRate, weightDecay, betas, eps }: AdamWOptions,
): void {
  for (const count of step) count.add_(1);
  torch._fused_adamw_(w, g, m, v, [], step, {
    lr: learningRate,
    beta1: betas[0],
    beta2: betas[1],
    weight_decay: weightDecay,
    eps,
    amsgrad: false,
    maximize: false,
  });
}
