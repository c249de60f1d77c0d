/** The OpenAI protocol as it is on the wire: what we ask, and what is read of an answer. Reading is tolerant: engines
 *  leave fields out, put null, or name them otherwise (serving-and-agent.md §2, §3, §5). */
import { z } from "zod";
import { declaredTools, type Message } from "../chat/index.ts";
import type { Usage } from "./model.ts";
import type { ChatRequest, Sampling } from "./request.ts";

const text = z.string().nullish();
const count = z.number().nullish();

const UsageShape = z
  .object({
    prompt_tokens: count,
    completion_tokens: count,
    cached_tokens: count,
    prompt_tokens_details: z.object({ cached_tokens: count }).nullish(),
    completion_tokens_details: z.object({ reasoning_tokens: count }).nullish(),
  })
  .nullish();
export type UsageShape = z.output<typeof UsageShape>;

const Likely = z.object({
  token: text,
  logprob: count,
  bytes: z.array(z.number()).nullish(),
  // llama.cpp tells it here.
  id: count,
});
export type Likely = z.output<typeof Likely>;

const CallShape = z.object({
  index: count,
  id: text,
  function: z
    .object({ name: text, arguments: z.union([z.string(), z.record(z.string(), z.unknown())]).nullish() })
    .nullish(),
});
export type CallShape = z.output<typeof CallShape>;

const DeltaShape = z
  .object({
    content: z.union([z.string(), z.array(z.object({ text }))]).nullish(),
    reasoning_content: text,
    reasoning: text,
    refusal: text,
    tool_calls: z.array(CallShape).nullish(),
    function_call: CallShape.shape.function,
  })
  .nullish();
export type DeltaShape = z.output<typeof DeltaShape>;

const shared = {
  index: count,
  finish_reason: text,
  /** vLLM: the stop string, or the id of the stop token. */
  stop_reason: z.union([z.string(), z.number()]).nullish(),
  token_ids: z.array(z.number()).nullish(),
  prompt_token_ids: z.array(z.number()).nullish(),
  usage: UsageShape,
};

/** vLLM's: of every token of the prompt, by id, its own log-probability and those of the likeliest; null for the first. */
export const PromptLogprobs = z.array(
  z
    .record(
      z.string(),
      z.object({ logprob: z.number(), rank: z.number().nullish(), decoded_token: z.string().nullish() }),
    )
    .nullable(),
);
export type PromptLogprobs = z.output<typeof PromptLogprobs>;

const head = {
  prompt_logprobs: PromptLogprobs.nullish(),
  id: text,
  model: text,
  usage: UsageShape,
  prompt_token_ids: z.array(z.number()).nullish(),
  weight_version: z.union([z.string(), z.number()]).nullish(),
};

/** A chunk of a stream (`delta`), or a whole answer (`message`). */
export const ChatChunk = z.object({
  ...head,
  choices: z
    .array(
      z.object({
        ...shared,
        delta: DeltaShape,
        message: DeltaShape,
        logprobs: z
          .object({ content: z.array(Likely.extend({ top_logprobs: z.array(Likely).nullish() })).nullish() })
          .nullish(),
      }),
    )
    .nullish(),
});
export type ChatChunk = z.output<typeof ChatChunk>;

export const CompletionChunk = z.object({
  ...head,
  choices: z
    .array(
      z.object({
        ...shared,
        text,
        logprobs: z
          .object({
            tokens: z.array(z.string()).nullish(),
            token_logprobs: z.array(z.number().nullable()).nullish(),
            top_logprobs: z.array(z.record(z.string(), z.number()).nullable()).nullish(),
            text_offset: z.array(z.number()).nullish(),
          })
          .nullish(),
      }),
    )
    .nullish(),
});
export type CompletionChunk = z.output<typeof CompletionChunk>;

/** Usage in our words; undefined where nothing is counted. */
export function readUsage(usage: UsageShape): Usage | undefined {
  if (usage?.prompt_tokens == null && usage?.completion_tokens == null) return undefined;
  const cached = usage.prompt_tokens_details?.cached_tokens ?? usage.cached_tokens;
  const reasoning = usage.completion_tokens_details?.reasoning_tokens;
  return {
    promptTokens: usage.prompt_tokens ?? 0,
    completionTokens: usage.completion_tokens ?? 0,
    ...(cached != null && { cachedTokens: cached }),
    ...(reasoning != null && { reasoningTokens: reasoning }),
  };
}

