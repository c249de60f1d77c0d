/** A step by one operator (massif::decode_step): rows in the order of their stretches, prompts absorbed too. */
import { type Tensor, torch } from "@massif/torch";
import type { ModelConfig, PackedModel } from "../model/index.ts";
import type { PagedCache } from "./cache.ts";
import type { StepResult, Stretch } from "./step.ts";

/** Writes the latents of all rows and returns the logits that are wanted. The tensors are the caller's to free. */
export function packedStep(
  packed: PackedModel,
  cache: PagedCache,
  stretches: readonly Stretch[],
  experts: boolean,
): StepResult {
  let wanted = 0;
  let row = 0;
  let highest = 0;
  const rows: number[] = [];
  const given = stretches.map(({ tokens, start, blocks, logits }) => {
    const count = logits === "all" ? tokens.length : logits === "last" ? 1 : 0;
    const used = Math.ceil((start + tokens.length) / cache.blockSize);
    for (let m = Math.floor(start / cache.blockSize); m < used; m++) highest = Math.max(highest, blocks[m]!);
    wanted += count;
    rows.push(row);
    row += tokens.length;
    return { tokens, start, blocks, wanted: count };
  });
  cache.touch(highest);
  const [logits, chosen] = packed.step(given, cache.all, cache.blockSize);
  return { logits: wanted ? logits : undefined, ...(experts && { experts: { chosen, rows } }) };
}

/** The final norm's rows of a text [T, D], beside the cache. */
export function packedHidden(packed: PackedModel, config: ModelConfig, ids: readonly number[]): Tensor {
  const { numHiddenLayers, kvLoraRank, qkRopeHeadDim } = config;
  const cache_LTW = torch.zeros([numHiddenLayers, ids.length, kvLoraRank + qkRopeHeadDim]);
  const stretch = { tokens: ids, start: 0, blocks: [0], wanted: ids.length };
  return packed.step([stretch], cache_LTW, ids.length, { hidden: true })[0];
}
