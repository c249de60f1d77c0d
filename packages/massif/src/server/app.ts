/** The server's routes over one `Service`. Each dialect reads its body into a call and writes the call's events; between
 *  the two there is one code path, over the engine and over any upstream. */
import { Hono } from "hono";
import type { ChatRequest } from "../llm/index.ts";
import { anthropicMessage, MessageEvents } from "./anthropic/events.ts";
import { anthropicVersions, readMessagesCall, readVersion } from "./anthropic/messages.ts";
import { ApiError } from "./errors.ts";
import {
  type App,
  type AppOptions,
  allowExplain,
  body,
  type Ctx,
  type Env,
  errorResponse,
  keyOf,
  leaving,
  modelIn,
  resolveOptions,
  stream,
} from "./http.ts";
import { moonshotRoutes, type Prepare } from "./moonshot/routes.ts";
import { readChat } from "./openai/chat.ts";
import { ChatChunks, chatAnswer, type Head, usageBody } from "./openai/chat-chunks.ts";
import {
  CompletionChoice,
  completionAnswer,
  completionChunk,
  completionUsage,
  readCompletion,
} from "./openai/completions.ts";
import { embeddingRoutes } from "./openai/embeddings.ts";
import { stateRoutes } from "./openai/state.ts";
import { StoredChats, storedChatRoutes } from "./openai/stored-chats.ts";
import { tokenRoutes } from "./openai/tokens.ts";
import { responsesRoutes } from "./responses/routes.ts";
import { frame } from "./sse.ts";
import { studioRoutes } from "./studio/page.ts";
import { runRoutes } from "./studio/runs.ts";
import { worldRoutes } from "./studio/worlds.ts";
import { adminRoutes } from "./weights/admin.ts";

/** Paths that anyone may ask: they tell nothing of anyone's. */
const open = new Set(["/health", "/ping", "/version"]);

