/** `/v1/responses`: items → ChatRequest, events → its named events, or the response that they make (serving-and-agent.md
 *  §2.5). */
import { z } from "zod";
import { type AssistantMessage, type Message, readMessages, type ToolSpec } from "../../chat/index.ts";
import type { TokenInfo, Usage } from "../../llm/index.ts";
import { readFields } from "../body.ts";
import { efforts } from "../engine-fields.ts";
import { ApiError, invalid } from "../errors.ts";
import { checkMessages, checkSchema, SchemaField, samplingOf, toolsOf } from "../fields.ts";
import { logprobsBody } from "../openai/chat-chunks.ts";
import { CustomTool, customFunction, inputArguments } from "../openai/custom-tools.ts";
import type { Call } from "../service.ts";

const Part = z.object({ type: z.enum(["input_text", "output_text", "text", "refusal"]), text: z.string().optional() });
const Content = z.union([z.string(), z.array(Part, "text parts: this model reads no images, audio or files")]);
const Id = { id: z.string().nullish(), status: z.string().nullish() };
export const Item = z.union([
  z.object({
    type: z.literal("message").optional(),
    role: z.enum(["user", "assistant", "system", "developer"]),
    content: Content,
    ...Id,
  }),
  z.object({ type: z.literal("function_call"), call_id: z.string(), name: z.string(), arguments: z.string(), ...Id }),
  z.object({ type: z.literal("custom_tool_call"), call_id: z.string(), name: z.string(), input: z.string(), ...Id }),
  z.object({ type: z.literal("custom_tool_call_output"), call_id: z.string(), output: Content, ...Id }),
  z.object({ type: z.literal("function_call_output"), call_id: z.string(), output: Content, ...Id }),
  z.object({
    type: z.literal("reasoning"),
    summary: z.array(z.object({ text: z.string() })).nullish(),
    content: z.array(z.object({ text: z.string() })).nullish(),
    encrypted_content: z.string().nullish(),
    ...Id,
  }),
]);
export type Item = z.output<typeof Item>;
/** An item that this server has made, and keeps. */
const Reference = z.object({ type: z.literal("item_reference"), id: z.string() });

const FunctionTool = z.object({
  type: z.literal("function"),
  name: z.string(),
  description: z.string().nullish(),
  parameters: SchemaField.nullish(),
  strict: z.boolean().nullish(),
});
const Format = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text") }),
  z.object({ type: z.literal("json_object") }),
  z.object({
    type: z.literal("json_schema"),
    name: z.string(),
    schema: SchemaField,
    description: z.string().nullish(),
    strict: z.boolean().nullish(),
  }),
]);

const ResponsesBody = z.object({
  model: z.string(),
  input: z.union([z.string(), z.array(z.union([Item, Reference]))]),
  instructions: z.string().optional(),
  previous_response_id: z.string().optional(),
  tools: z
    .array(
      z.discriminatedUnion(
        "type",
        [FunctionTool, CustomTool.extend({ type: z.literal("custom") })],
        "only function and custom tools: this server has none of its own",
      ),
    )
    .optional(),
  tool_choice: z
    .union([
      z.enum(["none", "auto", "required"], "none, auto, required or a function"),
      z.object({ type: z.enum(["function", "custom"]), name: z.string() }),
      z.object({
        type: z.literal("allowed_tools"),
        mode: z.enum(["auto", "required"]),
        tools: z.array(z.object({ type: z.enum(["function", "custom"]), name: z.string() })),
      }),
    ])
    .optional(),
  parallel_tool_calls: z.boolean().optional(),
  max_tool_calls: z.int().min(1).optional(),
  max_output_tokens: z.int().min(1).optional(),
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  top_logprobs: z.int().min(0).max(20).optional(),
  text: z.object({ format: Format.nullish(), verbosity: z.literal("medium", "only medium").nullish() }).optional(),
  reasoning: z
    .object({ effort: z.string().max(32).nullish(), summary: z.enum(["auto", "concise", "detailed"]).nullish() })
    .optional(),
  include: z
    .array(z.enum(["message.output_text.logprobs", "reasoning.encrypted_content"], "what this server cannot include"))
    .optional(),
  store: z.boolean().optional(),
  stream: z.boolean().optional(),
  stream_options: z.object({ include_obfuscation: z.boolean().nullish() }).optional(),
  background: z.boolean().optional(),
  truncation: z.literal("disabled", "nothing is cut: a conversation that is too long is a 400").optional(),
  metadata: z.record(z.string(), z.string()).optional(),
  service_tier: z.enum(["auto", "default"], "there is one tier: auto or default").optional(),
  user: z.string().optional(),
  safety_identifier: z.string().optional(),
  prompt_cache_key: z.string().optional(),
  prompt_cache_retention: z.string().optional(),
  conversation: z.undefined("conversations are not kept: use previous_response_id").optional(),
  prompt: z.undefined("there are no stored prompts").optional(),
  context_management: z.undefined("this server compacts nothing").optional(),
  explain: z.boolean().optional(),
});

