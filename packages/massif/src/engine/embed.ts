/** A text as one vector: the mean over its tokens of what the final norm gives, at unit length. */
import { torch } from "@massif/torch";
import { cacheType } from "../model/index.ts";
import type { Runtime } from "./runtime.ts";

/** float32 [D] of ids [T], over a cache of its own. */
export function embed({ model, steps }: Runtime, ids: readonly number[]): Float32Array {
  using _ = torch.scope();
  const { numHiddenLayers, kvLoraRank, qkRopeHeadDim } = model.config;
  const shape = [numHiddenLayers, ids.length, kvLoraRank + qkRopeHeadDim];
  const cache_LTW = torch.zeros(shape, { dtype: cacheType(model), device: model.device });
  const whole = { tokens: ids, start: 0, blocks: [0], wanted: ids.length };
  const [hidden_TD] = steps.step([whole], cache_LTW, ids.length, { hidden: true });
  const mean = hidden_TD.to("float32").mean([0]).toTypedArray() as Float32Array;
  const length = Math.hypot(...mean);
  return length > 0 ? mean.map((x) => x / length) : mean;
}
