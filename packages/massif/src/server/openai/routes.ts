/** OpenAI's routes: models, conversations, bare texts, and what lies in files of their own. */
import type { Hono } from "hono";
import { ApiError } from "../errors.ts";
import { explanationOf } from "../explain.ts";
import { type App, body, type Ctx, type Env, leaving, modelIn, stream } from "../http.ts";
import type { Prepare } from "../moonshot/routes.ts";
import { frame } from "../sse.ts";
import { readChat } from "./chat.ts";
import { ChatChunks, chatAnswer, type Head, usageBody } from "./chat-chunks.ts";
import { CompletionChoice, completionAnswer, completionChunk, completionUsage, readCompletion } from "./completions.ts";
import { embeddingRoutes } from "./embeddings.ts";
import { stateRoutes } from "./state.ts";
import { StoredChats, storedChatRoutes } from "./stored-chats.ts";
import { tokenRoutes } from "./tokens.ts";

export function openAiRoutes(hono: Hono<Env>, app: App, prepare: Prepare): void {
  models(hono, app);
  chat(hono, app, prepare);
  completions(hono, app);
  embeddingRoutes(hono, app);
  tokenRoutes(hono, app, prepare);
  stateRoutes(hono, app);
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
    service.backends.flatMap(({ names, contextLength, format }) =>
      names
        .filter((name) => name !== "*")
        .map((id) => ({
          ...{ id, object: "model", created, owned_by: "massif", root: names[0] },
          ...{ type: "model", display_name: id, created_at: new Date(created * 1000).toISOString() },
          ...(contextLength !== undefined && { max_model_len: contextLength, context_length: contextLength }),
          supports_tokenize: format !== undefined,
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
    const explanation = explanationOf(call, app);
    const head = headOf(app, c, call.model, "chatcmpl-");
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
