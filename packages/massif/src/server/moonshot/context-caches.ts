/** Moonshot's context caches (`/v1/caching`): beginnings of conversations that are kept under an id for a while, and, in our
 *  own engine, in its cache: pinned prefixes with a time to live (serving-and-agent.md §3.5). */
import { join } from "node:path";
import type { Hono } from "hono";
import { z } from "zod";
import type { Pin } from "../../engine/index.ts";
import { readFields } from "../body.ts";
import { invalid } from "../errors.ts";
import { type App, body, type Ctx, callerOf, type Env } from "../http.ts";
import { readChat } from "../openai/chat.ts";
import { Metadata, ownerOf, page, Shelf } from "../shelf.ts";

interface Cache {
  id: string;
  model: string;
  messages: unknown[];
  tools: unknown[] | null;
  name: string | null;
  description: string | null;
  metadata: Record<string, string>;
  created_at: number;
  /** Unix seconds. */
  expired_at: number;
  tokens: number;
  failed?: boolean;
}
interface Tag {
  /** `owner/tag` */
  id: string;
  tag: string;
  cache_id: string;
  created_at: number;
}

/** Of a key; and seconds. */
const MOST = { caches: 100, tags: 1000, ttl: 30 * 24 * 3600 };
/** Seconds for which one that has expired is still shown. */
const KEPT = 24 * 3600;
const Ttl = z.coerce.number("seconds").int().min(1).max(MOST.ttl);
const times = { ttl: Ttl.optional(), expired_at: z.int().optional() };
const CreateBody = z.object({
  model: z.string(),
  messages: z.array(z.unknown()).min(1),
  tools: z.array(z.unknown()).optional(),
  name: z.string().max(256).optional(),
  description: z.string().max(4096).optional(),
  metadata: Metadata.optional(),
  ...times,
});
const ChangeBody = z.object({ metadata: Metadata.optional(), ...times });
const TagBody = z.object({ tag: z.string().regex(/^[\w.-]{1,128}$/, "letters, digits, _ . -"), cache_id: z.string() });
const Use = z.object({
  cache_id: z.string().optional(),
  tag: z.string().optional(),
  reset_ttl: Ttl.optional(),
  dry_run: z.coerce.number().int().min(0).max(1).optional(),
});

export class ContextCaches {
  readonly #app: App;
  readonly #shelf: Shelf<Cache>;
  readonly #tags: Shelf<Tag>;
  readonly #pins = new Map<string, Pin>();
  readonly #pending = new Map<string, Promise<void>>();
  readonly #timers = new Map<string, NodeJS.Timeout>();