export function createApp(given: AppOptions): Hono<Env> {
  const app = resolveOptions(given);
  const { service } = app;
  const hono = new Hono<Env>();
  studioRoutes(hono);

  hono.use(async (c, next) => {
    const asked = c.req.header("x-request-id");
    const requestId = asked && /^[\w.:-]{1,128}$/.test(asked) ? asked : `req_${app.newId()}`;
    c.set("requestId", requestId);
    const started = service.now();
    const allowed = app.cors.includes("*") || app.cors.includes(c.req.header("origin") ?? "");
    if (c.req.method === "OPTIONS" && allowed) c.res = new Response(null, { status: 204 });
    else {
      try {
        if (!open.has(c.req.path)) c.set("key", keyOf(c, app));
        await next();
      } catch (error) {
        c.res = errorResponse(c, app, error);
      }
    }
    if (c.error) c.res = errorResponse(c, app, c.error);
    c.header("x-request-id", requestId);
    c.header("request-id", requestId);
    const control = service.backends.find((backend) => backend.control)?.control;
    if (control) c.header("x-weight-version", control.nameOf(c.get("weights") ?? control.version));
    if (allowed) {
      c.header("access-control-allow-origin", c.req.header("origin") ?? "*");
      c.header("access-control-allow-headers", "*, authorization");
      c.header("access-control-allow-methods", "GET, POST, PUT, DELETE");
    }
    const { status } = c.res;
    service.metrics.add("massif:http_requests_total", { route: c.req.routePath, status: String(status) });
    app.log({
      level: "info",
      ...{ request_id: requestId, method: c.req.method, path: c.req.path, status },
      ...{ ms: Math.round(service.now() - started), key: c.get("key")?.name },
    });
  });
  hono.notFound((c) => {
    const known = hono.routes.some(({ path, method }) => path === c.req.path && method !== "ALL");
    const error = known
      ? new ApiError(405, `${c.req.method} is not what ${c.req.path} takes`)
      : new ApiError(404, `there is nothing at ${c.req.method} ${c.req.path.slice(0, 200)}`);
    return errorResponse(c as Ctx, app, error);
  });
  hono.onError((error, c) => errorResponse(c as Ctx, app, error));

  hono.get("/health", (c) => {
    if (service.closing) return c.json({ status: "closing" }, 503);
    if (service.loading !== undefined) return c.json({ status: "loading", detail: service.loading }, 503);
    return c.json({ status: "ok" });
  });
  hono.get("/ping", (c) => c.json({}));
  hono.get("/version", (c) => c.json({ version: app.version, server: "massif" }));
  hono.get("/metrics", (c) => {
    const models = service.backends.map((backend) => ({
      name: backend.names[0]!,
      gauges: backend.gauges?.() ?? {
        ...{ running: service.slots.held, waiting: service.slots.queued, cacheUsage: 0 },
        ...{ prefixQueries: 0, prefixHits: 0, preemptions: 0 },
      },
    }));
    return c.text(service.metrics.render(models), 200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
  });
  models(hono, app);
  const prepare = moonshotRoutes(hono, app);
  chat(hono, app, prepare);
  completions(hono, app);
  messages(hono, app);
  responsesRoutes(hono, app);
  embeddingRoutes(hono, app);
  tokenRoutes(hono, app, prepare);
  adminRoutes(hono, app);
  stateRoutes(hono, app);
  runRoutes(hono, app);
  worldRoutes(hono, app);
  return hono;
}

/** Who answers, for the build and weights behind an answer. */
const fingerprint = (app: App, weights: number | undefined): string =>
  `massif-${app.version}${weights === undefined ? "" : `-w${weights}`}`;

const headOf = (app: App, c: Ctx, model: string, prefix: string): Head => {
  const { control } = app.service.backend(model);
  return {
    id: `${prefix}${app.newId()}`,
    created: app.unixTime(),
    model,
    /** Of the weights that answer, known when the answer begins. */
    get fingerprint() {
      return fingerprint(app, c.get("weights") ?? control?.version);
    },
  };
};

function models(hono: Hono<Env>, { service, unixTime }: App): void {
  const created = unixTime();
  const rows = () =>
    service.backends.flatMap(({ names, contextLength }) =>
      names
        .filter((name) => name !== "*")
        .map((id) => ({
          ...{ id, object: "model", created, owned_by: "massif", root: names[0] },
          ...{ type: "model", display_name: id, created_at: new Date(created * 1000).toISOString() },
          ...(contextLength !== undefined && { max_model_len: contextLength, context_length: contextLength }),
        })),
    );
  hono.get("/v1/models", (c) => c.json({ object: "list", data: rows(), has_more: false }));
  hono.get("/v1/models/:id{.+}", (c) => {
    const row = rows().find(({ id }) => id === c.req.param("id"));
    if (row) return c.json(row);
    throw new ApiError(404, `there is no model ${c.req.param("id").slice(0, 200)}`, { code: "model_not_found" });
  });
}

function chat(hono: Hono<Env>, app: App, prepare: Prepare): void {
  const { service } = app;
  const stored = new StoredChats(app);
  storedChatRoutes(hono, app, stored);
  hono.post("/v1/chat/completions", async (c) => {
    const { fields, headers } = await prepare(c, await body(c, app));
    const call = readChat(fields, service.backend(modelIn(fields)), app);
    allowExplain(call.explain, app);
    const head = headOf(app, c, call.model, "chatcmpl-");
    const explanation = call.explain ? service.explain(call) : undefined;
    const { caller, abort } = leaving(c);
    const events = stored.keeping(c, head, call, fields, service.run(call, caller, explanation));
    if (!call.stream) return c.json(chatAnswer(head, call, await Array.fromAsync(events), explanation), 200, headers);
    const frames = async function* () {
      let chunks: ChatChunks | undefined;
      for await (const event of events) {
        chunks ??= new ChatChunks(head, call);
        for (const chunk of chunks.push(event)) yield frame(chunk);
      }
      for (const chunk of chunks?.end(explanation) ?? []) yield frame(chunk);
      yield frame("[DONE]");
    };
    return stream(c, app, frames(), abort, headers);
  });
}

function completions(hono: Hono<Env>, app: App): void {
  const { service } = app;
  hono.post("/v1/completions", async (c) => {
    const fields = await body(c, app);
    const call = readCompletion(fields, service.backend(modelIn(fields)), app);
    const head = headOf(app, c, call.model, "cmpl-");
    const { caller, abort } = leaving(c);
    const choices = call.requests.map((_, i) => new CompletionChoice(call, i));
    const events = service.runRaw(call.backend, call.requests, caller);
    const usages = () => choices.map(({ usage }) => usage);
    if (!call.stream) {
      const pieces: Record<string, unknown>[][] = choices.map(() => []);
      for await (const { choice, event } of events) pieces[choice]!.push(...choices[choice]!.push(event));
      return c.json(completionAnswer(head, call, pieces, choices));
    }
    const frames = async function* () {
      const more = call.includeUsage ? { usage: null } : {};
      for await (const { choice, event } of events)
        for (const piece of choices[choice]!.push(event)) yield frame(completionChunk(head, [piece], more));
      if (call.includeUsage)
        yield frame(completionChunk(head, [], { usage: usageBody(completionUsage(call, usages())) }));
      yield frame("[DONE]");
    };
    return stream(c, app, frames(), abort);
  });
}

function messages(hono: Hono<Env>, app: App): void {
  const { service, secret } = app;
  const read = (c: Ctx, fields: Record<string, unknown>, count = false) => {
    const version = readVersion(c.req.header("anthropic-version"));
    const { ignoreUnknown } = app;
    return readMessagesCall(fields, service.backend(modelIn(fields)), { version, secret, ignoreUnknown, count });
  };
  const warning = "thinking of another server, or changed: taken as it stands";
  hono.post("/v1/messages", async (c) => {
    const fields = await body(c, app);
    const call = read(c, fields);
    allowExplain(call.explain, app);
    const explanation = call.explain ? service.explain(call) : undefined;
    const headers = {
      ...(call.unsigned && { "x-massif-warning": warning }),
      "anthropic-version": anthropicVersions[1],
    };
    const promptTokens = call.stream ? (service.backend(call.model).prompt?.(call.chat).ids.length ?? 0) : 0;
    const { caller, abort } = leaving(c);
    const { thinking } = call;
    const wire = new MessageEvents({ id: `msg_${app.newId()}`, model: call.model, secret, thinking, promptTokens });
    const events = service.run(call, caller, explanation);
    if (!call.stream) {
      const told = [wire.start()];
      for await (const event of events) told.push(...wire.push(event));
      return c.json({ ...anthropicMessage(told), ...(explanation && { explain: explanation }) }, 200, headers);
    }
    const frames = async function* () {
      let begun = false;
      for await (const event of events) {
        if (!begun) yield frame(wire.start(), "message_start");
        begun = true;
        for (const one of wire.push(event)) {
          const last = explanation && one.type === "message_stop" ? { ...one, explain: explanation } : one;
          yield frame(last, String(one.type));
        }
      }
    };
    return stream(c, app, frames(), abort, headers);
  });
  hono.post("/v1/messages/count_tokens", async (c) => {
    const fields = await body(c, app);
    const { chat, model } = read(c, fields, true);
    return c.json({ input_tokens: countTokens(app, model, chat) });
  });
}

/** Throws 400 where the prompt is made elsewhere. */
export function countTokens(app: App, model: string, chat: ChatRequest): number {
  const prompt = app.service.backend(model).prompt?.(chat);
  if (!prompt) throw new ApiError(400, "model: its prompts are made upstream; start the gateway with --tokenizer");
  return prompt.ids.length;
}
