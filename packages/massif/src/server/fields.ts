/** Fields that several dialects share: read strictly, each refusal names its field. */
import { z } from "zod";
import type { JsonSchema, Message, ToolSpec } from "../chat/index.ts";
import type { ResponseFormat, Sampling, ToolChoice } from "../llm/index.ts";
import type { Backend } from "./backend.ts";
import { ApiError, invalid } from "./errors.ts";

export const fieldLimits = {
  /** Moonshot's. */
  tools: 128,
  choices: 16,
  stops: 16,
  stopBytes: 256,
  schemaBytes: 120_000,
  schemaDepth: 30,
  patternBytes: 1000,
  nameLength: 128,
  ids: 4096,
  badWords: 256,
};

/** OpenAI's alphabet, and the dots, colons and slashes of MCP servers. No name can spell a control token. */
const toolName = /^[\p{L}\p{N}_.:/$-]+$/u;

export const Stop = z
  .union([z.string(), z.array(z.string())])
  .transform((stop) => (typeof stop === "string" ? [stop] : stop).filter((text) => text !== ""))
  .refine((stops) => stops.length <= fieldLimits.stops, `at most ${fieldLimits.stops} stop strings`)
  .refine(
    (stops) => stops.every((stop) => Buffer.byteLength(stop) <= fieldLimits.stopBytes),
    `a stop string has at most ${fieldLimits.stopBytes} bytes`,
  );

/** The sampling that OpenAI's two endpoints share, under its names and vLLM's. */
export const samplingFields = {
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  top_k: z.int().min(-1).optional(),
  min_p: z.number().min(0).max(1).optional(),
  presence_penalty: z.number().min(-2).max(2).optional(),
  frequency_penalty: z.number().min(-2).max(2).optional(),
  repetition_penalty: z.number().positive().max(100).optional(),
  logit_bias: z.record(z.string().regex(/^\d+$/, "token ids"), z.number().min(-100).max(100)).optional(),
  seed: z.int().optional(),
  stop: Stop.optional(),
};
type SamplingFields = z.output<z.ZodObject<typeof samplingFields>>;

export function samplingOf(fields: SamplingFields, maxTokens: number | undefined): Sampling {
  const { top_k } = fields;
  const sampling: Sampling = {
    temperature: fields.temperature,
    topP: fields.top_p,
    // 0 and −1 are vLLM's and SGLang's words for all of them.
    topK: top_k !== undefined && top_k > 0 ? top_k : undefined,
    minP: fields.min_p,
    presencePenalty: fields.presence_penalty,
    frequencyPenalty: fields.frequency_penalty,
    repetitionPenalty: fields.repetition_penalty,
    logitBias: fields.logit_bias && Object.keys(fields.logit_bias).length ? fields.logit_bias : undefined,
    seed: fields.seed,
    stop: fields.stop?.length ? fields.stop : undefined,
    maxTokens,
  };
  return Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== undefined)) as Sampling;
}

/** Checks the tools of a request: their number, names and schemas. Throws 400 that names the tool. */
export function checkTools(tools: readonly ToolSpec[], param = "tools"): void {
  if (tools.length > fieldLimits.tools)
    throw invalid(param, `${tools.length} tools; at most ${fieldLimits.tools} are taken`);
  const names = new Set<string>();
  for (const [i, tool] of tools.entries()) {
    const at = `${param}[${i}]`;
    if (tool.type !== "function" || !tool.function)
      throw invalid(`${at}.type`, `${JSON.stringify(tool.type)} is no tool of this server; only "function" is`);
    const { name, parameters } = tool.function;
    if (name.length > fieldLimits.nameLength || !toolName.test(name))
      throw invalid(`${at}.function.name`, "letters, digits and _ - . : / $, at most 128");
    if (names.has(name)) throw invalid(`${at}.function.name`, `a second tool ${JSON.stringify(name)}`);
    names.add(name);
    if (parameters != null) checkSchema(parameters, `${at}.function.parameters`);
  }
}

