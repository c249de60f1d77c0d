/** Chat completions that were asked to be kept (`store: true`): found by model and metadata, each key's own, the oldest
 *  forgotten. */
import { join } from "node:path";
import type { Hono } from "hono";
import { z } from "zod";
import { readFields } from "../body.ts";
import { type App, body, type Ctx, type Env } from "../http.ts";
import type { Tagged } from "../service.ts";
import { Metadata, ownerOf, page, Shelf } from "../shelf.ts";
import type { ChatCall } from "./chat.ts";
import { chatAnswer, type Head } from "./chat-chunks.ts";

interface StoredChat {
  id: string;
  completion: Record<string, unknown> & { model: string; metadata: Record<string, string> };
  /** As they were asked. */
  messages: Record<string, unknown>[];
}

/** Of a key; and bytes of all. */
const MOST = { chats: 10_000, bytes: 256 << 20 };

/** What a stored completion tells of its request. */
const told = [
  ...["tools", "tool_choice", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"],
  "response_format",
] as const;

export class StoredChats {
  readonly #shelf: Shelf<StoredChat>;

  constructor({ state }: App) {
    const folder = state === undefined ? undefined : join(state, "chat");
    this.#shelf = new Shelf({
      ...{ kind: "chat completion", folder, most: MOST.chats, mostBytes: MOST.bytes, full: "forget" },
    });
  }

  /** Passes the events of a request on, and keeps the answer that they make once it is whole. Throws 400. */
  keeping(c: Ctx, head: Head, call: ChatCall, fields: Record<string, unknown>, events: AsyncIterable<Tagged>) {
    if (fields.store !== true) return events;
    const { metadata = {} } = readFields(z.object({ metadata: Metadata.optional() }), {
      metadata: fields.metadata ?? null,
    });
    return this.#keep(c, head, call, { ...fields, metadata }, events);
  }

  async *#keep(
    c: Ctx,
    head: Head,
    call: ChatCall,
    fields: Record<string, unknown> & { metadata: Record<string, string> },
    events: AsyncIterable<Tagged>,
  ): AsyncGenerator<Tagged, void, undefined> {
    const all: Tagged[] = [];
    for await (const event of events) {
      all.push(event);
      yield event;
    }
    const { model, metadata } = fields;
    const asked = Object.fromEntries(told.map((name) => [name, fields[name] ?? null]));
    const completion = {
      ...{ ...chatAnswer(head, call, all), ...asked, model: String(model), metadata, service_tier: "default" },
      ...{ request_id: c.get("requestId"), input_user: fields.user ?? null },
    };
    const messages = fields.messages as StoredChat["messages"];
    this.#shelf.add(ownerOf(c), { id: head.id, completion, messages });
  }

  get(c: Ctx): StoredChat {
    return this.#shelf.get(ownerOf(c), c.req.param("id")!);
  }

  /** Oldest first. */
  list(c: Ctx): StoredChat[] {
    return this.#shelf.list(ownerOf(c));
  }

  put(c: Ctx, chat: StoredChat): void {
    this.#shelf.put(ownerOf(c), chat);
  }

  delete({ id }: StoredChat): void {
    this.#shelf.delete(id);
  }
}

export function storedChatRoutes(hono: Hono<Env>, app: App, stored: StoredChats): void {
  hono.get("/v1/chat/completions", (c) => {
    const { model, ...query } = c.req.query();
    const wanted = Object.entries(query).flatMap(([name, value]) => {
      const key = /^metadata\[(.*)\]$/s.exec(name)?.[1];
      if (key === undefined) return [];
      delete query[name];
      return [[key, value] as const];
    });
    const found = stored.list(c as Ctx).filter(({ completion }) => {
      if (model !== undefined && completion.model !== model) return false;
      return wanted.every(([key, value]) => completion.metadata[key] === value);
    });
    const { data, ...rest } = page(found, query, { order: "asc" });
    return c.json({ ...rest, data: data.map(({ completion }) => completion) });
  });
  hono.get("/v1/chat/completions/:id", (c) => c.json(stored.get(c as Ctx).completion));
  hono.get("/v1/chat/completions/:id/messages", (c) => {
    const { id, messages } = stored.get(c as Ctx);
    const rows = messages.map((message, i) => {
      const parts = Array.isArray(message.content) ? (message.content as { text?: string }[]) : null;
      const content = parts ? parts.map(({ text = "" }) => text).join("") : (message.content ?? null);
      return { ...message, id: `${id}-${i}`, content, refusal: null, name: message.name ?? null, content_parts: parts };
    });
    return c.json(page(rows, c.req.query(), { order: "asc" }));
  });
  hono.post("/v1/chat/completions/:id", async (c) => {
    const chat = stored.get(c as Ctx);
    const { metadata } = readFields(z.object({ metadata: Metadata }), await body(c as Ctx, app));
    const changed = { ...chat, completion: { ...chat.completion, metadata } };
    stored.put(c as Ctx, changed);
    return c.json(changed.completion);
  });
  hono.delete("/v1/chat/completions/:id", (c) => {
    const chat = stored.get(c as Ctx);
    stored.delete(chat);
    return c.json({ object: "chat.completion.deleted", id: chat.id, deleted: true });
  });
}
