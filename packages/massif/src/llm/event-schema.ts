/** Events as they stand in files: caches and recordings. */
import { z } from "zod";
import { problemCodes } from "../chat/index.ts";
import type { ModelEvent, TokenInfo } from "./model.ts";
import { PromptLogprobs } from "./wire.ts";

const count = z.int().nonnegative();
const likely = {
  id: count.optional(),
  text: z.string().optional(),
  bytes: z.array(count).optional(),
  logprob: z.number().optional(),
};
const Token = z.object({ ...likely, top: z.array(z.object(likely)).optional() }) satisfies z.ZodType<TokenInfo>;

export const ModelEventSchema = z.discriminatedUnion("type", [
  z.object({
    type: z.literal("start"),
    id: z.string().optional(),
    model: z.string().optional(),
    weights: z.union([z.string(), z.number()]).optional(),
    promptIds: z.array(count).optional(),
    promptLogprobs: PromptLogprobs.optional(),
  }),
  z.object({ type: z.literal(["reasoning", "text"]), text: z.string() }),
  z.object({ type: z.literal("tool-call-begin"), index: count, id: z.string(), name: z.string() }),
  z.object({ type: z.literal("tool-call-delta"), index: count, arguments: z.string() }),
  z.object({ type: z.literal("tool-call-end"), index: count }),
  z.object({ type: z.literal("problem"), code: z.enum(problemCodes), text: z.string() }),
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
    stop: z.union([z.string(), count]).optional(),
  }),
]) satisfies z.ZodType<ModelEvent>;
