/**
 * Choosing the next tokens of a batch: the likeliest or a draw at a temperature, held to masks, by one operator for all
 * rows, with the log-probabilities; what a request alone asks for (filters, penalties) on a typed array of its own row.
 */
import { pick, type Tensor, torch } from "@massif/torch";
import { MassifError } from "../common/index.ts";
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
 *  tokens that may not come; the log-probabilities told are the model's own all the same. */
export function pickTokens(logits_NC: Tensor, picks: readonly Pick[], never?: Tensor): (Picked | Error)[] {
  using _ = torch.scope();
  const onCpu_NC = logits_NC.device === "cpu" ? logits_NC : logits_NC.to("cpu");
  const barred = never && never.device !== "cpu" ? never.to("cpu") : never;
  const rowOf = (row: number) => onCpu_NC.select(0, row);
  // What a request alone asks for is drawn here; the rest, and what is told of all, by one operator.
  const drawn = picks.map(({ choice, row }) => {
    if (!choice.adjusted && choice.plain) return undefined;
    return attempt(() => {
      const logits = torch.tidy(() =>
        (barred ? rowOf(row).index_fill(0, barred, -Infinity) : rowOf(row)).toTypedArray(),
      );
      return choice.pick(logits as Float32Array);
    });
  });
  const masks = picks.flatMap(({ choice }, i) => (drawn[i] === undefined && choice.mask ? [choice.mask] : []));
  const wishes = new Float64Array(5 * picks.length);
  let masked = 0;
  for (const [i, { choice, row }] of picks.entries()) {
    const own = drawn[i];
    const given = own === undefined ? -1 : own instanceof Error ? 0 : own.id;
    const mask = own === undefined && choice.mask ? masked++ : -1;
    wishes.set([row, given, choice.temperature, own || choice.greedy ? 0 : choice.uniform(), mask], 5 * i);
  }
  const found = pick(onCpu_NC, torch.tensor(wishes, { shape: [picks.length, 5] }), {
    ...(barred && { never: barred }),
    ...(masks.length && { masks: stacked(masks) }),
  }).toTypedArray() as Float64Array;
  return picks.map(({ choice, row }, i) => {
    const own = drawn[i];
    if (own instanceof Error) return own;
    const [id, logprob, sampledLogprob] = found.subarray(3 * i, 3 * i + 3) as unknown as [number, number, number];
    if (id < 0) return nothing();
    const n = choice.request.topLogprobs;
    const top = n ? torch.tidy(() => likeliest(rowOf(row).log_softmax(-1), n)) : undefined;
    return { id, logprob, sampledLogprob: own?.logprob ?? sampledLogprob, ...(top && { top }) };
  });
}

/** int32 [M, W]; shorter masks bar what they do not reach. */
function stacked(masks: readonly Uint32Array[]): Tensor {
  const W = Math.max(...masks.map(({ length }) => length));
  const words = new Uint32Array(masks.length * W);
  for (const [m, mask] of masks.entries()) words.set(mask, m * W);
  return torch.tensor(new Int32Array(words.buffer), { shape: [masks.length, W] });
}

const nothing = () =>
  new MassifError("sample.nothing", {
    found: "no token with a probability above zero",
    expected: "logits that are numbers, and at least one token that may come",
  });

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
