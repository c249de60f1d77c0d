/** `/v1/messages` of Anthropic, both versions of its specification: request → ChatRequest (serving-and-agent.md §4.1–4.2). */
import { z } from "zod";
import { type Message, readMessages, type ToolSpec } from "../../chat/index.ts";
import type { Backend } from "../backend.ts";
import { readFields } from "../body.ts";
import { efforts } from "../engine-fields.ts";
import { ApiError, invalid } from "../errors.ts";
import { checkMessages, checkSchema, SchemaField, Stop, samplingOf, toolsOf } from "../fields.ts";
import type { Call } from "../service.ts";
import { sign } from "./events.ts";

/** Versions that differ for us: the second took the sampling fields away. */
export const anthropicVersions = ["2023-06-01", "2026-10-21"] as const;
type AnthropicVersion = (typeof anthropicVersions)[number];

/** Throws 400 for a version that is not known. Without one it is the first. */
export function readVersion(header: string | undefined): AnthropicVersion {
  if (header === undefined) return "2023-06-01";
  const found = anthropicVersions.find((version) => version === header);
  if (!found)
    throw invalid("anthropic-version", `${header.slice(0, 40)} is not one of ${anthropicVersions.join(", ")}`);
  return found;
}

const CacheControl = z.unknown().optional();
const Text = z.object({ type: z.literal("text"), text: z.string(), citations: z.unknown().optional() });
const Block = z.discriminatedUnion(
  "type",
  [
    Text,
    z.object({
      type: z.literal("tool_use"),
      id: z.string(),
      name: z.string(),
      input: z.record(z.string(), z.unknown()),
    }),
    z.object({
      type: z.literal("tool_result"),
      tool_use_id: z.string(),
      content: z.union([z.string(), z.array(Text, "text blocks: K2 reads no images")]).nullish(),
      is_error: z.boolean().nullish(),
    }),
    z.object({ type: z.literal("thinking"), thinking: z.string(), signature: z.string().nullish() }),
    z.object({ type: z.literal("redacted_thinking"), data: z.string() }),
  ],
  {
    error: (issue) =>
      issue.code === "invalid_union"
        ? "a block this model cannot read: text, tool_use, tool_result, thinking"
        : undefined,
  },
);
type Block = z.output<typeof Block>;

const tokens = z.int().min(1);
const shape = {
  model: z.string(),
  messages: z.array(
    z.object({
      role: z.enum(["user", "assistant", "system"]),
      content: z.union([z.string(), z.array(Block)]),
    }),
  ),
  system: z.union([z.string(), z.array(Text)]).optional(),
  tools: z
    .array(
      z.object({
        type: z.literal("custom", "only tools of the client: this server has none of its own").nullish(),
        name: z.string(),
        description: z.string().nullish(),
        input_schema: SchemaField,
        strict: z.boolean().nullish(),
      }),
    )
    .optional(),
  tool_choice: z
    .object({
      type: z.enum(["auto", "any", "tool", "none"]),
      name: z.string().optional(),
      disable_parallel_tool_use: z.boolean().nullish(),
    })
    .optional(),
  thinking: z
    .object({
      type: z.enum(["enabled", "disabled", "adaptive"]),
      budget_tokens: z.int().min(1).optional(),
      display: z.unknown().optional(),
    })
    .optional(),
  output_config: z
    .object({
      effort: z.string().max(32).nullish(),
      format: z.object({ type: z.literal("json_schema"), schema: SchemaField }).nullish(),
    })
    .optional(),
  stop_sequences: Stop.optional(),
  stream: z.boolean().optional(),
  temperature: z.number().min(0).max(1).optional(),
  top_p: z.number().min(0).max(1).optional(),
  top_k: z.int().min(0).optional(),
  metadata: z.object({ user_id: z.string().nullish() }).optional(),
  service_tier: z.enum(["auto", "standard_only"]).optional(),
  cache_control: CacheControl,
  container: z.undefined("this server has no containers").optional(),
  mcp_servers: z.undefined("this server calls no MCP servers").optional(),
  thread: z.unknown().optional(),
  explain: z.boolean().optional(),
};
const CountBody = z.object({ ...shape, max_tokens: tokens.optional() });
const MessagesBody = z.object({ ...shape, max_tokens: tokens });

interface MessagesCall extends Call {
  /** Whether thinking is shown. */
  thinking: boolean;
  /** Thinking of the history whose signature is not ours; it was taken nevertheless. */
  unsigned: boolean;
}

interface MessagesOptions {
  version: AnthropicVersion;
  /** Signs thinking, so that one can tell what this server wrote. */
  secret: string;
  ignoreUnknown?: boolean;
  /** Without `max_tokens`: for counting. */
  count?: boolean;
}

/** K2-Instruct's own temperature scale: theirs times 0.6; 1 where none is sent (kimi-k2.md §7.12). */
const INSTRUCT_SCALE = 0.6;

