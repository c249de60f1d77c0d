/** `/v1/chat/completions`: request → ChatRequest, events → chunks or one answer (serving-and-agent.md §2.1, §3). */
import { z } from "zod";
import { assemble, type ChatEvent, type Message, MessageSchema, ToolSpecSchema } from "../chat/index.ts";
import type { ModelEvent, Reasoning, TokenInfo, Usage } from "../llm/index.ts";
import type { Backend } from "./backend.ts";
import { readFields } from "./body.ts";
import { ApiError, invalid } from "./errors.ts";
import {
  checkBackend,
  checkMessages,
  checkSchema,
  chosenTool,
  fieldLimits,
  formatOf,
  ResponseFormatField,
  SchemaField,
  samplingFields,
  samplingOf,
  ToolChoiceField,
  toolsOf,
} from "./fields.ts";
import type { Call, Explanation, Tagged } from "./service.ts";
import { totalUsage } from "./service.ts";

/** Fields that change nothing here, but may be sent: whose request it is, hints, and defaults spelled out. */
const noted = {
  user: z.string().optional(),
  safety_identifier: z.string().optional(),
  metadata: z.record(z.string(), z.string()).optional(),
  store: z.literal(false, "answers are not stored here; /v1/responses stores").optional(),
  prompt_cache_key: z.string().optional(),
  prompt_cache_retention: z.string().optional(),
  prompt_cache_options: z.unknown().optional(),
  prediction: z.unknown().optional(),
  service_tier: z.enum(["auto", "default"], "there is one tier: auto or default").optional(),
  verbosity: z.literal("medium", "only medium, which is no change").optional(),
  modalities: z.array(z.literal("text", "text is all this model says")).optional(),
  request_id: z.string().optional(),
};

/** vLLM's and SGLang's extras that only an upstream knows; a backend that passes fields gets them. */
const passedOn = [
  ...["min_tokens", "ignore_eos", "stop_token_ids", "bad_words", "allowed_token_ids", "length_penalty"],
  ...["use_beam_search", "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens"],
  ...["truncate_prompt_tokens", "prompt_logprobs", "chat_template", "documents", "priority", "cache_salt"],
  ...["guided_regex", "guided_choice", "guided_grammar", "kv_transfer_params", "vllm_xargs", "session_id"],
  ...["include_reasoning", "return_tokens_as_token_ids", "mm_processor_kwargs", "repetition_detection"],
] as const;
const passedFields = Object.fromEntries(passedOn.map((name) => [name, z.unknown().optional()]));

const ChatBody = z.object({
  model: z.string(),
  messages: z.array(MessageSchema),
  ...samplingFields,
  n: z.int().min(1).max(fieldLimits.choices).optional(),
  max_tokens: z.int().min(1).optional(),
  max_completion_tokens: z.int().min(1).optional(),
  stream: z.boolean().optional(),
  stream_options: z
    .object({ include_usage: z.boolean().nullish(), include_obfuscation: z.boolean().nullish() })
    .optional(),
  logprobs: z.boolean().optional(),
  top_logprobs: z.int().min(0).max(20).optional(),
  return_token_ids: z.boolean().optional(),
  tools: z.array(ToolSpecSchema).optional(),
  tool_choice: ToolChoiceField.optional(),
  parallel_tool_calls: z.boolean().optional(),
  response_format: ResponseFormatField.optional(),
  guided_json: SchemaField.optional(),
  structured_outputs: z.object({ json: SchemaField }, "only {json: schema}").optional(),
  reasoning_effort: z.string().max(32).optional(),
  thinking: z
    .object({
      type: z.enum(["enabled", "disabled"]).optional(),
      keep: z.literal("all").nullish(),
      effort: z.string().max(32).nullish(),
      budget_tokens: z.int().min(1).nullish(),
    })
    .optional(),
  thinking_token_budget: z.int().min(0).optional(),
  chat_template_kwargs: z
    .strictObject({ thinking: z.boolean().optional(), enable_thinking: z.boolean().optional() })
    .optional(),
  continue_final_message: z.boolean().optional(),
  add_generation_prompt: z.boolean().optional(),
  explain: z.boolean().optional(),
  ...noted,
  functions: z.undefined("functions is OpenAI's old word: send tools").optional(),
  function_call: z.undefined("function_call is OpenAI's old word: send tool_choice").optional(),
  audio: z.undefined("this model does not speak").optional(),
  web_search_options: z.undefined("this server searches nothing").optional(),
  moderation: z.undefined("this server moderates nothing").optional(),
  ...passedFields,
});

export interface ChatOptions {
  ignoreUnknown?: boolean;
}

export interface ChatCall extends Call {
  includeUsage: boolean;
}

