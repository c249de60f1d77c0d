/**
 * Exact products: the same request gives the same bits alone or in a batch, cached or not, chunked or whole, preempted or
 * not. One operator a step (`PackedModel`) sums in one order by itself. On the path through the blocks linear is our own
 * product (native/ops/gemm.h), whose sums run in one order whatever the other rows, the padding and the threads; attention
 * over the cache (massif::mla_decode), norms, router and experts work row by row already. As training runs them, a row's
 * result may depend on its mates in the last bits.
 */
import { runsFused, type Tensor, torch } from "@massif/torch";
import { MassifError } from "../common/index.ts";
import type { Model, Products } from "../model/index.ts";

const exact: Pick<Products, "linear"> = { linear: (x, w) => torch.ops.massif.linear(x, w) as Tensor };

/** Throws `engine.exact` where there are none. */
export function exactProducts(model: Model): Pick<Products, "linear"> {
  const weight = model.parameter("lm_head.weight");
  if (!runsFused(weight))
    throw new MassifError("engine.exact", {
      found: `exact: true with weights in ${weight.dtype} on ${weight.device}`,
      expected: "float32 on the CPU, with Massif's own operators (not MASSIF_OPS=plain)",
      fix: "load with dtype float32, or leave exact out",
    });
  return exact;
}
