/** Events as they stand in files: caches and recordings. */
import { z } from "zod";
import type { ModelEvent, TokenInfo } from "./model.ts";

const count = z.int().nonnegative();
const likely = {
  id: count.optional(),
  text: z.string().optional(),
  bytes: z.array(count).optional(),
  logprob: z.number().optional(),
};
const Token = z.object({ ...likely, top: z.array(z.object(likely)).optional() }) satisfies z.ZodType<TokenInfo>;

const problems = [
  ...(["stray-marker", "text-in-section", "text-after-section", "text-after-end", "section-missing"] as const),
  ...(["section-repeated", "section-unclosed", "call-unclosed", "bad-id", "repeated-id", "nameless-call"] as const),
  ...(["arguments-missing", "arguments-invalid", "turn-unclosed"] as const),
] as const;

export const ModelEventSchema = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("start"),
    id: z.string().optional(),
    model: z.string().optional(),
    weights: z.union([z.string(), z.number()]).optional(),
    promptIds: z.array(count).optional(),
  }),
  z.object({ type: z.literal(["reasoning", "text"]), text: z.string() }),
  z.object({ type: z.literal("tool-call-begin"), index: count, id: z.string(), name: z.string() }),
  z.object({ type: z.literal("tool-call-delta"), index: count, arguments: z.string() }),
  z.object({ type: z.literal("tool-call-end"), index: count }),
  z.object({ type: z.literal("problem"), code: z.enum(problems), text: z.string() }),
  z.object({ type: z.literal("tokens"), tokens: z.array(Token) }),
  z.object({
    type: z.literal("usage"),
    usage: z.object({
      promptTokens: count,
      completionTokens: count,
      cachedTokens: count.optional(),
      reasoningTokens: count.optional(),
    }),
  }),
  z.object({
    type: z.literal("finish"),
    reason: z.enum(["stop", "tool_calls", "length", "content_filter"]),
    stop: z.string().optional(),
  }),
]) satisfies z.ZodType<ModelEvent>;
