/** `/v1/chat/completions`: request → ChatRequest (serving-and-agent.md §2.1, §3). */
import { z } from "zod";
import { type Message, MessageSchema, ToolSpecSchema, textOf } from "../../chat/index.ts";
import type { Backend } from "../backend.ts";
import { readFields } from "../body.ts";
import {
  engineFields,
  engineFormat,
  engineReasoning,
  engineRequest,
  engineSampling,
  formatFields,
  reasoningFields,
  upstreamFields,
  upstreamOnly,
} from "../engine-fields.ts";
import { invalid } from "../errors.ts";
import {
  checkBackend,
  checkMessages,
  chosenTool,
  fieldLimits,
  formatOf,
  ResponseFormatField,
  samplingFields,
  samplingOf,
  ToolChoiceField,
  toolsOf,
} from "../fields.ts";
import { checkDynamicTools } from "../moonshot/dynamic-tools.ts";
import type { Call } from "../service.ts";
import { readCustomTools } from "./custom-tools.ts";

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
};

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
  ...engineFields,
  tools: z.array(ToolSpecSchema).optional(),
  tool_choice: ToolChoiceField.optional(),
  parallel_tool_calls: z.boolean().optional(),
  response_format: ResponseFormatField.optional(),
  ...formatFields,
  ...reasoningFields,
  continue_final_message: z.boolean().optional(),
  add_generation_prompt: z.boolean().optional(),
  explain: z.boolean().optional(),
  ...noted,
  functions: z.undefined("functions is OpenAI's old word: send tools").optional(),
  function_call: z.undefined("function_call is OpenAI's old word: send tool_choice").optional(),
  audio: z.undefined("this model does not speak").optional(),
  web_search_options: z.undefined("this server searches nothing").optional(),
  moderation: z.undefined("this server moderates nothing").optional(),
  ...upstreamFields,
});

interface ChatOptions {
  ignoreUnknown?: boolean;
}

export interface ChatCall extends Call {
  includeUsage: boolean;
  /** The answer tells the ids of its tokens, spells tokens as ids, shows the reasoning. */
  tellsIds: boolean;
  tokensAsIds: boolean;
  showsReasoning: boolean;
  /** Tools whose calls are told as text. */
  custom: ReadonlySet<string>;
  /** What stands before the answer's text. */
  echo?: string;
}

/** What a body asks. Throws 400 that names the field. */
export function readChat(body: Record<string, unknown>, backend: Backend, options: ChatOptions = {}): ChatCall {
  const fields = readFields(ChatBody, body, options);
  checkBackend(backend, body);
  const extra = upstreamOnly(body, backend);
  const format = engineFormat(fields, formatOf(fields.response_format));
  const messages = partial(fields.messages, fields);
  const { tools, custom } = readCustomTools(fields.tools);
  const declared = checkDynamicTools(body.messages, tools ?? []);
  checkMessages(messages, format);
  if (fields.top_logprobs !== undefined && !fields.logprobs) throw invalid("top_logprobs", "needs logprobs: true");
  if (fields.stream_options && !fields.stream) throw invalid("stream_options", "only with stream: true");
  const maxTokens = fields.max_completion_tokens ?? fields.max_tokens;
  const sampling = { ...samplingOf(fields, maxTokens), ...engineSampling(fields, maxTokens) };
  const reasoning = engineReasoning(fields);
  const { return_token_ids: ids = false, return_tokens_as_token_ids: asIds = false } = fields;
  // Only then does an upstream tell the ids of the likeliest.
  if (asIds && backend.passesFields) extra.return_tokens_as_token_ids = true;
  return {
    model: fields.model,
    n: fields.n ?? 1,
    stream: fields.stream ?? false,
    explain: fields.explain ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
    custom,
    tellsIds: ids,
    tokensAsIds: asIds,
    showsReasoning: fields.include_reasoning ?? true,
    ...(fields.echo && { echo: echoOf(messages) }),
    chat: {
      messages,
      ...toolsOf(tools, chosenTool(fields.tool_choice), fields.parallel_tool_calls, { declared }),
      ...(format && { responseFormat: format }),
      ...(reasoning && { reasoning }),
      ...(Object.keys(sampling).length && { sampling }),
      ...(fields.logprobs && { logprobs: fields.top_logprobs ?? 0 }),
      ...((ids || asIds) && { tokenIds: true }),
      ...engineRequest(fields, fields.stream),
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

/** vLLM's words for partial mode. */
function partial(messages: Message[], { continue_final_message: go, add_generation_prompt: add }: Fields): Message[] {
  if (add === false && !go) throw invalid("add_generation_prompt", "false needs continue_final_message: true");
  if (!go) return messages;
  if (add === true) throw invalid("continue_final_message", "not together with add_generation_prompt: true");
  const last = messages.at(-1);
  if (last?.role !== "assistant") throw invalid("continue_final_message", "the last message is not the assistant's");
  return [...messages.slice(0, -1), { ...last, partial: true }];
}

/** vLLM's `echo`: the answer begins with the message that it goes on from. */
function echoOf(messages: readonly Message[]): string {
  const last = messages.at(-1);
  return last?.role === "assistant" && last.partial ? textOf(last.content) : "";
}