export interface ResponsesCall extends Call {
  store: boolean;
  background: boolean;
  /** What the client gave now, and all that it stands on. */
  input: Item[];
  history: Item[];
  /** Tools whose calls are told as text. */
  custom: ReadonlySet<string>;
  /** What the response repeats of the request. */
  echo: Record<string, unknown>;
}

/** What was stored before. */
interface Earlier {
  /** All that a response stands on and says. Throws 404. */
  conversation(id: string): readonly Item[];
  /** Those of these items that are kept. */
  items(ids: ReadonlySet<string>): ReadonlyMap<string, Item>;
}

/** Throws 400 that names the field. */
export function readResponses(
  body: Record<string, unknown>,
  earlier: Earlier,
  options: { ignoreUnknown?: boolean } = {},
): ResponsesCall {
  const fields = readFields(ResponsesBody, body, options);
  const { background = false, stream = false, store = true, tool_choice: choice, text, reasoning } = fields;
  if (background && stream) throw invalid("background", "not together with stream: ask for the response by its id");
  if (background && !store) throw invalid("store", "a background response must be stored");
  const given = typeof fields.input === "string" ? [{ role: "user" as const, content: fields.input }] : fields.input;
  const input = resolved(given, earlier);
  const before = fields.previous_response_id === undefined ? [] : earlier.conversation(fields.previous_response_id);
  const history = [...before, ...input];
  const format = text?.format && text.format.type !== "text" ? text.format : undefined;
  if (format?.type === "json_schema") checkSchema(format.schema, "text.format.schema");
  const tools = (fields.tools ?? []).map((tool, i): ToolSpec => {
    if (tool.type === "custom") return customFunction(tool, `tools[${i}]`);
    const { type, ...fn } = tool;
    const said = Object.fromEntries(Object.entries(fn).filter(([, value]) => value != null));
    return { type, function: said as { name: string } };
  });
  const messages = readMessages([
    ...(fields.instructions === undefined ? [] : [{ role: "system", content: fields.instructions }]),
    ...messagesOf(history),
  ]);
  const responseFormat = format && {
    ...(format.type === "json_object"
      ? format
      : {
          ...{ type: format.type, name: format.name, schema: format.schema },
          ...(format.description != null && { description: format.description }),
          ...(format.strict != null && { strict: format.strict }),
        }),
  };
  checkMessages(messages, responseFormat);
  const chosen =
    typeof choice !== "object"
      ? choice
      : choice.type !== "allowed_tools"
        ? { name: choice.name }
        : { mode: choice.mode, allowed: choice.tools.map(({ name }) => name) };
  if (reasoning?.effort != null && !efforts.includes(reasoning.effort))
    throw invalid("reasoning.effort", `one of ${efforts.join(", ")}`);
  const sampling = samplingOf(fields, fields.max_output_tokens);
  const logprobs = fields.include?.includes("message.output_text.logprobs") || fields.top_logprobs !== undefined;
  return {
    model: fields.model,
    n: 1,
    stream,
    store,
    background,
    input,
    history,
    custom: new Set((fields.tools ?? []).flatMap(({ type, name }) => (type === "custom" ? name : []))),
    explain: fields.explain ?? false,
    chat: {
      messages,
      ...toolsOf(tools, chosen, fields.parallel_tool_calls),
      ...(responseFormat && { responseFormat }),
      ...(reasoning?.effort != null && { reasoning: { effort: reasoning.effort } }),
      ...(Object.keys(sampling).length && { sampling }),
      ...(logprobs && { logprobs: fields.top_logprobs ?? 0 }),
      metadata: {
        ...(fields.user !== undefined && { user: fields.user }),
        ...(fields.prompt_cache_key !== undefined && { prompt_cache_key: fields.prompt_cache_key }),
      },
    },
    echo: {
      ...{ background, store, instructions: fields.instructions ?? null, metadata: fields.metadata ?? {} },
      ...{ previous_response_id: fields.previous_response_id ?? null, max_tool_calls: fields.max_tool_calls ?? null },
      ...{
        max_output_tokens: fields.max_output_tokens ?? null,
        parallel_tool_calls: fields.parallel_tool_calls ?? true,
      },
      ...{ temperature: fields.temperature ?? null, top_p: fields.top_p ?? null },
      ...{ top_logprobs: fields.top_logprobs ?? 0, truncation: "disabled", service_tier: "default" },
      tool_choice: choice ?? "auto",
      tools: (fields.tools ?? []).map((tool) => {
        const { type, name, description = null } = tool;
        if (tool.type === "custom") return { type, name, description, format: tool.format ?? { type: "text" } };
        return { type, name, description, parameters: tool.parameters ?? null, strict: tool.strict ?? null };
      }),
      text: { format: text?.format ?? { type: "text" }, verbosity: "medium" },
      reasoning: { effort: reasoning?.effort ?? null, summary: reasoning?.summary ?? null },
      ...(fields.user !== undefined && { user: fields.user }),
    },
  };
}

