/** Anthropic's routes. */
import type { Hono } from "hono";
import { explanationOf } from "../explain.ts";
import { type App, body, type Ctx, type Env, leaving, modelIn, stream } from "../http.ts";
import { frame } from "../sse.ts";
import { anthropicMessage, MessageEvents } from "./events.ts";
import { anthropicVersions, readMessagesCall, readVersion } from "./messages.ts";

export function anthropicRoutes(hono: Hono<Env>, app: App): void {
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
    const explanation = explanationOf(call, app);
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
    return c.json({ input_tokens: service.countTokens(model, chat) });
  });
}
