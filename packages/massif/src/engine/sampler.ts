/**
 * Choosing the next tokens of a batch. Whatever is the same for a whole row (softmax, the largest, log-probabilities) is
 * computed by tensor operators over all rows; what a request alone asks for, on typed arrays of its own row.
 */
import { type Tensor, torch } from "@massif/torch";
import type { Choice as Drawn } from "../model/index.ts";
import type { Choice } from "./choice.ts";
import type { Generation } from "./generation.ts";
import type { GenerateRequest, Likely } from "./request.ts";

export interface Pick {
  choice: Choice;
  /** Of the logits; choices that share a prompt share its row. */
  row: number;
}

export interface Picked extends Likely {
  sampledLogprob: number;
  top?: Likely[];
}

/** The token of each pick from logits float32 [rows, C], or the error that kept it from being drawn. `never` (int64) are
 *  tokens that may not come: the logits are changed, the log-probabilities told (of `told_NC`) are not. */
export function pickTokens(
  logits_NC: Tensor,
  picks: readonly Pick[],
  never?: Tensor,
  told_NC = logits_NC,
): (Picked | Error)[] {
  using _ = torch.scope();
  const logprobs_MC = rowsOf(
    told_NC,
    picks.map(({ row }) => row),
  ).log_softmax(-1);
  if (never) logits_NC.index_fill_(1, never, -Infinity);
  const drawn = new Array<Drawn | Error>(picks.length);
  const where = (test: (choice: Choice) => boolean) =>
    picks
      .keys()
      .filter((i) => test(picks[i]!.choice))
      .toArray();

  const greedy = where((choice) => choice.greedy && !choice.adjusted);
  if (greedy.length) {
    const ids = logits_NC.argmax(-1).toArray();
    for (const i of greedy) drawn[i] = { id: ids[picks[i]!.row]!, logprob: 0 };
  }
  const plain = where((choice) => !choice.greedy && !choice.adjusted);
  if (plain.length) {
    const cold = torch.tensor(
      plain.map((i) => 1 / picks[i]!.choice.temperature),
      { dtype: "float32", device: logits_NC.device },
    );
    const rows = rowsOf(
      logits_NC,
      plain.map((i) => picks[i]!.row),
    );
    const weights = rows.mul(cold.unsqueeze(1)).softmax(-1).toTypedArray() as Float32Array;
    const C = weights.length / plain.length;
    for (const [at, i] of plain.entries())
      drawn[i] = attempt(() => picks[i]!.choice.drawFrom(weights.subarray(at * C, (at + 1) * C)));
  }
  for (const i of where((choice) => choice.adjusted)) {
    const { choice, row } = picks[i]!;
    drawn[i] = attempt(() => choice.pick(logits_NC.select(0, row).toTypedArray() as Float32Array));
  }

  const ids = BigInt64Array.from(drawn, (d) => BigInt(d instanceof Error ? 0 : d.id));
  const at = torch.tensor(ids, { shape: [ids.length, 1], device: logits_NC.device });
  const logprobs = logprobs_MC.gather(1, at).toArray();
  return drawn.map((d, i) => {
    if (d instanceof Error) return d;
    const n = picks[i]!.choice.request.topLogprobs;
    const top = n ? likeliest(logprobs_MC.select(0, i), n) : undefined;
    return { id: d.id, logprob: logprobs[i]!, sampledLogprob: d.logprob, ...(top && { top }) };
  });
}

function rowsOf(x_NC: Tensor, rows: readonly number[]): Tensor {
  if (rows.length === x_NC.shape[0] && rows.every((row, i) => row === i)) return x_NC;
  return x_NC.index_select(0, torch.tensor(Int32Array.from(rows), { device: x_NC.device }));
}

function likeliest(logprobs_C: Tensor, n: number): Likely[] {
  const [values, ids] = logprobs_C.topk(n);
  const [logprobs, at] = [values.toArray(), ids.toArray()];
  return at.map((id, i) => ({ id, logprob: logprobs[i]! }));
}

/** Log-probabilities of the prompt's tokens after `from`, from the logits of rows from `from` on. */
export function tellPrompt(
  generation: Generation,
  logits_TC: Tensor,
  tokens: readonly number[],
  from: number,
  { topPromptLogprobs }: GenerateRequest,
): void {
  const n = Math.min(logits_TC.shape[0]!, generation.promptTokens - 1 - from);
  if (n <= 0) return;
  using _ = torch.scope();
  const ids = tokens.slice(from + 1, from + 1 + n);
  const next_T1 = torch.tensor(BigInt64Array.from(ids, BigInt), { shape: [n, 1], device: logits_TC.device });
  const logprobs_TC = logits_TC.narrow(0, 0, n).log_softmax(-1);
  const own_T1 = logprobs_TC.gather(1, next_T1);
  const told = own_T1.toTypedArray() as Float32Array;
  generation.promptLogprobs!.set(told, from + 1);
  if (topPromptLogprobs === undefined) return;
  const above = logprobs_TC.gt(own_T1).sum(-1).toArray();
  for (const [i, id] of ids.entries()) {
    const top = topPromptLogprobs ? likeliest(logprobs_TC.select(0, i), topPromptLogprobs) : [];
    generation.promptTokensSeen![from + 1 + i] = { id, logprob: told[i]!, rank: 1 + above[i]!, top };
  }
}

export function attempt<T>(work: () => T): T | Error {
  try {
    return work();
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
}