function resolved(given: readonly (Item | z.output<typeof Reference>)[], earlier: Earlier): Item[] {
  const ids = given.flatMap((item) => (item.type === "item_reference" ? [item.id] : []));
  const found = ids.length ? earlier.items(new Set(ids)) : undefined;
  return given.map((item, i) => {
    if (item.type !== "item_reference") return item;
    const kept = found?.get(item.id);
    if (kept) return kept;
    throw new ApiError(404, `input[${i}].id: there is no item ${item.id.slice(0, 100)}; send it whole`, {
      param: `input[${i}].id`,
    });
  });
}

const textIn = (content: z.output<typeof Content>): string =>
  typeof content === "string" ? content : content.map(({ text = "" }) => text).join("");

/** Items to messages: reasoning, text and calls that follow each other in this order are one message. */
export function messagesOf(items: readonly Item[]): Message[] {
  const messages: Message[] = [];
  let open: AssistantMessage | undefined;
  const assistant = (fits: (message: AssistantMessage) => boolean): AssistantMessage => {
    if (open && fits(open)) return open;
    messages.push((open = { role: "assistant", content: "" }));
    return open;
  };
  for (const item of items) {
    if (item.type === "reasoning") {
      const message = assistant((m) => !m.content && !m.tool_calls);
      const said = item.content?.length ? item.content : (item.summary ?? []);
      message.reasoning_content = (message.reasoning_content ?? "") + said.map(({ text }) => text).join("");
    } else if (item.type === "function_call" || item.type === "custom_tool_call") {
      const message = assistant(() => true);
      const call = {
        id: item.call_id,
        type: "function" as const,
        function: { name: item.name, arguments: "input" in item ? inputArguments(item.input) : item.arguments },
      };
      message.tool_calls = [...(message.tool_calls ?? []), call];
    } else if (item.type === "function_call_output" || item.type === "custom_tool_call_output") {
      open = undefined;
      messages.push({ role: "tool", tool_call_id: item.call_id, content: textIn(item.output) });
    } else if (item.role === "assistant") assistant((m) => !m.content && !m.tool_calls).content = textIn(item.content);
    else {
      open = undefined;
      messages.push({ role: item.role === "developer" ? "system" : item.role, content: textIn(item.content) });
    }
  }
  return messages;
}

export function responsesUsage({ promptTokens, completionTokens, cachedTokens = 0, reasoningTokens = 0 }: Usage) {
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: 0 },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens },
    total_tokens: promptTokens + completionTokens,
  };
}

export const responsesLogprobs = (tokens: readonly TokenInfo[]): unknown => logprobsBody(tokens).content;
