/** `/v1/completions`: bare text or ids, for models whose tokens are made here (serving-and-agent.md §2.3). With `echo`,
 *  `logprobs` and `max_tokens: 0` it scores a text. */
import { z } from "zod";
import type { TokenInfo, Usage } from "../llm/index.ts";
import type { Backend, RawEvent, RawRequest } from "./backend.ts";
import { readFields } from "./body.ts";
import { type Head, usageBody } from "./chat-chunks.ts";
import { ApiError, invalid } from "./errors.ts";
import { fieldLimits, samplingFields, samplingOf } from "./fields.ts";
import { totalUsage } from "./service.ts";

const Ids = z.array(z.int().min(0)).min(1);
const CompletionBody = z.object({
  model: z.string(),
  prompt: z.union([z.string(), Ids, z.array(z.string()).min(1), z.array(Ids).min(1)]).default(""),
  ...samplingFields,
  max_tokens: z.int().min(0).default(16),
  n: z.int().min(1).max(fieldLimits.choices).default(1),
  best_of: z.literal(1, "only 1").optional(),
  suffix: z.literal("", "this model fills no gaps").optional(),
  echo: z.boolean().default(false),
  logprobs: z.int().min(0).max(20).optional(),
  stream: z.boolean().default(false),
  stream_options: z.object({ include_usage: z.boolean().nullish(), include_obfuscation: z.unknown() }).optional(),
  stop_token_ids: Ids.optional(),
  min_tokens: z.int().min(0).optional(),
  ignore_eos: z.boolean().default(false),
  return_token_ids: z.boolean().default(false),
  user: z.string().optional(),
});

export interface CompletionCall {
  model: string;
  stream: boolean;
  includeUsage: boolean;
  tokenIds: boolean;
  /** One a choice. */
  requests: RawRequest[];
  echo: boolean;
  backend: Backend;
  /** The first choice of each prompt counts it. */
  n: number;
}

/** Throws 400 that names the field. */
export function readCompletion(
  body: Record<string, unknown>,
  backend: Backend,
  options: { ignoreUnknown?: boolean } = {},
): CompletionCall {
  const fields = readFields(CompletionBody, body, options);
  const { format } = backend;
  if (!backend.raw || !format)
    throw new ApiError(400, "model: it takes conversations only (/v1/chat/completions)", { param: "model" });
  if (fields.stream_options && !fields.stream) throw invalid("stream_options", "only with stream: true");
  const { prompt, echo, logprobs } = fields;
  const prompts = typeof prompt === "string" || typeof prompt[0] === "number" ? [prompt] : prompt;
  if (prompts.length * fields.n > fieldLimits.choices)
    throw invalid("prompt", `${prompts.length} prompts and n ${fields.n}: at most ${fieldLimits.choices} choices`);
  const { tokenizer } = format;
  const end = tokenizer.special.get("[EOS]");
  const start = tokenizer.special.get("[BOS]");
  const sampling = { ...samplingOf(fields, fields.max_tokens), maxTokens: fields.max_tokens };
  const stopIds = [...(fields.stop_token_ids ?? []), ...(end !== undefined && !fields.ignore_eos ? [end] : [])];
  const requests = prompts.flatMap((given, p) => {
    const ids = typeof given === "string" ? Array.from(tokenizer.encode(given)) : (given as number[]);
    // Nothing to go on from: the token that begins texts.
    if (!ids.length && start !== undefined) ids.push(start);
    if (!ids.length) throw invalid("prompt", "empty");
    const bad = ids.find((id) => id >= tokenizer.vocabSize);
    if (bad !== undefined) throw invalid(`prompt[${p}]`, `there is no token ${bad}`);
    return Array.from({ length: fields.n }, (_, i): RawRequest => {
      const { seed } = sampling;
      return {
        prompt: ids,
        sampling: seed === undefined ? sampling : { ...sampling, seed: seed + i },
        ...(logprobs !== undefined && { logprobs, promptLogprobs: echo }),
        ...(stopIds.length && { stopIds }),
        ...(fields.min_tokens && { minTokens: fields.min_tokens }),
      };
    });
  });
  return {
    model: fields.model,
    stream: fields.stream,
    includeUsage: fields.stream_options?.include_usage ?? false,
    tokenIds: fields.return_token_ids,
    requests,
    echo,
    backend,
    n: fields.n,
  };
}

interface Logprobs {
  tokens: string[];
  token_logprobs: (number | null)[];
  top_logprobs: (Record<string, number> | null)[];
  text_offset: number[];
}