  constructor(app: App) {
    this.#app = app;
    const at = (kind: string) => (app.state === undefined ? undefined : join(app.state, kind));
    this.#shelf = new Shelf({ kind: "cache", folder: at("caching"), most: MOST.caches, full: "refuse" });
    this.#tags = new Shelf({ kind: "tag", folder: at("caching-tags"), most: MOST.tags, full: "refuse" });
    app.service.ending.addEventListener("abort", () => {
      for (const timer of this.#timers.values()) clearTimeout(timer);
    });
  }

  routes(hono: Hono<Env>): void {
    const owner = (c: unknown) => ownerOf(c as Ctx);
    const tagOf = (c: Ctx) => this.#tags.get(owner(c), `${owner(c)}/${c.req.param("tag")}`);
    hono.post("/v1/caching/refs/tags", async (c) => {
      const { tag, cache_id } = readFields(TagBody, await body(c as Ctx, this.#app));
      this.#shelf.get(owner(c), cache_id, "cache_id");
      const record = { id: `${owner(c)}/${tag}`, tag, cache_id, created_at: this.#app.unixTime() };
      if (this.#tags.has(record.id)) this.#tags.put(owner(c), record);
      else this.#tags.add(owner(c), record);
      return c.json(shownTag(record));
    });
    hono.get("/v1/caching/refs/tags", (c) => {
      const { data, ...rest } = page(this.#tags.list(owner(c)), c.req.query(), { order: "desc" });
      return c.json({ ...rest, data: data.map(shownTag) });
    });
    hono.get("/v1/caching/refs/tags/:tag", (c) => c.json(shownTag(tagOf(c as Ctx))));
    hono.get("/v1/caching/refs/tags/:tag/content", (c) =>
      c.json(this.#shown(this.#shelf.get(owner(c), tagOf(c as Ctx).cache_id))),
    );
    hono.delete("/v1/caching/refs/tags/:tag", (c) => {
      const { id, tag } = tagOf(c as Ctx);
      this.#tags.delete(id);
      return c.json({ object: "context_cache_ref", tag, deleted: true });
    });
    hono.post("/v1/caching", async (c) => {
      const fields = readFields(CreateBody, await body(c as Ctx, this.#app));
      const now = this.#app.unixTime();
      const { model, messages, tools = null, name = null, description = null, metadata = {} } = fields;
      const cache: Cache = {
        ...{ id: `cache-${this.#app.newId()}`, model, messages, tools, name, description, metadata, created_at: now },
        ...{ expired_at: expiryOf(fields, now) ?? now + 3600, tokens: 0 },
      };
      for (const old of this.#shelf.list(owner(c))) if (old.expired_at < now - KEPT) this.#shelf.delete(old.id);
      const chat = this.#chat(cache);
      cache.tokens = this.#app.service.backend(model).prompt?.(chat).ids.length ?? 0;
      this.#shelf.add(owner(c), cache);
      this.#expireLater(cache);
      this.#pin(c as Ctx, cache);
      return c.json(this.#shown(cache));
    });
    hono.get("/v1/caching", (c) => {
      const { data, ...rest } = page(this.#shelf.list(owner(c)), c.req.query(), { order: "desc" });
      return c.json({ ...rest, data: data.map((cache) => this.#shown(cache)) });
    });
    hono.get("/v1/caching/:id", (c) => c.json(this.#shown(this.#shelf.get(owner(c), c.req.param("id")))));
    hono.put("/v1/caching/:id", async (c) => {
      const cache = this.#shelf.get(owner(c), c.req.param("id"));
      const { metadata, ...rest } = readFields(ChangeBody, await body(c as Ctx, this.#app));
      if (metadata) cache.metadata = metadata;
      cache.expired_at = expiryOf(rest, this.#app.unixTime()) ?? cache.expired_at;
      this.#shelf.put(owner(c), cache);
      this.#expireLater(cache);
      return c.json(this.#shown(cache));
    });
    hono.delete("/v1/caching/:id", (c) => {
      const { id } = this.#shelf.get(owner(c), c.req.param("id"));
      this.#unpin(id);
      clearTimeout(this.#timers.get(id));
      this.#shelf.delete(id);
      return c.json({ id, object: "context_cache_object", deleted: true });
    });
  }

  /** A body whose first message (`role: "cache"`) or head names a cache, with what the cache holds in its place; and what
   *  the answer's heads tell. Throws 400 and 404 that name the message. */
  expand(
    c: Ctx,
    fields: Record<string, unknown>,
  ): { fields: Record<string, unknown>; headers: Record<string, string> } {
    const use = useOf(c, fields);
    if (!use) return { fields, headers: {} };
    const { cache_id, tag, reset_ttl, dry_run, rest, param } = use;
    const owner = ownerOf(c);
    const id = cache_id ?? this.#tags.get(owner, `${owner}/${tag}`, param).cache_id;
    const cache = this.#shelf.get(owner, id, param);
    const now = this.#app.unixTime();
    if (cache.expired_at <= now) throw invalid(param, `${id} has expired`);
    if (fields.model !== cache.model) throw invalid("model", `${id} is a cache of ${cache.model}`);
    if (cache.tools && fields.tools != null) throw invalid("tools", `${id} brings its own`);
    if (reset_ttl !== undefined) {
      cache.expired_at = now + reset_ttl;
      this.#shelf.put(owner, cache);
      this.#expireLater(cache);
    }
    const pin = this.#pins.get(id);
    const saved = pin?.held ? pin.tokens : 0;
    // Other weights, or want of room: what this request computes is there to be pinned again.
    if (!pin?.held) this.#pin(c, cache);
    const expanded = { ...fields, messages: [...cache.messages, ...rest], ...(cache.tools && { tools: cache.tools }) };
    const headers = {
      "msh-context-cache-id": id,
      "msh-context-cache-token-ttl": String(cache.expired_at - now),
      "msh-context-cache-token-saved": String(saved),
    };
    return { fields: dry_run ? { ...expanded, max_tokens: 1, max_completion_tokens: 1 } : expanded, headers };
  }

  #shown(cache: Cache): Record<string, unknown> {
    const { failed, ...rest } = cache;
    const expired = cache.expired_at <= this.#app.unixTime();
    const pins = this.#app.service.backends.some(({ names, pin }) => pin && names.includes(cache.model));
    const held = !pins || this.#pins.get(cache.id)?.held;
    const status = expired
      ? "expired"
      : failed
        ? "error"
        : this.#pending.has(cache.id)
          ? "pending"
          : held
            ? "ready"
            : "inactive";
    return { ...rest, object: "context_cache_object", status };
  }

  #chat({ model, messages, tools }: Cache) {
    const backend = this.#app.service.backend(model);
    return readChat({ model, messages, ...(tools && { tools }) }, backend, this.#app).chat;
  }

  /** Computes the prefix and holds it, where the model is our own. */
  #pin(c: Ctx, cache: Cache): void {
    const { service } = this.#app;
    const backend = service.backend(cache.model);
    const { id } = cache;
    if (!backend.pin || this.#pending.has(id)) return;
    const pin = backend.pin;
    // It goes on when the client has its answer.
    const caller = { ...callerOf(c), signal: service.ending };
    const work = service
      .task(backend, caller, async () => {
        const value = await pin(this.#chat(cache));
        return { value, usage: { promptTokens: cache.tokens, completionTokens: 0 } };
      })
      .then((held) => {
        this.#unpin(id);
        if (this.#shelf.has(id) && cache.expired_at > this.#app.unixTime()) this.#pins.set(id, held);
        else held[Symbol.dispose]();
        delete cache.failed;
      })
      .catch(() => {
        cache.failed = true;
      })
      .finally(() => this.#pending.delete(id));
    this.#pending.set(id, work);
  }

  #unpin(id: string): void {
    this.#pins.get(id)?.[Symbol.dispose]();
    this.#pins.delete(id);
  }

  #expireLater({ id, expired_at }: Cache): void {
    clearTimeout(this.#timers.get(id));
    const wait = Math.max(0, expired_at - this.#app.unixTime()) * 1000;
    // Timers go no further than 2³¹ ms.
    this.#timers.set(id, setTimeout(() => this.#unpin(id), Math.min(wait, 2 ** 31 - 1)).unref());
  }
}

const shownTag = ({ id: _, ...tag }: Tag) => ({ object: "context_cache_ref", ...tag });

function expiryOf({ ttl, expired_at }: { ttl?: number | undefined; expired_at?: number | undefined }, now: number) {
  if (ttl !== undefined && expired_at !== undefined) throw invalid("ttl", "not together with expired_at");
  if (expired_at !== undefined && (expired_at <= now || expired_at > now + MOST.ttl))
    throw invalid("expired_at", `a time to come, at most ${MOST.ttl} seconds away`);
  return ttl === undefined ? expired_at : now + ttl;
}

/** Which cache a request uses, by its first message or its head; and the messages that follow. */
function useOf(c: Ctx, fields: Record<string, unknown>) {
  const messages = Array.isArray(fields.messages) ? (fields.messages as unknown[]) : [];
  const roles = messages.map((message) => (message as { role?: unknown } | null)?.role);
  const late = roles.lastIndexOf("cache");
  if (late > 0) throw invalid(`messages[${late}].role`, "a cache comes first");
  const head = c.req.header("x-msh-context-cache");
  if (late < 0) {
    if (head === undefined) return undefined;
    const reset_ttl = c.req.header("x-msh-context-cache-reset-ttl");
    const use = readFields(Use, { cache_id: head, ...(reset_ttl !== undefined && { reset_ttl }) });
    return { ...use, rest: messages, param: "x-msh-context-cache" };
  }
  const param = "messages[0].content";
  const { content, ...own } = messages[0] as { content?: unknown; role: string };
  // `cache_id=…;reset_ttl=3600`, an object, or the members beside the role.
  const pairs =
    typeof content === "string"
      ? Object.fromEntries(content.split(";").map((pair) => pair.split("=").map((part) => part.trim())))
      : { ...own, role: null, ...(content as object | undefined) };
  const use = readFields(Use, pairs as Record<string, unknown>);
  if ((use.cache_id === undefined) === (use.tag === undefined)) throw invalid(param, "a cache_id or a tag");
  return { ...use, rest: messages.slice(1), param };
}
