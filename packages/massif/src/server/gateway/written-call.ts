/** A call asked for as JSON text under its schema: for engines that constrain a response format, but drop a forced
 *  `tool_choice` without a word (llama.cpp, where a model's template knows no tools). */
import type { JsonSchema, Message, ToolSpec } from "../../chat/index.ts";
import { type ChatRequest, complete, type Finish, type LanguageModel, type Usage } from "../../llm/index.ts";

interface WrittenCall {
  name: string;
  /** JSON; no more than its beginning where `finish` is "length". */
  args: string;
  finish: Finish;
  /** Of all that was asked. */
  usage: Usage;
}

/** A call of the tool of that name, or of the one that the model chooses first. Throws what the model throws. */
export async function writeCall(
  model: LanguageModel,
  request: ChatRequest,
  name?: string,
): Promise<WrittenCall | undefined> {
  const tools = (request.tools ?? []).flatMap((tool) => (tool.function ? [tool.function] : []));
  const named = name === undefined ? tools : tools.filter((tool) => tool.name === name);
  const [only] = named;
  if (!only) return undefined;
  if (named.length === 1) return write(model, request, only);
  const choice = await ask(model, request, "choose_tool", choiceOf(named), [
    "Choose the tool to call next:",
    ...named.map(({ name, description }) => `- ${name}${description ? `: ${description}` : ""}`),
    'Answer with {"name": …} and nothing else.',
  ]);
  const chosen = named.find(({ name }) => name === nameIn(choice.args));
  if (!chosen) return undefined;
  const call = await write(model, request, chosen);
  return { ...call, usage: addUsage(call.usage, choice.usage) };
}

type Tool = NonNullable<ToolSpec["function"]>;

async function write(model: LanguageModel, request: ChatRequest, tool: Tool): Promise<WrittenCall> {
  const { name, description } = tool;
  const parameters = tool.parameters ?? { type: "object" };
  const words = [
    `Call the tool ${name}${description ? ` (${description})` : ""}.`,
    `Answer with its arguments and nothing else: JSON that fits ${JSON.stringify(parameters)}`,
  ];
  const answer = await ask(model, request, name, parameters, words);
  if (answer.finish !== "length") return { ...answer, name };
  // Small models repeat themselves for ever where a schema lets them.
  const short = await ask(model, request, name, tightened(parameters), words);
  return { ...short, name, usage: addUsage(answer.usage, short.usage) };
}

/** A schema whose instances are short, and all fit the given one: strings of 64 characters, lists of 4, and none of what
 *  may hold itself, as far as the schema allows. */
export function tightened(schema: JsonSchema): JsonSchema {
  if (typeof schema !== "object" || schema === null) return schema;
  const inner = Object.entries(schema).map(([key, value]) => {
    const literal = ["enum", "const", "default", "examples", "required"].includes(key);
    if (literal || typeof value !== "object" || value === null) return [key, value];
    if (Array.isArray(value)) return [key, value.map(tightened)];
    const isMap = ["properties", "$defs", "definitions", "patternProperties"].includes(key);
    const schemas = Object.entries(value).map(([name, one]) => [name, tightened(one as JsonSchema)]);
    return [key, isMap ? Object.fromEntries(schemas) : tightened(value as JsonSchema)];
  });
  const tight = Object.fromEntries(inner) as Record<string, unknown>;
  const atMost = (bound: "maxLength" | "maxItems", least: unknown, most: number) => {
    tight[bound] = Math.min(Number(tight[bound] ?? Number.POSITIVE_INFINITY), Math.max(Number(least ?? 0), most));
  };
  if (tight.type === "string" && !("enum" in tight || "const" in tight || "pattern" in tight || "format" in tight))
    atMost("maxLength", tight.minLength, 64);
  if (tight.type === "array")
    atMost("maxItems", tight.minItems, JSON.stringify(tight.items ?? {}).includes('"$ref"') ? 0 : 4);
  return tight;
}

const choiceOf = (tools: readonly Tool[]) => ({
  type: "object",
  properties: { name: { type: "string", enum: tools.map(({ name }) => name) } },
  required: ["name"],
  additionalProperties: false,
});

function nameIn(text: string): unknown {
  try {
    return (JSON.parse(text) as { name?: unknown }).name;
  } catch {
    return undefined;
  }
}

async function ask(
  model: LanguageModel,
  request: ChatRequest,
  name: string,
  schema: JsonSchema,
  words: readonly string[],
): Promise<Omit<WrittenCall, "name">> {
  const { messages, sampling, reasoning, extra, metadata, signal } = request;
  const { message, finish, usage } = await complete(model, {
    messages: withWords(messages, words.join("\n")),
    // A stop string would cut the JSON.
    sampling: { ...sampling, stop: [] },
    ...(reasoning && { reasoning }),
    ...(extra && { extra }),
    ...(metadata && { metadata }),
    ...(signal && { signal }),
    responseFormat: { type: "json_schema", name: name.replace(/[^\w-]/g, "_").slice(0, 64), schema, strict: true },
  });
  const args = typeof message.content === "string" ? message.content.trim() : "";
  return { args, finish, usage: usage ?? { promptTokens: 0, completionTokens: 0 } };
}

/** Within the user's last message where it is the last: many templates want turns to alternate. */
function withWords(messages: readonly Message[], words: string): Message[] {
  const last = messages.at(-1);
  if (last?.role !== "user") return [...messages, { role: "user", content: words }];
  const content = Array.isArray(last.content)
    ? [...last.content, { type: "text" as const, text: `\n\n${words}` }]
    : `${last.content ?? ""}\n\n${words}`;
  return [...messages.slice(0, -1), { ...last, content }];
}

export const addUsage = (a: Usage, b: Usage): Usage => ({
  ...a,
  promptTokens: a.promptTokens + b.promptTokens,
  completionTokens: a.completionTokens + b.completionTokens,
});
