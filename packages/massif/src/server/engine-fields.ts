/** What engines take beyond OpenAI's fields, under vLLM's names (serving-and-agent.md §5.1): the same for conversations and
 *  bare texts, honoured by our engine and passed on to an upstream. */
import { z } from "zod";
import type { ChatRequest, Reasoning, ResponseFormat, Sampling } from "../llm/index.ts";
import type { Backend } from "./backend.ts";
import { ApiError, invalid } from "./errors.ts";
import { checkPattern, checkSchema, fieldLimits, SchemaField } from "./fields.ts";

const Ids = z.array(z.int().min(0)).max(fieldLimits.ids);

export const engineFields = {
  min_tokens: z.int().min(0).optional(),
  ignore_eos: z.boolean().optional(),
  stop_token_ids: Ids.optional(),
  include_stop_str_in_output: z.boolean().optional(),
  bad_words: z.array(z.string().min(1).max(fieldLimits.stopBytes)).max(fieldLimits.badWords).optional(),
  allowed_token_ids: Ids.min(1).optional(),
  prompt_logprobs: z.int().min(0).max(20).optional(),
  truncate_prompt_tokens: z.int().min(-1).optional(),
  priority: z.int().optional(),
  cache_salt: z.string().min(1).max(256).optional(),
  return_token_ids: z.boolean().optional(),
  return_tokens_as_token_ids: z.boolean().optional(),
  echo: z.boolean().optional(),
  session_id: z.string().optional(),
  request_id: z.string().optional(),
};
type EngineFields = z.output<z.ZodObject<typeof engineFields>>;

/** Fields whose other values only an upstream may know, and the values that change nothing here. */
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  use_beam_search: [false],
  length_penalty: [1],
  skip_special_tokens: [true],
  spaces_between_special_tokens: [true, false],
  add_special_tokens: [false],
  chat_template: [],
  documents: [],
  logprob_token_ids: [],
  kv_transfer_params: [],
  vllm_xargs: [],
  mm_processor_kwargs: [],
  repetition_detection: [],
  return_prompt_text: [false],
  stream_interval: [1],
};
export const upstreamFields = Object.fromEntries(Object.keys(neutral).map((name) => [name, z.unknown().optional()]));

/** What only an upstream understands. Throws 400 where there is none, and the field asks for something. */
export function upstreamOnly(body: Readonly<Record<string, unknown>>, backend: Backend): Record<string, unknown> {
  const extra: Record<string, unknown> = {};
  for (const [name, nothing] of Object.entries(neutral)) {
    const value = body[name];
    if (value == null) continue;
    if (backend.passesFields) extra[name] = value;
    else if (!nothing.includes(value))
      throw new ApiError(400, `${name}: this model does not offer it`, { param: name, code: "unsupported_parameter" });
  }
  return extra;
}

/** What of them is sampling. Throws 400 for what contradicts itself. */
export function engineSampling(fields: EngineFields, maxTokens: number | undefined): Sampling {
  const { min_tokens: min } = fields;
  if (min !== undefined && maxTokens !== undefined && min > maxTokens)
    throw invalid("min_tokens", `${min}, and at most ${maxTokens} tokens may come`);
  return {
    ...(min && { minTokens: min }),
    ...(fields.ignore_eos && { ignoreEnd: true }),
    ...(fields.stop_token_ids?.length && { stopIds: fields.stop_token_ids }),
    ...(fields.include_stop_str_in_output && { includeStop: true }),
    ...(fields.bad_words?.length && { badWords: fields.bad_words }),
    ...(fields.allowed_token_ids && { allowedIds: fields.allowed_token_ids }),
  };
}

/** What of them is the request's. Throws 400. */
export function engineRequest(
  fields: EngineFields,
  stream: boolean | undefined,
): Pick<ChatRequest, "promptLogprobs" | "truncatePrompt" | "priority" | "salt"> {
  const { prompt_logprobs: told, truncate_prompt_tokens: cut, priority, cache_salt: salt } = fields;
  if (told !== undefined && stream) throw invalid("prompt_logprobs", "only with a whole answer (stream: false)");
  if (cut === 0) throw invalid("truncate_prompt_tokens", "at least 1, or -1 for what fits");
  return {
    ...(told !== undefined && { promptLogprobs: told }),
    ...(cut !== undefined && { truncatePrompt: cut }),
    ...(priority !== undefined && { priority }),
    ...(salt !== undefined && { salt }),
  };
}

