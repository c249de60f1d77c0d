/**
 * The products of a step, in two ways.
 *
 * `fast`: what training runs, in any dtype, on any device. A row's result may depend on its mates in the last bits.
 * `exact`: our own product (native/ops/gemm.h), whose sums run in one order whatever the other rows, the padding and the
 * threads: the same request gives the same bits alone or in a batch, cached or not, chunked or whole, preempted or not.
 * Attention over the cache (massif::mla_decode), norms, top-k and experts work row by row already.
 */
import { runsFused, type Tensor, torch } from "@massif/torch";
import { MassifError } from "../common/index.ts";
import { linear, type Model } from "../model/index.ts";

export interface Numerics {
  exact: boolean;
  /** x·Wᵀ of rows x and a weight [out, in]. */
  linear(x: Tensor, w: Tensor): Tensor;
  sigmoid(x: Tensor): Tensor;
}

const ownLinear = (x: Tensor, w: Tensor): Tensor => torch.ops.massif.linear(x, w) as Tensor;

const exact: Numerics = {
  exact: true,
  linear: ownLinear,
  // ATen computes the last few elements of a tensor by another exp than the others; softmax goes row by row.
  sigmoid: (x) =>
    torch
      .stack([x, torch.zeros_like(x)], -1)
      .softmax(-1)
      .select(-1, 0),
};

const fast: Numerics = {
  exact: false,
  linear,
  sigmoid: (x) => x.sigmoid(),
};

/** Throws `engine.exact` where the exact way is wanted and there is none. */
export function numerics(model: Model, wantExact: boolean): Numerics {
  const weight = model.parameter("lm_head.weight");
  if (!wantExact) return fast;
  if (!runsFused(weight))
    throw new MassifError("engine.exact", {
      found: `exact: true with weights in ${weight.dtype} on ${weight.device}`,
      expected: "float32 on the CPU, with Massif's own operators (not MASSIF_OPS=plain)",
      fix: "load with dtype float32, or leave exact out",
    });
  return exact;
}