/** What a body asks. Throws 400 that names the field. */
export function readChat(body: Record<string, unknown>, backend: Backend, options: ChatOptions = {}): ChatCall {
  const fields = readFields(ChatBody, body, options);
  checkBackend(backend, body);
  const extra: Record<string, unknown> = {};
  for (const name of passedOn) {
    if (body[name] == null) continue;
    if (!backend.passesFields)
      throw new ApiError(400, `${name}: this model does not offer it`, { param: name, code: "unsupported_parameter" });
    extra[name] = body[name];
  }
  const format = formatOf(fields.response_format) ?? guided(fields);
  const messages = partial(fields.messages, fields);
  dynamicTools(body.messages);
  checkMessages(messages, format);
  if (fields.top_logprobs !== undefined && !fields.logprobs) throw invalid("top_logprobs", "needs logprobs: true");
  if (fields.stream_options && !fields.stream) throw invalid("stream_options", "only with stream: true");
  const sampling = samplingOf(fields, fields.max_completion_tokens ?? fields.max_tokens);
  const reasoning = reasoningOf(fields);
  return {
    model: fields.model,
    n: fields.n ?? 1,
    stream: fields.stream ?? false,
    explain: fields.explain ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
    chat: {
      messages,
      ...toolsOf(fields.tools, chosenTool(fields.tool_choice), fields.parallel_tool_calls),
      ...(format && { responseFormat: format }),
      ...(reasoning && { reasoning }),
      ...(Object.keys(sampling).length && { sampling }),
      ...(fields.logprobs && { logprobs: fields.top_logprobs ?? 0 }),
      ...(fields.return_token_ids && { tokenIds: true }),
      ...(Object.keys(extra).length && { extra }),
      metadata: {
        ...fields.metadata,
        ...(fields.user !== undefined && { user: fields.user }),
        ...(fields.prompt_cache_key !== undefined && { prompt_cache_key: fields.prompt_cache_key }),
      },
    },
  };
}

type Fields = z.output<typeof ChatBody>;

function guided(fields: Fields) {
  const [param, schema] =
    fields.guided_json !== undefined
      ? (["guided_json", fields.guided_json] as const)
      : (["structured_outputs.json", fields.structured_outputs?.json] as const);
  if (schema === undefined) return undefined;
  checkSchema(schema, param);
  return { type: "json_schema" as const, name: "guided", schema, strict: true };
}

/** vLLM's words for partial mode. */
function partial(messages: Message[], { continue_final_message: go, add_generation_prompt: add }: Fields): Message[] {
  if (add === false && !go) throw invalid("add_generation_prompt", "false needs continue_final_message: true");
  if (!go) return messages;
  if (add === true) throw invalid("continue_final_message", "not together with add_generation_prompt: true");
  const last = messages.at(-1);
  if (last?.role !== "assistant") throw invalid("continue_final_message", "the last message is not the assistant's");
  return [...messages.slice(0, -1), { ...last, partial: true }];
}

/** Kimi K3 declares tools within system messages; K2's template has no place for them. */
function dynamicTools(messages: unknown): void {
  if (!Array.isArray(messages)) return;
  const at = messages.findIndex((m: { tools?: unknown } | null) => m?.tools != null);
  if (at >= 0) throw invalid(`messages[${at}].tools`, "K2 declares tools before the conversation: use tools");
}

function reasoningOf(fields: Fields): Reasoning | undefined {
  const { thinking, chat_template_kwargs: kwargs } = fields;
  const told = kwargs?.thinking ?? kwargs?.enable_thinking;
  const enabled = thinking?.type ? thinking.type === "enabled" : told;
  const effort = thinking?.effort ?? fields.reasoning_effort;
  const budget = thinking?.budget_tokens ?? fields.thinking_token_budget;
  const keep = thinking?.keep === "all" ? true : undefined;
  const reasoning = Object.entries({ enabled, effort, budget, keep }).filter(([, value]) => value !== undefined);
  return reasoning.length ? (Object.fromEntries(reasoning) as Reasoning) : undefined;
}

export interface Head {
  id: string;
  created: number;
  model: string;
  fingerprint: string;
}

export function usageBody(usage: Usage): Record<string, unknown> {
  const { promptTokens, completionTokens, cachedTokens = 0, reasoningTokens = 0 } = usage;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    cached_tokens: cachedTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    completion_tokens_details: { reasoning_tokens: reasoningTokens },
  };
}

const bytesOf = (token: Omit<TokenInfo, "top">): number[] => token.bytes ?? [...Buffer.from(token.text ?? "")];

const likely = (token: Omit<TokenInfo, "top">) => ({
  // A token that is part of a character has no text of its own: its bytes tell it.
  token: token.text ?? Buffer.from(token.bytes ?? []).toString(),
  logprob: token.logprob ?? -9999,
  bytes: bytesOf(token),
});

export const logprobsBody = (tokens: readonly TokenInfo[]): Record<string, unknown> => ({
  content: tokens.map((token) => ({ ...likely(token), top_logprobs: (token.top ?? []).map(likely) })),
  refusal: null,
});