const Choices = z.array(z.string().max(10_000)).min(1).max(1000);
const Pattern = z.string().min(1);
/** How an answer is held to a form: `structured_outputs`, and the older names. */
export const formatFields = {
  structured_outputs: z
    .strictObject({
      json: z.union([SchemaField, z.string()]).nullish(),
      regex: Pattern.nullish(),
      choice: Choices.nullish(),
      grammar: Pattern.nullish(),
      json_object: z.boolean().nullish(),
      structural_tag: z.null("not offered: send json, regex, choice or grammar").optional(),
      disable_fallback: z.boolean().nullish(),
      disable_any_whitespace: z.literal(true, "what is enforced is always compact").nullish(),
      whitespace_pattern: z.null("what is enforced is always compact").optional(),
    })
    .optional(),
  guided_json: z.union([SchemaField, z.string()]).optional(),
  guided_regex: Pattern.optional(),
  guided_choice: Choices.optional(),
  guided_grammar: Pattern.optional(),
  guided_decoding_backend: z.unknown().optional(),
  guided_whitespace_pattern: z.undefined("what is enforced is always compact").optional(),
};
type FormatFields = z.output<z.ZodObject<typeof formatFields>>;

/** The one form that is asked for. Throws 400 where there are two. */
export function engineFormat(fields: FormatFields, other: ResponseFormat | undefined): ResponseFormat | undefined {
  const inner = fields.structured_outputs ?? {};
  const found: [string, ResponseFormat][] = [];
  const add = <T>(value: T | null | undefined, param: string, make: (value: T, param: string) => ResponseFormat) => {
    if (value != null) found.push([param, make(value, param)]);
  };
  for (const [at, json, regex, choice, grammar] of [
    ["structured_outputs.", inner.json, inner.regex, inner.choice, inner.grammar],
    ["guided_", fields.guided_json, fields.guided_regex, fields.guided_choice, fields.guided_grammar],
  ] as const) {
    add(json, `${at}json`, (schema, param) => ({
      ...{ type: "json_schema", name: "guided", strict: true },
      schema: schemaIn(schema, param),
    }));
    add(regex, `${at}regex`, (pattern, param) => {
      checkPattern(pattern, param);
      return { type: "regex", pattern };
    });
    add(choice, `${at}choice`, (choices) => ({ type: "choice", choices }));
    add(grammar, `${at}grammar`, (grammar) => ({ type: "grammar", grammar }));
  }
  if (inner.json_object) found.push(["structured_outputs.json_object", { type: "json_object" }]);
  const [first, second] = found;
  if (first && (second || other))
    throw invalid((second ?? first)[0], `not together with ${second ? first[0] : "response_format"}`);
  return first?.[1] ?? other;
}

function schemaIn(schema: z.output<typeof SchemaField> | string, param: string): z.output<typeof SchemaField> {
  let read = schema;
  if (typeof schema === "string") {
    try {
      const { data, error } = SchemaField.safeParse(JSON.parse(schema));
      if (error) throw invalid(param, "no JSON Schema");
      read = data;
    } catch (cause) {
      throw cause instanceof ApiError ? cause : invalid(param, `no JSON: ${(cause as Error).message}`);
    }
  }
  checkSchema(read as z.output<typeof SchemaField>, param);
  return read as z.output<typeof SchemaField>;
}

const effort = z.string().max(32);
/** Whether and how long to think, in OpenAI's, vLLM's and Moonshot's words. */
export const reasoningFields = {
  reasoning_effort: effort.optional(),
  thinking: z
    .object({
      type: z.enum(["enabled", "disabled", "adaptive"]).optional(),
      keep: z.literal("all").nullish(),
      effort: effort.nullish(),
      budget_tokens: z.int().min(0).nullish(),
    })
    .optional(),
  thinking_token_budget: z.int().min(0).optional(),
  max_reasoning_tokens: z.int().min(0).optional(),
  include_reasoning: z.boolean().optional(),
  chat_template_kwargs: z
    .strictObject({
      thinking: z.boolean().optional(),
      enable_thinking: z.boolean().optional(),
      preserve_thinking: z.boolean().optional(),
      reasoning_effort: effort.optional(),
    })
    .optional(),
};
type ReasoningFields = z.output<z.ZodObject<typeof reasoningFields>>;

/** `thinking` goes before the others, as Moonshot has it. */
export function engineReasoning(fields: ReasoningFields): Reasoning | undefined {
  const { thinking, chat_template_kwargs: kwargs } = fields;
  const told = kwargs?.thinking ?? kwargs?.enable_thinking;
  // "adaptive" leaves it to the model.
  const enabled = thinking?.type ? (thinking.type === "adaptive" ? undefined : thinking.type === "enabled") : told;
  const effort = thinking?.effort ?? fields.reasoning_effort ?? kwargs?.reasoning_effort;
  const budget = thinking?.budget_tokens ?? fields.thinking_token_budget ?? fields.max_reasoning_tokens;
  const keep = thinking?.keep === "all" || kwargs?.preserve_thinking ? true : undefined;
  if (effort !== undefined && !efforts.includes(effort))
    throw invalid(thinking?.effort ? "thinking.effort" : "reasoning_effort", `one of ${efforts.join(", ")}`);
  const reasoning = Object.entries({ enabled, effort, budget, keep }).filter(([, value]) => value !== undefined);
  return reasoning.length ? (Object.fromEntries(reasoning) as Reasoning) : undefined;
}
export const efforts: readonly string[] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
