/** `/v1/completions`: bare text or ids (serving-and-agent.md §2.3), on our engine, or passed on to an upstream. With `echo`,
 *  `logprobs` and `max_tokens: 0` it scores a text. */
import { z } from "zod";
import type { RawEvent, RawRequest, TokenInfo, Usage } from "../../llm/index.ts";
import { totalUsage } from "../answers.ts";
import type { Backend } from "../backend.ts";
import { readFields } from "../body.ts";
import { engineFields, engineRequest, engineSampling, upstreamFields, upstreamOnly } from "../engine-fields.ts";
import { ApiError, invalid } from "../errors.ts";
import { fieldLimits, samplingFields, samplingOf } from "../fields.ts";
import { type Head, usageBody } from "./chat-chunks.ts";

const Ids = z.array(z.int().min(0)).min(1);
const CompletionBody = z.object({
  model: z.string(),
  prompt: z.union([z.string(), Ids, z.array(z.string()).min(1), z.array(Ids).min(1)]).default(""),
  ...samplingFields,
  max_tokens: z.int().min(0).default(16),
  n: z.int().min(1).max(fieldLimits.choices).default(1),
  best_of: z.int().min(1).max(fieldLimits.choices).optional(),
  suffix: z.literal("", "this model fills no gaps").optional(),
  logprobs: z.int().min(0).max(20).optional(),
  stream: z.boolean().default(false),
  stream_options: z
    .object({ include_usage: z.boolean().nullish(), include_obfuscation: z.boolean().nullish() })
    .optional(),
  ...engineFields,
  echo: z.boolean().default(false),
  prompt_logprobs: z.undefined("echo and logprobs tell them here").optional(),
  ...upstreamFields,
  user: z.string().optional(),
});

interface CompletionCall {
  model: string;
  stream: boolean;
  includeUsage: boolean;
  tokenIds: boolean;
  tokensAsIds: boolean;
  /** Whether log-probabilities are told; to choose among candidates they are always asked for. */
  tellsLogprobs: boolean;
  /** One a candidate. */
  requests: RawRequest[];
  echo: boolean;
  backend: Backend;
  /** Choices of each prompt, and the candidates that they are the likeliest of. */
  n: number;
  candidates: number;
}

/** Throws 400 that names the field. */
export function readCompletion(
  body: Record<string, unknown>,
  backend: Backend,
  options: { ignoreUnknown?: boolean } = {},
): CompletionCall {
  const fields = readFields(CompletionBody, body, options);
  const extra = upstreamOnly(body, backend);
  if (!backend.raw)
    throw new ApiError(400, "model: it takes conversations only (/v1/chat/completions)", { param: "model" });
  if (fields.stream_options && !fields.stream) throw invalid("stream_options", "only with stream: true");
  const { prompt, echo, logprobs, n } = fields;
  const candidates = fields.best_of ?? n;
  if (candidates < n) throw invalid("best_of", `${candidates} candidates for n ${n}`);
  if (candidates > n && fields.stream) throw invalid("best_of", "only with a whole answer (stream: false)");
  const one = typeof prompt === "string" || typeof prompt[0] === "number";
  const prompts = (one ? [prompt] : prompt) as (string | number[])[];
  if (prompts.length * candidates > fieldLimits.choices)
    throw invalid("prompt", `${prompts.length} prompts and n ${candidates}: at most ${fieldLimits.choices} choices`);
  const tokensAsIds = fields.return_tokens_as_token_ids ?? false;
  if (tokensAsIds && backend.passesFields) extra.return_tokens_as_token_ids = true;
  const sampling = {
    ...samplingOf(fields, fields.max_tokens),
    ...engineSampling(fields, fields.max_tokens),
    maxTokens: fields.max_tokens,
  };
  const asked = logprobs ?? (candidates > n ? 0 : undefined);
  const { promptLogprobs: _, ...queue } = engineRequest(fields, fields.stream);
  const requests = prompts.flatMap((given, p) => {
    const shared = {
      prompt: backend.rawUpstream ? given : idsOf(given, backend, p),
      ...(asked !== undefined && { logprobs: asked, promptLogprobs: echo }),
      ...(echo && { echo }),
      ...(fields.return_token_ids && { tokenIds: true }),
      ...queue,
      ...(Object.keys(extra).length && { extra }),
    };
    return Array.from({ length: candidates }, (_, i): RawRequest => {
      const { seed } = sampling;
      return { ...shared, sampling: seed === undefined ? sampling : { ...sampling, seed: seed + i } };
    });
  });
  return {
    model: fields.model,
    stream: fields.stream,
    includeUsage: fields.stream_options?.include_usage ?? false,
    tokenIds: fields.return_token_ids ?? false,
    tellsLogprobs: logprobs !== undefined,
    ...{ tokensAsIds, requests, echo, backend, n, candidates },
  };
}

