/** From answers to what is learned: ids, the tokens that have a loss, and the log-probabilities they were sampled with. */
import type { Trajectory } from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import { type Example, layOut, type Rows } from "../train/index.ts";

export interface Sequence extends Example {
  advantage: number;
  /** For each token, log p as the rollout's engine told it; 0 where nothing is learned. */
  sampled: Float32Array;
  /** For each token, whether the weights of now wrote it: of these the trainer must say the same log p. */
  fresh: Uint8Array;
  /** For each token, the experts of each layer that the engine says it came from. */
  experts: (number[][] | undefined)[];
}

/**
 * What the model wrote is learned; of a partial rollout, written by other weights before `version`, nothing (`mask`: K1.5
 * computes only the current segment on-policy) or its log-ratio to when it was written (`ratio`). Throws `rl.tokens` for a
 * trajectory without ids and log-probabilities.
 */
export function sequenceOf(
  { id, tokens }: Trajectory,
  advantage: number,
  {
    version,
    stale = "mask",
    experts: told = [],
  }: { version?: number | string; stale?: "mask" | "ratio"; experts?: readonly (number[][] | undefined)[] } = {},
): Sequence {
  if (!tokens?.logprobs)
    throw new MassifError("rl.tokens", {
      found: `trajectory ${id} has no ${tokens ? "log-probabilities" : "token ids"}`,
      expected: "both: what is learned is what was sampled, never text that is tokenized again",
      fix: "roll out with a model that tells them: the engine, or a server with logprobs and return_token_ids",
    });
  const [learn, fresh] = [new Uint8Array(tokens.ids.length), new Uint8Array(tokens.ids.length)];
  const sampled = new Float32Array(tokens.ids.length);
  const experts: Sequence["experts"] = new Array(tokens.ids.length);
  let written = 0;
  for (const { start, end, weights } of tokens.turns) {
    for (let i = start; i < end; i++) experts[i] = told[written++];
    const isFresh = version === undefined || weights === version;
    if (isFresh) fresh.fill(1, start, end);
    if (!isFresh && stale === "mask") continue;
    learn.fill(1, start, end);
    for (let i = start; i < end; i++) sampled[i] = tokens.logprobs[i] ?? 0;
  }
  return { ids: Int32Array.from(tokens.ids), learn, advantage, sampled, fresh, experts };
}

/** Rows, and where their targets come from. */
export interface MicroBatch {
  rows: Rows;
  /** Of each target: its position in rows, its sequence, and its place in the sequence's ids. */
  at: Int32Array;
  sequence: Int32Array;
  token: Int32Array;
}

/** Sequences in micro-batches, what they begin with in common once. */
export function microBatches(sequences: readonly Example[], batch: { rows: number; seqLen: number }): MicroBatch[] {
  return layOut(sequences, sequences.keys(), batch).map(({ rows, places }) => {
    const [at, sequence, token]: number[][] = [[], [], []];
    for (const place of places) {
      const { ids, learn } = sequences[place.example]!;
      for (let t = place.from + 1; t < ids.length; t++) {
        if (!learn[t]) continue;
        at!.push(place.at + t - 1 - place.from);
        sequence!.push(place.example);
        token!.push(t);
      }
    }
    return { rows, at: Int32Array.from(at!), sequence: Int32Array.from(sequence!), token: Int32Array.from(token!) };
  });
}
