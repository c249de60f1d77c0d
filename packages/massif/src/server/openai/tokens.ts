/** `/tokenize` and `/detokenize` in vLLM's words, and Moonshot's own endpoints (serving-and-agent.md §3.5). */
import type { Hono } from "hono";
import { z } from "zod";
import { MessageSchema, ToolSpecSchema } from "../../chat/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { readFields } from "../body.ts";
import { ApiError } from "../errors.ts";
import { type App, body, type Ctx, type Env, modelIn } from "../http.ts";
import type { Prepare } from "../moonshot/routes.ts";
import { readChat } from "./chat.ts";

const TokenizeBody = z.object({
  model: z.string().optional(),
  prompt: z.string().optional(),
  messages: z.array(MessageSchema).optional(),
  tools: z.array(ToolSpecSchema).optional(),
  add_special_tokens: z.boolean().optional(),
  add_generation_prompt: z.literal(true).optional(),
  return_token_strs: z.boolean().optional(),
});
const DetokenizeBody = z.object({ model: z.string().optional(), tokens: z.array(z.int().min(0)) });

export function tokenRoutes(hono: Hono<Env>, app: App, prepare: Prepare): void {
  const { service } = app;
  const backendOf = (model: string | undefined) => service.backend(model ?? service.backends[0]?.names[0] ?? "");
  const tokenizerOf = (model: string | undefined): Tokenizer => {
    const { format } = backendOf(model);
    if (format) return format.tokenizer;
    throw new ApiError(400, "model: its tokenizer is not here; start the gateway with --tokenizer", { param: "model" });
  };

  hono.post("/tokenize", async (c) => {
    const { model, prompt, messages, tools, return_token_strs } = readFields(TokenizeBody, await body(c, app));
    const tokenizer = tokenizerOf(model);
    const backend = backendOf(model);
    if ((prompt === undefined) === (messages === undefined))
      throw new ApiError(400, "prompt: either prompt or messages", { param: "prompt" });
    const tokens = messages
      ? backend.prompt!({ messages, ...(tools && { tools }) }).ids
      : Array.from(tokenizer.encode(prompt!));
    return c.json({
      count: tokens.length,
      max_model_len: backend.contextLength ?? null,
      tokens,
      ...(return_token_strs && { token_strs: tokens.map((id) => tokenizer.decode([id])) }),
    });
  });

  hono.post("/detokenize", async (c) => {
    const { model, tokens } = readFields(DetokenizeBody, await body(c, app));
    const tokenizer = tokenizerOf(model);
    const bad = tokens.find((id) => id >= tokenizer.vocabSize);
    if (bad !== undefined) throw new ApiError(400, `tokens: there is no token ${bad}`, { param: "tokens" });
    return c.json({ prompt: tokenizer.decode(tokens) });
  });

  hono.post("/v1/tokenizers/estimate-token-count", async (c) => {
    const { fields } = await prepare(c as Ctx, await body(c, app));
    const model = modelIn(fields);
    const { chat } = readChat(fields, service.backend(model), app);
    return c.json({ data: { total_tokens: service.countTokens(model, chat) } });
  });

  // A self-hosted server sells nothing: the balance is what a key has left of its tokens.
  hono.get("/v1/users/me/balance", (c) => {
    const key = c.get("key");
    const left = key?.limits.tokens === undefined ? 0 : Math.max(0, key.limits.tokens - key.spent);
    const data = { available_balance: left, voucher_balance: 0, cash_balance: left };
    return c.json({ code: 0, data, scode: "0x0", status: true });
  });
}
