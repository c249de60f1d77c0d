/** What the verifier asks: an OpenAI body, a forced call under a schema; and what the official run made of it. */
import { createHash } from "node:crypto";
import { MassifError } from "../../common/index.ts";
import type { ChatRequest } from "../../llm/index.ts";
import { readChat } from "../openai/chat.ts";

export interface VerifyCase {
  /** MD5 of the request as JSON with sorted keys, as K2-Vendor-Verifier has it. */
  id: string;
  request: ChatRequest;
}

const sorted = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
};

/** The key of a request. */
export const caseId = (body: unknown): string =>
  createHash("md5")
    .update(JSON.stringify(sorted(body)))
    .digest("hex");

/** A case of an OpenAI body, as in the verifier's samples. Throws 400 that names the field. */
export function readCase(body: Record<string, unknown>, defaults: Record<string, unknown> = {}): VerifyCase {
  const { model: _, stream: __, stream_options: ___, ...asked } = body;
  const backend = { names: ["*"], model: { name: "any", stream: nothing }, passesFields: true };
  const { chat } = readChat({ ...defaults, ...asked, model: "any" }, backend, { ignoreUnknown: true });
  return { id: caseId(body), request: chat };
}

async function* nothing() {}

/** A forced call of one tool with this schema: the bulk of Kimi-Vendor-Verifier. */
export function schemaCase(schema: Record<string, unknown>, maxTokens = 2048): VerifyCase {
  const parameters = schema;
  const body = {
    messages: [
      { role: "user", content: "Call the tool `submit` once, with arguments that fit its schema. Make the values up." },
    ],
    tools: [{ type: "function", function: { name: "submit", description: "takes a record", parameters } }],
    tool_choice: { type: "function", function: { name: "submit" } },
    max_tokens: maxTokens,
    temperature: 0,
    seed: 1,
  };
  return readCase(body);
}

/** Finish reasons by case, from rows of a results file: `{request | hash | id, finish_reason}`. */
export function readBaseline(rows: Iterable<unknown>): Map<string, string> {
  const baseline = new Map<string, string>();
  for (const row of rows) {
    const { id, hash, request, finish_reason } = (row ?? {}) as Record<string, unknown>;
    const key = typeof id === "string" ? id : typeof hash === "string" ? hash : request && caseId(request);
    if (typeof key === "string" && typeof finish_reason === "string") baseline.set(key, finish_reason);
  }
  if (baseline.size) return baseline;
  throw new MassifError("verify.baseline", {
    found: "no row of the baseline tells a case and its finish_reason",
    expected: '{"request": {…} or "hash": "…", "finish_reason": "tool_calls"}, one a line',
  });
}

const record = (properties: Record<string, unknown>, more: Record<string, unknown> = {}) => ({
  ...{ type: "object", properties, required: Object.keys(properties), additionalProperties: false },
  ...more,
});
const text = { type: "string" };

/** Schemas of the kinds that engines get wrong: within walle's subset, each small. */
export const builtInSchemas: readonly Record<string, unknown>[] = [
  record({ city: text }),
  record({ city: text, days: { type: "integer", minimum: 1, maximum: 14 } }),
  record({ ratio: { type: "number", minimum: 0, maximum: 1 } }),
  record({ unit: { type: "string", enum: ["celsius", "fahrenheit"] }, on: { type: "boolean" } }),
  record({ 城市: text, "key with spaces": text, 'quo"te': text }),
  record({ tags: { type: "array", items: text, minItems: 2, maxItems: 3 } }),
  record({ code: { type: "string", minLength: 4, maxLength: 6 } }),
  record({ at: record({ lat: { type: "number" }, lon: { type: "number" } }) }),
  record({ who: { anyOf: [text, { type: "integer" }, record({ name: text })] } }),
  record({ maybe: { anyOf: [text, { type: "null" }] } }),
  record({}, { required: [] }),
  record({ a: text, b: { type: "integer" } }, { required: ["b"] }),
  record(
    { node: { $ref: "#/$defs/node" } },
    {
      $defs: {
        node: record({
          value: { type: "integer" },
          children: { type: "array", items: { $ref: "#/$defs/node" }, maxItems: 2 },
        }),
      },
    },
  ),
  record({ rows: { type: "array", items: record({ id: { type: "integer" }, name: text }), minItems: 1, maxItems: 2 } }),
  { type: "object", properties: { known: text }, required: ["known"], additionalProperties: { type: "integer" } },
  record({ level: { type: "integer", enum: [1, 2, 3] } }),
];
