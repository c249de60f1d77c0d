/** `/v1/chat/completions`: request → ChatRequest (serving-and-agent.md §2.1, §3). */
import { z } from "zod";
import { type Message, MessageSchema, ToolSpecSchema } from "../chat/index.ts";
import type { Reasoning } from "../llm/index.ts";
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
import type { Call } from "./service.ts";

/** Fields that change nothing here, but may be sent: whose request it is, whether the route keeps it, hints, and defaults
 *  spelled out. */
const noted = {
  user: z.string().optional(),
  safety_identifier: z.string().optional(),
  metadata: z.record(z.string(), z.string()).optional(),
  store: z.boolean().optional(),
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