/** Throws 400 for what are no tokens. */
function idsOf(given: string | readonly number[], { format }: Backend, p: number): readonly number[] {
  const { tokenizer } = format!;
  const ids = typeof given === "string" ? Array.from(tokenizer.encode(given)) : [...given];
  const start = tokenizer.special.get("[BOS]");
  // Nothing to go on from: the token that begins texts.
  if (!ids.length && start !== undefined) ids.push(start);
  if (!ids.length) throw invalid("prompt", "empty");
  const bad = ids.find((id) => id >= tokenizer.vocabSize);
  if (bad !== undefined) throw invalid(`prompt[${p}]`, `there is no token ${bad}`);
  return ids;
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
  #score = { sum: 0, tokens: 0 };
  usage: Usage | undefined;

  constructor(call: CompletionCall, index: number) {
    this.#call = call;
    this.#request = call.requests[index]!;
    this.#index = index;
  }

  /** Mean log-probability of its tokens. */
  get score(): number {
    return this.#score.tokens ? this.#score.sum / this.#score.tokens : -Infinity;
  }

  *push(event: RawEvent): Generator<Record<string, unknown>> {
    if (!this.#begun && event.type !== "prompt") {
      this.#begun = true;
      // An upstream begins its text with it itself.
      const upstream = this.#call.backend.rawUpstream;
      if (this.#call.echo && !upstream && this.#request.logprobs === undefined) yield this.#piece(this.#prompt());
    }
    if (event.type === "prompt") {
      this.#begun = true;
      this.#tokens.push(...event.tokens);
      yield this.#piece(this.#prompt());
    } else if (event.type === "tokens") {
      this.#tokens.push(...event.tokens);
      for (const { logprob = 0 } of event.tokens) this.#score.sum += logprob;
      this.#score.tokens += event.tokens.length;
    } else if (event.type === "text") {
      if (event.text) yield this.#piece(event.text);
    } else if (event.type === "usage") this.usage = event.usage;
    else yield { ...this.#piece("", event.reason), stop_reason: event.stop ?? null };
  }

  #prompt(): string {
    const { prompt } = this.#request;
    if (typeof prompt === "string") return prompt;
    // An upstream's tokens tell their texts, where its tokenizer is not here.
    return this.#call.backend.format?.tokenizer.decode(prompt) ?? this.#tokens.map(({ text = "" }) => text).join("");
  }

  #piece(text: string, finish_reason: string | null = null): Record<string, unknown> {
    const tokens = this.#tokens;
    this.#tokens = [];
    const logprobs = this.#call.tellsLogprobs ? this.#logprobs(tokens) : null;
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
      const nameOf = (one: Omit<TokenInfo, "top">) => (this.#call.tokensAsIds ? `token_id:${one.id}` : spelling(one));
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
const spelling = ({ text, bytes }: Omit<TokenInfo, "top">): string =>
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
  const of = call.candidates;
  const groups = Array.from({ length: usages.length / of }, (_, g) => totalUsage(usages.slice(g * of, (g + 1) * of)));
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

/** The answer: of each prompt's candidates the likeliest by token. */
export function completionAnswer(
  head: Head,
  call: CompletionCall,
  pieces: readonly (readonly Record<string, unknown>[])[],
  choices: readonly CompletionChoice[],
): Record<string, unknown> {
  const usage = completionUsage(
    call,
    choices.map((choice) => choice.usage),
  );
  const { n, candidates } = call;
  const kept = Array.from({ length: choices.length / candidates }, (_, p) => {
    const own = Array.from({ length: candidates }, (_, i) => p * candidates + i);
    return own.toSorted((a, b) => choices[b]!.score - choices[a]!.score || a - b).slice(0, n);
  }).flat();
  const shown = candidates === n ? [...choices.keys()] : kept;
  return completionChunk(
    head,
    shown.map((from, index) => ({ ...joined(pieces[from]!), index })),
    { usage: usageBody(usage) },
  );
}