/** Events of a choice to its pieces. */
export class CompletionChoice {
  readonly #call: CompletionCall;
  readonly #request: RawRequest;
  readonly #index: number;
  #tokens: TokenInfo[] = [];
  #offset = 0;
  #begun = false;
  usage: Usage | undefined;

  constructor(call: CompletionCall, index: number) {
    this.#call = call;
    this.#request = call.requests[index]!;
    this.#index = index;
  }

  *push(event: RawEvent): Generator<Record<string, unknown>> {
    if (!this.#begun && event.type !== "prompt") {
      this.#begun = true;
      if (this.#call.echo && this.#request.logprobs === undefined) yield this.#piece(this.#prompt());
    }
    if (event.type === "prompt") {
      this.#begun = true;
      this.#tokens.push(...event.tokens);
      yield this.#piece(this.#prompt());
    } else if (event.type === "tokens") this.#tokens.push(...event.tokens);
    else if (event.type === "text") {
      if (event.text) yield this.#piece(event.text);
    } else if (event.type === "usage") this.usage = event.usage;
    else yield { ...this.#piece("", event.reason), stop_reason: event.stop ?? null };
  }

  #prompt(): string {
    return this.#call.backend.format!.tokenizer.decode(this.#request.prompt);
  }

  #piece(text: string, finish_reason: string | null = null): Record<string, unknown> {
    const tokens = this.#tokens;
    this.#tokens = [];
    const logprobs = this.#request.logprobs === undefined ? null : this.#logprobs(tokens);
    return {
      index: this.#index,
      text,
      logprobs,
      finish_reason,
      ...(this.#call.tokenIds && { token_ids: tokens.map(({ id }) => id) }),
    };
  }

  #logprobs(tokens: readonly TokenInfo[]): Logprobs {
    const told: Logprobs = { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
    for (const token of tokens) {
      told.tokens.push(nameOf(token));
      told.token_logprobs.push(token.logprob ?? null);
      const top = token.top?.map((other) => [nameOf(other), other.logprob ?? -9999] as const);
      told.top_logprobs.push(top?.length ? Object.fromEntries(top) : null);
      told.text_offset.push(this.#offset);
      this.#offset += (token.text ?? "").length;
    }
    return told;
  }
}

/** OpenAI's spelling of a token that is part of a character. */
const nameOf = ({ text, bytes }: Omit<TokenInfo, "top">): string =>
  text ?? `bytes:${(bytes ?? []).map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;

/** Pieces of one choice to the choice. */
function joined(pieces: readonly Record<string, unknown>[]): Record<string, unknown> {
  const logprobs = pieces.flatMap((piece) => (piece.logprobs as Logprobs | null) ?? []);
  const all = <K extends keyof Logprobs>(key: K) => logprobs.flatMap((one) => one[key] as unknown[]);
  return {
    ...pieces.at(-1),
    text: pieces.map(({ text }) => text).join(""),
    logprobs: logprobs.length
      ? {
          tokens: all("tokens"),
          token_logprobs: all("token_logprobs"),
          top_logprobs: all("top_logprobs"),
          text_offset: all("text_offset"),
        }
      : null,
    ...("token_ids" in (pieces[0] ?? {}) && { token_ids: pieces.flatMap(({ token_ids }) => token_ids) }),
  };
}

/** Each prompt counts once, whatever its choices. */
export function completionUsage(call: CompletionCall, usages: readonly (Usage | undefined)[]): Usage {
  const groups = Array.from({ length: usages.length / call.n }, (_, g) =>
    totalUsage(usages.slice(g * call.n, (g + 1) * call.n)),
  );
  return groups.reduce((sum, usage) => ({
    promptTokens: sum.promptTokens + usage.promptTokens,
    completionTokens: sum.completionTokens + usage.completionTokens,
    cachedTokens: (sum.cachedTokens ?? 0) + (usage.cachedTokens ?? 0),
  }));
}

export function completionChunk(head: Head, choices: readonly object[], more: object = {}): Record<string, unknown> {
  const { id, created, model, fingerprint } = head;
  return { id, object: "text_completion", created, model, system_fingerprint: fingerprint, choices, ...more };
}

export function completionAnswer(
  head: Head,
  call: CompletionCall,
  pieces: readonly (readonly Record<string, unknown>[])[],
  usages: readonly (Usage | undefined)[],
): Record<string, unknown> {
  return completionChunk(head, pieces.map(joined), { usage: usageBody(completionUsage(call, usages)) });
}
