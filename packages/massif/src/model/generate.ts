/** Text from a model, one token at a time, over the latent cache. */
import { torch } from "@massif/torch";
import type { Random } from "../common/index.ts";
import { decode, LatentCache } from "./decode.ts";
import type { Model } from "./model.ts";
import { type SamplingOptions, sample } from "./sample.ts";

export interface GenerateOptions extends SamplingOptions {
  maxNewTokens: number;
  /** Generation ends before these. */
  stop?: readonly number[];
  random: Random;
}

/** Yields the ids that follow `prompt` (at least one id). Stops at a stop id, or after `maxNewTokens`. */
export function* generate(
  model: Model,
  prompt: ArrayLike<number>,
  { maxNewTokens, stop = [], random, ...sampling }: GenerateOptions,
): Generator<number> {
  using cache = new LatentCache(model, 1, prompt.length + Math.min(maxNewTokens, 1024));
  let next = prompt;
  for (let n = 0; n < maxNewTokens; n++) {
    const logits = torch.tidy(() => decode([next], cache).to("float32").toTypedArray()) as Float32Array;
    const id = sample(logits, sampling, random);
    if (stop.includes(id)) return;
    yield id;
    next = [id];
  }
}

/** The likeliest continuation of a batch of prompts of equal length: [B][maxNewTokens] ids. */
export function generateGreedy(
  model: Model,
  prompts_BT: readonly ArrayLike<number>[],
  maxNewTokens: number,
): number[][] {
  using cache = new LatentCache(model, prompts_BT.length, prompts_BT[0]!.length + maxNewTokens);
  const out: number[][] = prompts_BT.map(() => []);
  let next = prompts_BT;
  for (let n = 0; n < maxNewTokens; n++) {
    const ids = torch.tidy(() => decode(next, cache).argmax(-1).toArray());
    for (const [b, id] of ids.entries()) out[b]!.push(id);
    next = ids.map((id) => [id]);
  }
  return out;
}
