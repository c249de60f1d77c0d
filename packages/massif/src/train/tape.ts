/**
 * Forward through the blocks, then back through the same list. Each block gets a detached input; its graph is kept
 * (`keep`), or only its input is and the block runs again on the way back (`recompute`). This is the one seam at which
 * recompute, storage of activations and gradient reduction are decided; there are no hooks.
 */
import { type Tensor, torch } from "@massif/torch";
import type { Block, BlockOutput, Context } from "../model/index.ts";

export type Activations = "keep" | "recompute";

/** A weight that a block reads (a leaf that requires gradients), and where its gradient is added up. */
export interface Trained {
  weight: Tensor;
  grad: Tensor;
}

interface Kept {
  block: Block;
  context: Context;
  input: Tensor;
  output: BlockOutput | undefined;
}

export class Tape {
  readonly #policy: Activations;
  readonly #trained: readonly (readonly Trained[])[];
  readonly #kept: Kept[] = [];

  /** `trained[i]` are the weights of block i. */
  constructor(policy: Activations, trained: readonly (readonly Trained[])[]) {
    this.#policy = policy;
    this.#trained = trained;
  }

  /** Runs a block on x [B, T, D]; its output carries no graph that the caller could hold on to. */
  forward(block: Block, x_BTD: Tensor, context: Context): BlockOutput {
    const input = x_BTD.detach();
    input.requiresGrad = true;
    if (this.#policy === "recompute") {
      this.#kept.push({ block, context, input, output: undefined });
      return torch.noGrad(() => torch.tidy(() => block.forward(input, context)));
    }
    const output = torch.tidy(() => block.forward(input, context));
    this.#kept.push({ block, context, input, output });
    return output;
  }

  /** Takes dL/dy of the block that ran last, adds up its weights' gradients, and returns dL/dx. Frees what was kept. */
  backward(grad_BTD: Tensor): Tensor {
    const { block, context, input, output } = this.#kept.pop()!;
    const trained = this.#trained[block.index]!;
    return torch.tidy(() => {
      const { y_BTD, balance } = output ?? block.forward(input, context);
      const outputs = balance ? [y_BTD, balance] : [y_BTD];
      const gradOutputs = balance ? [grad_BTD, torch.ones_like(balance)] : [grad_BTD];
      const weights = trained.map(({ weight }) => weight);
      const [dx_BTD, ...dw] = torch.grad(outputs, [input, ...weights], { gradOutputs, allowUnused: true });
      accumulate(trained, dw);
      y_BTD.dispose();
      return dx_BTD!;
    });
  }
}

/** grad += d, outside of autograd; a weight that was not used has none. */
export function accumulate(trained: readonly Trained[], d: readonly (Tensor | null)[]): void {
  using _ = torch.noGrad();
  for (const [i, { grad }] of trained.entries()) if (d[i]) grad.add_(d[i]);
}
