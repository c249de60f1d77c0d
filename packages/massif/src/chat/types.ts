/** Messages and tools in OpenAI's shape, with reasoning. Reading is tolerant (other programs send them): unknown keys are
 *  dropped, `null` and missing are one, old spellings are understood. What Massif makes is the normal form below. */
import { z } from "zod";
import { MassifError } from "../common/index.ts";

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const Part = z.preprocess(
  (part) => (typeof part === "string" ? { type: "text", text: part } : part),
  z.object({ type: z.literal("text", "only text parts: K2 reads no images, audio or files"), text: z.string() }),
);
export type TextPart = z.output<typeof Part>;

const Parts = z.array(Part, "a content is a string, a list of text parts, or null");
const Content = z.unknown().transform((value, context): string | TextPart[] | null => {
  if (value === null || value === undefined) return null;
  if (typeof value === "string") return value;
  const parts = Parts.safeParse(value);
  if (parts.success) return parts.data;
  for (const { message, path } of parts.error.issues)
    context.issues.push({ code: "custom", message, path, input: value });
  return z.NEVER;
});

/** A key that may be missing or null, and then is undefined. */
const optional = <T extends z.ZodType>(schema: T) =>
  schema
    .nullable()
    .transform((value) => value ?? undefined)
    .optional();

export const ToolCallSchema = z.object({
  /** K2's own form is `functions.NAME:IDX`; ids of other systems are rewritten when a history is rendered (`ids.ts`). */
  id: optional(z.string()),
  type: z.literal("function").catch("function"),
  function: z.object({
    name: z.string().min(1, "a tool call needs the name of its function"),
    /** JSON text; an object is understood too, and rendered as Python's json would write it. */
    arguments: z
      .custom<string | Record<string, unknown> | null | undefined>(
        (value) => value == null || typeof value === "string" || isRecord(value),
        "JSON text or an object",
      )
      .transform((value) => value ?? "{}"),
  }),
});
export type ToolCall = z.output<typeof ToolCallSchema>;

const name = optional(z.string());
const UserSchema = z.object({ role: z.literal("user"), content: Content, name });
const AssistantSchema = z.object({
  role: z.literal("assistant"),
  content: Content,
  name,
  reasoning_content: optional(z.string()),
  tool_calls: z
    .array(ToolCallSchema)
    .nullable()
    .transform((calls) => (calls?.length ? calls : undefined))
    .optional(),
  /** Moonshot's partial mode: the last message is a beginning that the model goes on from. */
  partial: optional(z.boolean()),
});
const ToolSchema = z.object({ role: z.literal("tool"), content: Content, name, tool_call_id: optional(z.string()) });

const roles: Record<string, string> = { developer: "system", _input: "system", function: "tool" };

/** Old and foreign spellings: role `developer` and K2VV's `_input`, `function` and `function_call`, `reasoning`. */
function modern(message: unknown): unknown {
  if (!isRecord(message)) return message;
  const { role, reasoning, function_call, ...rest } = message;
  return {
    ...rest,
    content: rest.content ?? null,
    role: typeof role === "string" ? (roles[role] ?? role) : role,
    reasoning_content: rest.reasoning_content ?? reasoning,
    tool_calls: asFunctions(rest.tool_calls) ?? (isRecord(function_call) ? [{ function: function_call }] : undefined),
  };
}

const SystemSchema = z.object({
  role: z.literal("system"),
  content: Content,
  name,
  /** Tools that are declared here and may be called from here on (Kimi K3's dynamic tools); then there is no content. */
  tools: optional(z.array(z.lazy(() => ToolSpecSchema))),
});

/** OpenAI's custom calls, whose input is a text: functions of one string. */
function asFunctions(calls: unknown): unknown {
  if (!Array.isArray(calls)) return calls;
  return calls.map((call: unknown) => {
    if (!isRecord(call) || !isRecord(call.custom)) return call;
    const { name, input = "" } = call.custom;
    return { id: call.id, function: { name, arguments: JSON.stringify({ input }) } };
  });
}

export const MessageSchema = z.preprocess(
  modern,
  z.discriminatedUnion("role", [SystemSchema, UserSchema, AssistantSchema, ToolSchema], {
    error: (issue) =>
      issue.code === "invalid_union" ? "role must be system, developer, user, assistant or tool" : undefined,
  }),
);
export type Message = z.output<typeof MessageSchema>;
export type AssistantMessage = Extract<Message, { role: "assistant" }>;

/** A tool as the model is shown it. Every key is kept, in its order, because the prompt shows the object as it is. */
export interface ToolSpec {
  type: string;
  function?: ToolFunction;
  [key: string]: unknown;
}
export interface ToolFunction {
  name: string;
  description?: string | null;
  /** JSON Schema of the arguments. */
  parameters?: JsonSchema | null;
  strict?: boolean | null;
  [key: string]: unknown;
}
export type JsonSchema = boolean | { [keyword: string]: unknown };

const ToolShape = z.looseObject({
  type: z.string(),
  function: z
    .looseObject({
      name: z.string().min(1),
      description: z.string().nullish(),
      parameters: z.union([z.record(z.string(), z.unknown()), z.boolean()]).nullish(),
      strict: z.boolean().nullish(),
    })
    .optional(),
});

/** Checks a tool without touching it (parsing with zod would put known keys first). */
export const ToolSpecSchema = z.custom<ToolSpec>().superRefine((value, context) => {
  const checked = ToolShape.safeParse(value);
  for (const issue of checked.error?.issues ?? [])
    context.addIssue({ code: "custom", message: issue.message, path: issue.path });
  if (checked.success && checked.data.type === "function" && !checked.data.function)
    context.addIssue({ code: "custom", message: "a tool of type function needs a function", path: ["function"] });
});

/** Every tool that may be called: those of the request, and those that its messages declare. */
export const declaredTools = (request: { messages: readonly Message[]; tools?: readonly ToolSpec[] }): ToolSpec[] => [
  ...(request.tools ?? []),
  ...request.messages.flatMap((message) => (message.role === "system" && message.tools) || []),
];

/** The text of a content: parts are joined without separator, null is empty. */
export function textOf(content: Message["content"]): string {
  if (content === null) return "";
  return typeof content === "string" ? content : content.map((part) => part.text).join("");
}

function read<T>(schema: z.ZodType<T>, what: string, value: unknown, expected: string): T {
  const checked = schema.safeParse(value);
  if (checked.success) return checked.data;
  const [issue] = checked.error.issues;
  const path = (issue?.path ?? []).map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`)).join("");
  throw new MassifError(`chat.${what}`, { found: `${what}${path}: ${issue?.message}`, expected });
}

/** Messages from outside in normal form. Throws `chat.messages` naming the path. */
export function readMessages(value: unknown): Message[] {
  return read(z.array(MessageSchema), "messages", value, "a list of messages in OpenAI's shape");
}

/** Tools from outside, unchanged once checked; `null` and nothing are no tools. Throws `chat.tools` naming the path. */
export function readTools(value: unknown): ToolSpec[] {
  return read(z.array(ToolSpecSchema), "tools", value ?? [], '[{"type":"function","function":{"name":…}}, …]');
}
