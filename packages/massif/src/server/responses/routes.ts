/** The routes of the Responses API, and the responses that are kept: in memory, each key its own, the oldest forgotten. */
import type { Hono } from "hono";
import { ApiError, toApiError } from "../errors.ts";
import { explanationOf } from "../explain.ts";
import { type App, body, type Ctx, type Env, leaving, modelIn, stream } from "../http.ts";
import { ownerOf, page } from "../shelf.ts";
import { frame } from "../sse.ts";
import { compactionRoutes, withSummaries } from "./compaction.ts";
import { ResponseEvents } from "./events.ts";
import { type Item, type ResponsesCall, readResponses } from "./responses.ts";

interface Stored {
  owner: string;
  events: ResponseEvents;
  input: Item[];
  history: Item[];
  cancel(): void;
  bytes: number;
}

/** Of all stored responses; beyond, the oldest are forgotten. */
const STORE = { responses: 10_000, bytes: 256 << 20 };

class ResponseStore {
  readonly #stored = new Map<string, Stored>();
  #bytes = 0;

  add(id: string, stored: Stored): void {
    this.#stored.set(id, stored);
    this.#bytes += stored.bytes;
    for (const [old] of this.#stored) {
      if (this.#stored.size <= STORE.responses && this.#bytes <= STORE.bytes) break;
      if (old !== id) this.delete(old);
    }
  }

  delete(id: string): void {
    const stored = this.#stored.get(id);
    if (!stored) return;
    this.#stored.delete(id);
    this.#bytes -= stored.bytes;
  }

  /** Of a key's own: those of these items that its stored responses have made. */
  items(ids: ReadonlySet<string>, c: Ctx): Map<string, Item> {
    const owner = ownerOf(c);
    const found = new Map<string, Item>();
    for (const { owner: whose, events } of [...this.#stored.values()].reverse()) {
      if (found.size === ids.size) break;
      if (whose === owner) for (const item of events.items) if (item.id && ids.has(item.id)) found.set(item.id, item);
    }
    return found;
  }

  /** Throws 404, for another key's too. */
  get(id: string, c: Ctx, param?: string): Stored {
    const stored = this.#stored.get(id);
    if (stored && stored.owner === ownerOf(c)) return stored;
    throw new ApiError(404, `there is no response ${id.slice(0, 100)}`, { ...(param && { param }) });
  }
}

export function responsesRoutes(hono: Hono<Env>, app: App): void {
  const { service } = app;
  const store = new ResponseStore();
  const read = (c: Ctx, fields: Record<string, unknown>): ResponsesCall =>
    readResponses(
      withSummaries(fields, c, app.secret),
      {
        conversation(id) {
          const { history, events } = store.get(id, c, "previous_response_id");
          if (events.status === "queued" || events.status === "in_progress")
            throw new ApiError(409, `previous_response_id: ${id} is under way`, { param: "previous_response_id" });
          return [...history, ...events.items];
        },
        items: (ids) => store.items(ids, c),
      },
      app,
    );

  compactionRoutes(hono, app, read);
  hono.post("/v1/responses", async (c) => {
    const fields = await body(c as Ctx, app);
    service.backend(modelIn(fields));
    const call = read(c as Ctx, fields);
    const id = `resp_${app.newId()}`;
    const { echo, model, input, history } = call;
    const events = new ResponseEvents({
      ...{ id, created: app.unixTime(), model, echo, newId: app.newId },
      ...{ logprobs: call.chat.logprobs !== undefined, custom: call.custom },
    });
    const cancelled = new AbortController();
    const explanation = explanationOf(call, app);
    const { caller, abort } = leaving(c as Ctx);
    const signal = call.background ? cancelled.signal : AbortSignal.any([caller.signal, cancelled.signal]);
    if (call.store) {
      const bytes = Buffer.byteLength(JSON.stringify(history)) + 4 * (call.chat.sampling?.maxTokens ?? 4096);
      store.add(id, {
        ...{ owner: ownerOf(c as Ctx), events, input, history, bytes },
        cancel: () => cancelled.abort(),
      });
    }
    const told = async function* () {
      yield* events.start();
      try {
        for await (const { event } of service.run(call, { ...caller, signal }, explanation)) yield* events.push(event);
      } catch (thrown) {
        const error = toApiError(thrown);
        if (cancelled.signal.aborted) yield* events.stop("cancelled");
        else {
          yield* events.stop("failed", { code: error.apiCode ?? "server_error", message: error.message });
          // Before the first event of the model it is an HTTP status still.
          throw error;
        }
      }
    };
    if (call.background) {
      void Array.fromAsync(told()).catch(() => undefined);
      return c.json(events.response);
    }
    if (!call.stream) {
      for await (const _ of told());
      return c.json({ ...events.response, ...(explanation && { explain: explanation }) });
    }
    return stream(c as Ctx, app, framed(told(), events), abort);
  });

  hono.get("/v1/responses/:id", (c) => {
    if (c.req.query("stream") === "true")
      throw new ApiError(400, "stream: a stored response is told as a whole", { param: "stream" });
    return c.json(store.get(c.req.param("id"), c as Ctx).events.response);
  });
  hono.delete("/v1/responses/:id", (c) => {
    const id = c.req.param("id");
    store.get(id, c as Ctx).cancel();
    store.delete(id);
    return c.json({ id, object: "response", deleted: true });
  });
  hono.post("/v1/responses/input_tokens", async (c) => {
    const fields = await body(c as Ctx, app);
    const call = read(c as Ctx, fields);
    const input_tokens = service.countTokens(call.model, call.chat);
    return c.json({ object: "response.input_tokens", input_tokens });
  });
  hono.post("/v1/responses/:id/cancel", async (c) => {
    const { events, cancel } = store.get(c.req.param("id"), c as Ctx);
    cancel();
    // What the model is told now is told to the reader of its events a moment later.
    await new Promise(setImmediate);
    return c.json(events.response);
  });
  hono.get("/v1/responses/:id/input_items", (c) => {
    const { input } = store.get(c.req.param("id"), c as Ctx);
    const items = input.map((item, i) => ({ type: "message", ...item, id: item.id ?? `item_${i}` }));
    return c.json(page(items, c.req.query(), { order: "desc" }));
  });
}

type Told = AsyncGenerator<{ type: string }, void>;

/** Frames of the events. The two that come before the model says anything wait for it, so that a refusal is a status; an
 *  error later is told by `response.failed`, which came before it. */
async function* framed(told: Told, events: ResponseEvents): AsyncGenerator<string, void> {
  let held = "";
  let begun = false;
  try {
    for await (const event of told) {
      held += frame(event, event.type);
      if (
        event.type === "response.created" ||
        event.type === "response.in_progress" ||
        event.type === "response.failed"
      )
        if (!begun) continue;
      begun = true;
      yield held;
      held = "";
    }
  } catch (error) {
    if (!begun || events.status !== "failed") throw error;
    if (held) yield held;
  }
}
