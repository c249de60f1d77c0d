/** What a model is asked: one message that goes on from a conversation. `n` answers are `n` requests (each with its own
 *  seed): an engine shares their prefix anyway, and every wrapper stays a wrapper of one stream. */
import { createHash } from "node:crypto";
import { z } from "zod";
import type { JsonSchema, Message, ToolSpec } from "../chat/index.ts";

/** How tokens are chosen. What is left out is the model's own default. */
export const SamplingSchema = z.strictObject({
  temperature: z.number().min(0).optional().describe("0 takes the likeliest token."),
  topP: z.number().min(0).max(1).optional().describe("Only the likeliest tokens that together reach this probability."),
  topK: z.int().min(1).optional().describe("Only the k likeliest tokens."),
  minP: z.number().min(0).max(1).optional().describe("Only tokens at least this share as likely as the likeliest."),
  repetitionPenalty: z.number().positive().optional().describe("Divides the logits of tokens seen before; 1 is none."),
  presencePenalty: z.number().optional().describe("Subtracted from the logits of tokens written before."),
  frequencyPenalty: z.number().optional().describe("Subtracted for each time that a token was written before."),
  logitBias: z.record(z.string(), z.number()).optional().describe("Token id to what is added to its logit."),
  seed: z.int().optional().describe("The same seed and request give the same answer, where the model can."),
  stop: z.array(z.string().min(1)).optional().describe("Texts that end the message, and are not part of it."),
  includeStop: z.boolean().optional().describe("The stop text is a part of the message after all."),
  stopIds: z.array(z.int().min(0)).optional().describe("Tokens that end the message, and are not part of it."),
  ignoreEnd: z.boolean().optional().describe("The model's own end token does not end the message."),
  minTokens: z.int().min(0).optional().describe("No stop counts before so many tokens."),
  allowedIds: z.array(z.int().min(0)).min(1).optional().describe("Only these tokens come."),
  badWords: z.array(z.string().min(1)).optional().describe("Texts that are not said, as the tokens that spell them."),
  maxTokens: z.int().min(0).optional().describe("Most tokens of the message, reasoning included."),
});
export type Sampling = z.output<typeof SamplingSchema>;

export type ToolChoice = "auto" | "none" | "required" | { name: string };

export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | { type: "json_schema"; name: string; schema: JsonSchema; description?: string; strict?: boolean }
  /** The whole answer matches a regular expression, is one of some texts, or a sentence of a grammar (EBNF or Lark). */
  | { type: "regex"; pattern: string }
  | { type: "choice"; choices: readonly string[] }
  | { type: "grammar"; grammar: string };

/** Whether and how long to think, for models that let one choose. */
export interface Reasoning {
  enabled?: boolean;
  effort?: string;
  /** Most tokens of reasoning. */
  budget?: number;
  /** Keeps the reasoning of every turn in the prompt, not only of the current chain of tool calls. */
  keep?: boolean;
}

export interface ChatRequest {
  messages: readonly Message[];
  tools?: readonly ToolSpec[];
  /** Default: "auto" with tools. */
  toolChoice?: ToolChoice;
  /** false: at most one call. */
  parallelToolCalls?: boolean;
  responseFormat?: ResponseFormat;
  reasoning?: Reasoning;
  sampling?: Sampling;
  /** Asks for the log-probability of every token, and for this many of the likeliest at its place (0: only its own). */
  logprobs?: number;
  /** Asks for the ids of prompt and tokens (vLLM's `return_token_ids`). */
  tokenIds?: boolean;
  /** Asks for the log-probability of every token of the prompt, and so many of the likeliest at its place. */
  promptLogprobs?: number;
  /** Of the prompt only this many tokens, the last; −1: as many as fit. */
  truncatePrompt?: number;
  /** Lower goes first, where the model has a queue. */
  priority?: number;
  /** What was computed for this request is found only by requests with the same salt. */
  salt?: string;
  /** The whole prompt as ids, up to and with the header of the answer: what a rendering of `messages` would be, but never
   *  tokenized again. A model that takes it says so with the same `promptIds` in its `start`; any other renders as ever. */
  promptIds?: readonly number[];
  /** Fields for the upstream as they are, over all others. */
  extra?: Readonly<Record<string, unknown>>;
  signal?: AbortSignal;
  /** Told what became of the request, once it is over, by a model that can tell. Not part of the key. */
  onTrace?: (trace: Trace) => void;
  /** About the request: whose it is, what for. No model reads it, and it is no part of the key. */
  metadata?: Readonly<Record<string, string>>;
}

/** What became of a request: milliseconds after it arrived, and what it took. */
export interface Trace {
  admitted?: number;
  firstToken?: number;
  finished?: number;
  preemptions: number;
  blocksFound: number;
  /** The enforcer's: masks asked for, worked out anew, leaving a single token, and the time of all. */
  masks: { asked: number; computed: number; forced: number; milliseconds: number };
}

const messageKeys = [
  ...["role", "name", "content", "reasoning_content", "tool_calls", "tool_call_id", "tools", "partial"],
] as const;

/** All that decides the answer, as plain JSON in one order of keys. Tools, schemas and arguments keep their own order,
 *  because a prompt shows them as they are. */
export function canonical(request: ChatRequest): Record<string, unknown> {
  const { messages, tools, signal: _, onTrace: ___, metadata: __, sampling, reasoning, extra, ...rest } = request;
  const plain = {
    messages: messages.map((message) => Object.fromEntries(pick(message, messageKeys))),
    ...(tools?.length && { tools }),
    ...Object.fromEntries(pick(rest, Object.keys(rest).sort())),
    ...sorted("sampling", sampling),
    ...sorted("reasoning", reasoning),
    ...sorted("extra", extra),
  };
  // Through JSON, so that what is compared with a recording is what a recording can hold.
  return JSON.parse(JSON.stringify(plain)) as Record<string, unknown>;
}

const pick = (from: object, keys: readonly string[]): [string, unknown][] =>
  keys.map((key): [string, unknown] => [key, (from as Record<string, unknown>)[key]]);

const sorted = (name: string, part: object | undefined) =>
  part && Object.values(part).some((value) => value !== undefined)
    ? { [name]: Object.fromEntries(pick(part, Object.keys(part).sort())) }
    : {};

/** SHA-256 (hex) of a model's name and of all that decides its answer. */
export function requestKey(name: string, request: ChatRequest): string {
  return createHash("sha256")
    .update(JSON.stringify([name, canonical(request)]))
    .digest("hex");
}

/** The path and the two values where two canonical requests first differ, in the order of reading; undefined where they
 *  are the same. */
export function firstDifference(
  a: unknown,
  b: unknown,
  path = "",
): { path: string; a: unknown; b: unknown } | undefined {
  const isTree = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;
  if (isTree(a) && isTree(b) && Array.isArray(a) === Array.isArray(b)) {
    for (const key of new Set([...Object.keys(a), ...Object.keys(b)])) {
      const step = Array.isArray(a) ? `[${key}]` : path ? `.${key}` : key;
      const difference = firstDifference(a[key], b[key], path + step);
      if (difference) return difference;
    }
    // The same members in another order make another prompt (tools, schemas, arguments).
    const [keys, others] = [Object.keys(a).join(), Object.keys(b).join()];
    return keys === others ? undefined : { path: `${path} (order of keys)`, a: keys, b: others };
  }
  return Object.is(a, b) ? undefined : { path: path || "request", a, b };
}