/** Sampling as OpenAI, vLLM, SGLang and llama.cpp name it; what is not asked for is not sent. */
export function writeSampling(sampling: Sampling = {}, maxTokensKey = "max_tokens"): Record<string, unknown> {
  return {
    temperature: sampling.temperature,
    top_p: sampling.topP,
    top_k: sampling.topK,
    min_p: sampling.minP,
    repetition_penalty: sampling.repetitionPenalty,
    presence_penalty: sampling.presencePenalty,
    frequency_penalty: sampling.frequencyPenalty,
    logit_bias: sampling.logitBias,
    seed: sampling.seed,
    stop: sampling.stop?.length ? sampling.stop : undefined,
    include_stop_str_in_output: sampling.includeStop,
    stop_token_ids: sampling.stopIds,
    ignore_eos: sampling.ignoreEnd,
    min_tokens: sampling.minTokens,
    allowed_token_ids: sampling.allowedIds,
    bad_words: sampling.badWords,
    [maxTokensKey]: sampling.maxTokens,
  };
}

/** The body of `/chat/completions`, without model and stream. */
export function writeChat(request: ChatRequest, maxTokensKey?: string): Record<string, unknown> {
  const { toolChoice, responseFormat, reasoning, tools } = request;
  const { response_format, structured_outputs } = writeFormat(responseFormat);
  const thinking = reasoning?.enabled ?? (reasoning?.keep ? true : undefined);
  return {
    messages: request.messages.map(writeMessage),
    ...(tools?.length && { tools }),
    ...(declaredTools(request).length && {
      tool_choice: typeof toolChoice === "object" ? { type: "function", function: toolChoice } : toolChoice,
      parallel_tool_calls: request.parallelToolCalls,
    }),
    response_format,
    structured_outputs,
    ...writeSampling(request.sampling, maxTokensKey),
    ...(thinking !== undefined && {
      thinking: { type: thinking ? "enabled" : "disabled", ...(reasoning?.keep && { keep: "all" }) },
    }),
    reasoning_effort: reasoning?.effort,
    thinking_token_budget: reasoning?.budget,
    ...(request.logprobs !== undefined && { logprobs: true, top_logprobs: request.logprobs || undefined }),
    return_token_ids: request.tokenIds || undefined,
    prompt_logprobs: request.promptLogprobs,
    ...writeQueue(request),
  };
}

/** What is asked of an engine's queue and cache. */
export const writeQueue = ({
  truncatePrompt,
  priority,
  salt,
}: Pick<ChatRequest, "truncatePrompt" | "priority" | "salt">): Record<string, unknown> => ({
  truncate_prompt_tokens: truncatePrompt,
  priority,
  cache_salt: salt,
});

/** OpenAI's formats, and vLLM's word for what they do not know. */
function writeFormat(format: ChatRequest["responseFormat"]): Record<string, unknown> {
  switch (format?.type) {
    case "json_schema":
      return { response_format: { type: "json_schema", json_schema: { ...format, type: undefined } } };
    case "regex":
      return { structured_outputs: { regex: format.pattern } };
    case "choice":
      return { structured_outputs: { choice: format.choices } };
    case "grammar":
      return { structured_outputs: { grammar: format.grammar } };
    default:
      return { response_format: format };
  }
}

function writeMessage(message: Message): Record<string, unknown> {
  if (message.role !== "assistant") return { ...message };
  const { tool_calls, content, ...rest } = message;
  if (!tool_calls) return { ...rest, content: content ?? "" };
  return {
    ...rest,
    // Some engines render an empty text beside calls, or refuse it; null means the same everywhere.
    content: content === "" ? null : content,
    tool_calls: tool_calls.map(({ function: { name, arguments: args }, ...call }) => ({
      ...call,
      function: { name, arguments: typeof args === "string" ? args : JSON.stringify(args) },
    })),
  };
}