/** Bounds what a schema costs whoever compiles it. */
export function checkSchema(schema: JsonSchema, param: string): void {
  if (Buffer.byteLength(JSON.stringify(schema)) > fieldLimits.schemaBytes)
    throw invalid(param, `a schema of more than ${fieldLimits.schemaBytes} bytes`);
  const walk = (value: unknown, path: string, depth: number): void => {
    if (typeof value !== "object" || value === null) return;
    if (depth > 2 * fieldLimits.schemaDepth)
      throw invalid(path, `a schema deeper than ${fieldLimits.schemaDepth} levels`);
    for (const [key, inner] of Object.entries(value)) {
      if (key === "pattern" && typeof inner === "string") checkPattern(inner, `${path}.${key}`);
      walk(inner, Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`, depth + 1);
    }
  };
  walk(schema, param, 0);
}

export function checkPattern(pattern: string, param: string): void {
  if (pattern.length > fieldLimits.patternBytes)
    throw invalid(param, `a pattern of more than ${fieldLimits.patternBytes} characters`);
  // Counted repeats are written out by whoever compiles them.
  const counts = [...pattern.matchAll(/\{(\d+)(?:,(\d*))?\}/g)].map(([, low, high]) => Number(high || low));
  if (counts.reduce((product, count) => product * Math.max(count, 1), 1) > 100_000)
    throw invalid(param, "a pattern whose repeats come to more than 100,000");
}

const Named = z.object({ type: z.literal("function"), function: z.object({ name: z.string() }) });
const Custom = z.object({ type: z.literal("custom"), custom: z.object({ name: z.string() }) });
export const ToolChoiceField = z.union([
  z.enum(["none", "auto", "required"], 'none, auto, required or {"type":"function","function":{"name":…}}'),
  Named,
  Custom,
  z.object({
    type: z.literal("allowed_tools"),
    allowed_tools: z.object({ mode: z.enum(["auto", "required"]), tools: z.array(z.union([Named, Custom])) }),
  }),
]);

interface ToolFields {
  tools?: readonly ToolSpec[];
  toolChoice?: ToolChoice;
  parallelToolCalls?: boolean;
}

/** The tools that may be called, and whether one must be; `declared` are those of messages. Throws 400. */
export function toolsOf(
  given: readonly ToolSpec[] | undefined,
  choice: ToolChoice | { mode: "auto" | "required"; allowed: readonly string[] } | undefined,
  parallel: boolean | undefined,
  { param = "tool_choice", declared = [] }: { param?: string; declared?: readonly ToolSpec[] } = {},
): ToolFields {
  const tools = given ?? [];
  checkTools(tools);
  const known = (name: string) => [...tools, ...declared].some((tool) => tool.function?.name === name);
  const unknown = (name: string) => invalid(param, `there is no tool ${JSON.stringify(name)} in tools`);
  const restricted = typeof choice === "object" && "allowed" in choice;
  if (restricted) for (const name of choice.allowed) if (!known(name)) throw unknown(name);
  if (typeof choice === "object" && "name" in choice && !known(choice.name)) throw unknown(choice.name);
  const toolChoice = restricted ? choice.mode : choice;
  const allowed = restricted ? tools.filter((tool) => choice.allowed.includes(tool.function!.name)) : tools;
  if (restricted && declared.length) throw invalid(param, "allowed_tools, beside tools that messages declare");
  const any = allowed.length + declared.length > 0;
  if (toolChoice === "required" && !any) throw invalid(param, '"required" without tools');
  return {
    ...(allowed.length && { tools: allowed }),
    ...(any && toolChoice !== undefined && { toolChoice }),
    ...(any && parallel !== undefined && { parallelToolCalls: parallel }),
  };
}

export const chosenTool = (choice: z.output<typeof ToolChoiceField> | undefined): Parameters<typeof toolsOf>[1] => {
  if (choice === undefined || typeof choice === "string") return choice;
  if (choice.type === "function") return choice.function;
  if (choice.type === "custom") return choice.custom;
  const { mode, tools } = choice.allowed_tools;
  return { mode, allowed: tools.map((tool) => ("custom" in tool ? tool.custom : tool.function).name) };
};

export const SchemaField = z.union([z.record(z.string(), z.unknown()), z.boolean()]);
export const ResponseFormatField = z.discriminatedUnion("type", [
  z.object({ type: z.literal("text") }),
  z.object({ type: z.literal("json_object") }),
  z.object({
    type: z.literal("json_schema"),
    json_schema: z.object({
      name: z.string().min(1).max(64),
      schema: SchemaField.optional(),
      description: z.string().nullish(),
      strict: z.boolean().nullish(),
    }),
  }),
]);

export function formatOf(field: z.output<typeof ResponseFormatField> | undefined): ResponseFormat | undefined {
  if (!field || field.type === "text") return undefined;
  if (field.type === "json_object") return field;
  const { name, schema = {}, description, strict } = field.json_schema;
  checkSchema(schema, "response_format.json_schema.schema");
  return {
    type: "json_schema",
    name,
    schema,
    ...(description != null && { description }),
    ...(strict != null && { strict }),
  };
}

/** Throws 400 where a history cannot be answered; the form of each message was read before. */
export function checkMessages(messages: readonly Message[], format: ResponseFormat | undefined): void {
  if (!messages.length) throw invalid("messages", "at least one message");
  const early = messages.findIndex((m, i) => m.role === "assistant" && m.partial && i < messages.length - 1);
  if (early >= 0) throw invalid(`messages[${early}].partial`, "only the last message can be partial");
  const last = messages.at(-1);
  if (last?.role === "assistant" && last.partial && format)
    throw invalid("response_format", "a partial message goes on as it began: no JSON mode with it");
}

/** Refuses what the backend cannot do, by field. */
export function checkBackend(backend: Backend, body: Readonly<Record<string, unknown>>): void {
  for (const [field, why] of Object.entries(backend.cannot ?? {}))
    if (body[field] != null && body[field] !== false)
      throw new ApiError(400, `${field}: ${why}`, { param: field, code: "unsupported_parameter" });
}
