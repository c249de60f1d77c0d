/** `/v1/responses/compact`: a conversation made short. What users said stays; all else becomes one item, a summary that
 *  only this server can read. */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import type { Hono } from "hono";
import { z } from "zod";
import { assembleCompletion } from "../../llm/index.ts";
import { readFields } from "../body.ts";
import { ApiError, invalid } from "../errors.ts";
import { type App, body, type Ctx, type Env, leaving, modelIn } from "../http.ts";
import { ownerOf } from "../shelf.ts";
import { type Item, type ResponsesCall, responsesUsage } from "./responses.ts";

const CompactBody = z.object({
  model: z.string(),
  input: z.unknown().optional(),
  previous_response_id: z.string().optional(),
  instructions: z.string().optional(),
  prompt_cache_key: z.string().max(64).optional(),
  prompt_cache_retention: z.string().optional(),
  prompt_cache_options: z.unknown().optional(),
  service_tier: z.enum(["auto", "default"], "there is one tier: auto or default").optional(),
});

/** Tokens of a summary, reasoning included. */
const MOST = 4096;
const ASK =
  "Summarize our conversation so far for an assistant who will go on with it and has only what I said. Keep what was found " +
  "out, what was done with which result, decisions and their reasons, names, numbers, and what is still to do. Write the " +
  "summary only.";
const LEAD = "Summary of the conversation before, by the assistant:\n";

export function compactionRoutes(
  hono: Hono<Env>,
  app: App,
  read: (c: Ctx, fields: Record<string, unknown>) => ResponsesCall,
): void {
  const { service, secret } = app;
  hono.post("/v1/responses/compact", async (c) => {
    const given = await body(c as Ctx, app);
    service.backend(modelIn(given));
    const { model, input, previous_response_id, instructions, prompt_cache_key } = readFields(CompactBody, given, app);
    if (input == null && previous_response_id === undefined) throw invalid("input", "input, or previous_response_id");
    const call = read(c as Ctx, {
      ...{ model, input: input ?? [], previous_response_id, prompt_cache_key, store: false },
      instructions: instructions ?? null,
    });
    const messages = [...call.chat.messages, { role: "user" as const, content: ASK }];
    const { caller } = leaving(c as Ctx);
    const chat = { ...call.chat, messages, sampling: { maxTokens: MOST } };
    const events = await Array.fromAsync(service.run({ ...call, chat }, caller), ({ event }) => event);
    const { message, usage } = assembleCompletion(events);
    const summary = String(message.content ?? "").trim();
    if (!summary) throw new ApiError(502, "the model wrote no summary", { code: "no_summary" });
    const output = [
      ...call.history.flatMap((item, i) => said(item, i)),
      { id: `cmp_${app.newId()}`, type: "compaction", encrypted_content: seal(summary, secret, ownerOf(c as Ctx)) },
    ];
    return c.json({
      ...{ id: `resp_${app.newId()}`, object: "response.compaction", created_at: app.unixTime(), output },
      usage: responsesUsage(usage ?? { promptTokens: 0, completionTokens: 0 }),
    });
  });
}

/** A user's message, as an item of the output. */
function said(item: Item, at: number): Record<string, unknown>[] {
  if (!("role" in item) || item.role !== "user") return [];
  const { content } = item;
  const text = typeof content === "string" ? content : content.map(({ text = "" }) => text).join("");
  // A summary that was read is part of the next one.
  if (text.startsWith(LEAD)) return [];
  const parts = [{ type: "input_text", text }];
  return [{ id: item.id ?? `msg_${at}`, type: "message", role: "user", status: "completed", content: parts }];
}

/** A body with summaries in place of the items that hold them. Throws 400 for one that another server or key has made. */
export function withSummaries(fields: Record<string, unknown>, c: Ctx, secret: string): Record<string, unknown> {
  if (!Array.isArray(fields.input)) return fields;
  const input = fields.input.map((item: { type?: unknown; encrypted_content?: unknown } | null, i) => {
    if (item?.type !== "compaction") return item;
    const text = open(String(item.encrypted_content), secret, ownerOf(c));
    if (text === undefined) throw invalid(`input[${i}].encrypted_content`, "not what this server made for this key");
    return { type: "message", role: "user", content: LEAD + text };
  });
  return { ...fields, input };
}

const keyOf = (secret: string): Buffer => createHash("sha256").update(`compaction\0${secret}`).digest();

/** AES-256-GCM, base64: nonce, tag, text; bound to its owner. */
function seal(text: string, secret: string, owner: string): string {
  const nonce = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", keyOf(secret), nonce).setAAD(Buffer.from(owner));
  const sealed = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
  return Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString("base64");
}

function open(sealed: string, secret: string, owner: string): string | undefined {
  const bytes = Buffer.from(sealed, "base64");
  if (bytes.length < 28) return undefined;
  const cipher = createDecipheriv("aes-256-gcm", keyOf(secret), bytes.subarray(0, 12));
  cipher.setAAD(Buffer.from(owner)).setAuthTag(bytes.subarray(12, 28));
  try {
    return Buffer.concat([cipher.update(bytes.subarray(28)), cipher.final()]).toString("utf8");
  } catch {
    return undefined;
  }
}
