/** What is told of an answer beside its text: tokens with their bytes and log-probabilities, and what became of the request. */
import type { ChatRequest, PromptLogprobs, TokenInfo, Trace } from "../../llm/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { Generation } from "../generation.ts";
import type { GeneratedToken, PromptToken } from "../request.ts";

const decoder = new TextDecoder();

export function tokenInfo(
  tokenizer: Tokenizer,
  { id, logprob, top, experts }: GeneratedToken,
  { logprobs, tokenIds }: ChatRequest,
): TokenInfo {
  const of = (id: number, logprob: number): TokenInfo => {
    const bytes = bytesOf(tokenizer, id);
    return {
      ...(tokenIds && { id }),
      text: decoder.decode(bytes),
      bytes: Array.from(bytes),
      ...(logprobs !== undefined && { logprob }),
    };
  };
  return {
    ...of(id, logprob),
    ...(top && { top: top.map((other) => of(other.id, other.logprob)) }),
    ...(experts && { experts }),
  };
}

/** Of a prompt's tokens, as vLLM tells them: each with the likeliest in its place; nothing of the first. */
export function promptLogprobs(tokenizer: Tokenizer, tokens: readonly PromptToken[]): PromptLogprobs {
  const row = (id: number, logprob: number, rank: number) =>
    [String(id), { logprob, rank, decoded_token: decoder.decode(bytesOf(tokenizer, id)) }] as const;
  return Array.from(tokens, (token) => {
    if (!token) return null;
    const { id, logprob, rank, top } = token;
    return Object.fromEntries([row(id, logprob, rank), ...top.map((t, i) => row(t.id, t.logprob, i + 1))]);
  });
}

/** None for the rows that a model's vocabulary has beyond its tokenizer's. */
const bytesOf = (tokenizer: Tokenizer, id: number): Uint8Array =>
  tokenizer.has(id) ? tokenizer.tokenBytes(id) : new Uint8Array();

/** Times since it arrived, and the sums of its choices. */
export function traceOf({ arrived, masks, ...trace }: Generation["trace"]): Trace {
  const after = (at: number | undefined) => (at === undefined ? undefined : at - arrived);
  const total = { asked: 0, computed: 0, forced: 0, milliseconds: 0 };
  for (const one of masks) for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += one[key];
  const { blocksFound, preemptions } = trace;
  const times = { admitted: after(trace.admitted), firstToken: after(trace.firstToken) };
  return withoutUndefined({ ...times, finished: after(trace.finished), blocksFound, preemptions, masks: total });
}

export const withoutUndefined = <T extends object>(given: T): { [K in keyof T]: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as never;
