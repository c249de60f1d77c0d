/** A text as one vector: the mean over its tokens of what the final norm gives, at unit length. */
import { torch } from "@massif/torch";
import { packedHidden } from "./packed-step.ts";
import type { Runtime } from "./runtime.ts";

/** float32 [D] of ids [T], on a path of its own beside the cache. */
export function embed({ model, blocks, packed }: Runtime, ids: readonly number[]): Float32Array {
  using _ = torch.scope();
  using __ = torch.noGrad();
  if (packed) return unit(packedHidden(packed, model.config, ids).mean([0]).toTypedArray() as Float32Array);
  const context = model.context(ids.length);
  let x_1TD = model.embed(torch.tensor(Int32Array.from(ids), { shape: [1, ids.length], device: model.device }));
  for (const block of blocks) x_1TD = torch.tidy(() => block.forward(x_1TD, context).y_BTD);
  const mean_D = model.finalNorm(x_1TD).to("float32").mean([1]).squeeze(0);
  return unit(mean_D.toTypedArray() as Float32Array);
}

/** At length 1. */
function unit(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((x) => x / length) : vector;
}