type Choice = Record<string, unknown>;

/** Events to chunks, as they come. */
export class ChatChunks {
  readonly #head: Record<string, unknown>;
  readonly #call: ChatCall;
  readonly #begun = new Set<number>();
  readonly #tokens: TokenInfo[][];
  readonly #usages: (Usage | undefined)[] = [];

  constructor({ id, created, model, fingerprint }: Head, call: ChatCall) {
    this.#head = { id, object: "chat.completion.chunk", created, model, system_fingerprint: fingerprint };
    this.#call = call;
    this.#tokens = Array.from({ length: call.n }, () => []);
  }

  *push({ choice, event }: Tagged): Generator<Record<string, unknown>> {
    if (!this.#begun.has(choice)) {
      this.#begun.add(choice);
      yield this.#chunk(choice, { role: "assistant", content: "" }, null, promptIds(event));
    }
    switch (event.type) {
      case "tokens":
        this.#tokens[choice]!.push(...event.tokens);
        break;
      case "reasoning":
        yield this.#chunk(choice, { reasoning_content: event.text, reasoning: event.text });
        break;
      case "text":
        yield this.#chunk(choice, { content: event.text });
        break;
      case "tool-call-begin": {
        const { index, id, name } = event;
        yield this.#chunk(choice, {
          tool_calls: [{ index, id, type: "function", function: { name, arguments: "" } }],
        });
        break;
      }
      case "tool-call-delta": {
        const { index, arguments: args } = event;
        yield this.#chunk(choice, { tool_calls: [{ index, function: { arguments: args } }] });
        break;
      }
      case "usage":
        this.#usages[choice] = event.usage;
        break;
      case "finish": {
        const usage = this.#usages[choice];
        // Kimi's clients read the usage here.
        const more = { ...(usage && { usage: usageBody(usage) }), stop_reason: event.stop ?? null };
        yield this.#chunk(choice, {}, event.reason, more);
        break;
      }
    }
  }

  *end(explain?: Explanation): Generator<Record<string, unknown>> {
    const usage = usageBody(totalUsage(this.#usages));
    if (this.#call.includeUsage || explain)
      yield { ...this.#head, choices: [], ...(this.#call.includeUsage && { usage }), ...(explain && { explain }) };
  }

  #chunk(index: number, delta: Choice, finish_reason: string | null = null, more: Choice = {}): Choice {
    const tokens = this.#tokens[index]!.splice(0);
    const { logprobs, tokenIds } = this.#call.chat;
    return {
      ...this.#head,
      choices: [
        {
          index,
          delta,
          logprobs: logprobs !== undefined && tokens.length ? logprobsBody(tokens) : null,
          finish_reason,
          ...(tokenIds && { token_ids: tokens.map(({ id }) => id) }),
          ...more,
        },
      ],
      ...(this.#call.includeUsage && { usage: null }),
    };
  }
}

const promptIds = (event: ModelEvent): Choice =>
  event.type === "start" && event.promptIds ? { prompt_token_ids: event.promptIds } : {};

/** All events to one answer. */
export function chatAnswer(
  { id, created, model, fingerprint }: Head,
  call: ChatCall,
  events: readonly Tagged[],
  explain?: Explanation,
): Record<string, unknown> {
  const usages: (Usage | undefined)[] = [];
  const choices = Array.from({ length: call.n }, (_, index) => {
    const own = events.filter(({ choice }) => choice === index).map(({ event }) => event);
    const { message } = assemble(own.filter((event) => event.type !== "finish") as ChatEvent[]);
    const tokens = own.flatMap((event) => (event.type === "tokens" ? event.tokens : []));
    const finish = own.find((event) => event.type === "finish");
    const prompt = own.flatMap((event) => (event.type === "start" && event.promptIds) || []);
    usages[index] = own.find((event) => event.type === "usage")?.usage;
    const { reasoning_content: reasoning, tool_calls } = message;
    return {
      index,
      message: {
        role: "assistant",
        content: tool_calls && message.content === "" ? null : message.content,
        refusal: null,
        ...(reasoning !== undefined && { reasoning_content: reasoning, reasoning }),
        ...(tool_calls && { tool_calls }),
      },
      logprobs: call.chat.logprobs !== undefined ? logprobsBody(tokens) : null,
      finish_reason: finish?.reason ?? "stop",
      stop_reason: finish?.stop ?? null,
      ...(call.chat.tokenIds && { token_ids: tokens.map(({ id }) => id), prompt_token_ids: prompt }),
    };
  });
  return {
    id,
    object: "chat.completion",
    created,
    model,
    system_fingerprint: fingerprint,
    choices,
    usage: usageBody(totalUsage(usages)),
    ...(explain && { explain }),
  };
}