/** Throws 400 that names the field. */
export function readMessagesCall(
  body: Record<string, unknown>,
  backend: Backend,
  { version, secret, ignoreUnknown = false, count = false }: MessagesOptions,
): MessagesCall {
  const fields = readFields(count ? CountBody : MessagesBody, body, { ignoreUnknown });
  if (version !== "2023-06-01") {
    const old = (["temperature", "top_p", "top_k"] as const).find((name) => fields[name] !== undefined);
    if (old) throw invalid(old, `taken away by anthropic-version ${version}`);
  }
  // Its clients' tool runners ask for one first, and go on without where they are told so in these words.
  if (fields.thread != null)
    throw new ApiError(400, "thread: conversations are not held here; send all messages", {
      ...{ param: "thread", details: { error_code: "thread_unsupported_request", unsupported: ["thread"] } },
    });
  const tools = (fields.tools ?? []).map(
    ({ name, description, input_schema, strict }): ToolSpec => ({
      type: "function",
      function: {
        name,
        ...(description != null && { description }),
        parameters: input_schema,
        ...(strict != null && { strict }),
      },
    }),
  );
  const { tool_choice: choice, thinking, output_config: output } = fields;
  if (choice?.type === "tool" && choice.name === undefined) throw invalid("tool_choice.name", "which tool?");
  const format = output?.format ? ({ ...output.format, name: "output" } as const) : undefined;
  if (format) checkSchema(format.schema, "output_config.format.schema");
  const history = new History(secret);
  const messages = history.read(fields.system, fields.messages);
  checkMessages(messages, format);
  const scaled = version === "2023-06-01" && backend.format?.template.startsWith("instruct");
  const temperature = scaled ? (fields.temperature ?? 1) * INSTRUCT_SCALE : fields.temperature;
  const sampling = samplingOf(
    { ...fields, temperature, stop: fields.stop_sequences, top_k: fields.top_k || undefined },
    fields.max_tokens,
  );
  const { budget_tokens: budget } = thinking ?? {};
  if (budget !== undefined && !count && budget >= fields.max_tokens!)
    throw invalid("thinking.budget_tokens", `${budget}, and at most ${fields.max_tokens} tokens may come`);
  if (output?.effort != null && !efforts.includes(output.effort))
    throw invalid("output_config.effort", `one of ${efforts.join(", ")}`);
  const reasoning = {
    ...(thinking?.type === "enabled" && { enabled: true }),
    ...(thinking?.type === "disabled" && { enabled: false }),
    ...(thinking?.budget_tokens !== undefined && { budget: thinking.budget_tokens }),
    ...(output?.effort != null && { effort: output.effort }),
  };
  const named = { auto: "auto", any: "required", none: "none", tool: { name: choice?.name ?? "" } } as const;
  return {
    model: fields.model,
    n: 1,
    stream: fields.stream ?? false,
    explain: fields.explain ?? false,
    thinking: thinking?.type !== "disabled",
    unsigned: history.unsigned,
    chat: {
      messages,
      ...toolsOf(
        tools,
        choice && named[choice.type],
        choice?.disable_parallel_tool_use == null ? undefined : !choice.disable_parallel_tool_use,
      ),
      ...(format && { responseFormat: format }),
      ...(Object.keys(reasoning).length && { reasoning }),
      ...(Object.keys(sampling).length && { sampling }),
      metadata: { ...(fields.metadata?.user_id != null && { user: fields.metadata.user_id }) },
    },
  };
}

type Said = z.output<(typeof shape)["messages"]>[number];

/** Blocks to messages: results become messages of their own, before the text they came with. */
class History {
  /** Some thinking carries no signature of ours. */
  unsigned = false;
  readonly #secret: string;

  constructor(secret: string) {
    this.#secret = secret;
  }

  read(system: string | { text: string }[] | undefined, said: readonly Said[]): Message[] {
    const plain: unknown[] = [];
    if (system?.length)
      plain.push({ role: "system", content: typeof system === "string" ? system : system.map((b) => b.text).join("") });
    for (const [i, { role, content }] of said.entries()) {
      const blocks: Block[] = typeof content === "string" ? [{ type: "text", text: content }] : content;
      if (role === "assistant") plain.push(this.#assistant(blocks, i, i === said.length - 1));
      else plain.push(...this.#user(blocks, role, i));
    }
    return readMessages(plain);
  }

  #assistant(blocks: readonly Block[], i: number, last: boolean): unknown {
    const calls: unknown[] = [];
    let [text, reasoning] = ["", ""];
    for (const [j, block] of blocks.entries()) {
      if (block.type === "text") text += block.text;
      else if (block.type === "thinking") {
        reasoning += block.thinking;
        if (block.signature !== sign(this.#secret, block.thinking)) this.unsigned = true;
      } else if (block.type === "redacted_thinking") this.unsigned = true;
      else if (block.type === "tool_use")
        calls.push({ id: block.id, function: { name: block.name, arguments: JSON.stringify(block.input) } });
      else throw invalid(`messages[${i}].content[${j}]`, "a tool_result of the assistant");
    }
    return {
      role: "assistant",
      content: text,
      ...(reasoning && { reasoning_content: reasoning }),
      ...(calls.length && { tool_calls: calls }),
      // Anthropic's prefill: the answer goes on from it.
      ...(last && !calls.length && { partial: true }),
    };
  }

  #user(blocks: readonly Block[], role: "user" | "system", i: number): unknown[] {
    const results: unknown[] = [];
    let text: string | undefined;
    for (const [j, block] of blocks.entries()) {
      if (block.type === "text") text = (text ?? "") + block.text;
      else if (block.type === "tool_result") {
        const { content } = block;
        const said = typeof content === "string" ? content : (content ?? []).map((part) => part.text).join("");
        results.push({
          role: "tool",
          tool_call_id: block.tool_use_id,
          content: block.is_error ? `Error: ${said}` : said,
        });
      } else throw invalid(`messages[${i}].content[${j}]`, `a ${block.type} of the ${role}`);
    }
    return text === undefined && results.length ? results : [...results, { role, content: text ?? "" }];
  }
}
