/**
 * Worlds whose user a person plays, against a model that is served here:
 *
 *   GET    /api/worlds                   the worlds there are
 *   POST   /api/worlds/play              {"model", "world", "seed"?, "temperature"?, "max_tokens"?, "top_logprobs"?} → id, brief
 *   GET    /api/worlds/play/:id/events   server-sent events; `Last-Event-ID` goes on after that one
 *   POST   /api/worlds/play/:id/say      {"text"}, {"act": n} → {"text"}, or {"end": true}
 *   DELETE /api/worlds/play/:id
 *
 * Each conversation has a world of its own, made from its seed. The model sees the world's tools and what the person writes.
 */
import type { Hono } from "hono";
import { Random } from "../../common/index.ts";
import type { LanguageModel } from "../../llm/index.ts";
import { openWorld, type World } from "../../worlds/index.ts";
import { ApiError, invalid } from "../errors.ts";
import { type App, body, type Ctx, callerOf, type Env, leaving, modelIn, stream } from "../http.ts";
import { ownerOf } from "../shelf.ts";
import { Play } from "./play.ts";
import { ownMachine } from "./runs.ts";

/** Conversations at once, and milliseconds after which one that nobody touches is ended. */
const MOST = 16;
const IDLE = 15 * 60_000;
const STEPS = 32;
const TOKENS = 512;
const CHARACTERS = 4000;

interface Held {
  play: Play;
  /** Of the key that began it. */
  owner: string;
  touched: number;
}

export function worldRoutes(hono: Hono<Env>, app: App): void {
  const worlds = new Map(app.worlds.map((name) => openWorld(name)).map((world) => [world.name, world]));
  const held = new Map<string, Held>();

  const sweep = () => {
    for (const [id, { play, touched }] of held) {
      if (Date.now() - touched < IDLE) continue;
      play.leave();
      held.delete(id);
    }
  };
  setInterval(sweep, 60_000).unref();

  const find = (c: Ctx): Play => {
    const found = held.get(c.req.param("id") ?? "");
    if (!found || found.owner !== ownerOf(c)) throw new ApiError(404, "there is no such conversation");
    found.touched = Date.now();
    return found.play;
  };

  hono.use("/api/worlds/*", async (c, next) => {
    ownMachine(c);
    await next();
  });
  hono.get("/api/worlds", (c) => c.json({ worlds: [...worlds.values()].map(describe) }));

  hono.post("/api/worlds/play", async (c) => {
    const fields = await body(c, app);
    const world = worlds.get(String(fields.world));
    if (!world) throw invalid("world", `one of ${[...worlds.keys()].join(", ") || "none: this server has no worlds"}`);
    const model = served(c, app, modelIn(fields));
    const number = (name: string, least: number, most: number): number | undefined => {
      const value = fields[name];
      if (value === undefined) return undefined;
      if (typeof value === "number" && value >= least && value <= most) return value;
      throw invalid(name, `a number from ${least} to ${most}`);
    };
    const seed = number("seed", 0, 2 ** 32 - 1) ?? Random.of(app.newId()).uint32();
    const [temperature, top] = [number("temperature", 0, 2), number("top_p", 0, 1)];
    const logprobs = number("top_logprobs", 0, 20);
    sweep();
    for (const [id, { play }] of held) if (held.size >= MOST && play.over) held.delete(id);
    if (held.size >= MOST) throw new ApiError(429, `${MOST} people play already`, { retryAfter: 10_000 });
    const play = new Play({
      ...{ world, seed: Math.floor(seed), model, maxSteps: STEPS },
      ...(logprobs !== undefined && { logprobs }),
      sampling: {
        maxTokens: number("max_tokens", 1, 4096) ?? TOKENS,
        ...(temperature !== undefined && { temperature }),
        ...(top !== undefined && { topP: top }),
      },
    });
    const id = app.newId();
    held.set(id, { play, owner: ownerOf(c as Ctx), touched: Date.now() });
    return c.json({ id, ...describe(world), seed: Math.floor(seed), brief: await play.brief });
  });

  hono.get("/api/worlds/play/:id/events", (c) => {
    const play = find(c);
    const from = Number(c.req.header("last-event-id") ?? -1) + 1;
    const { caller, abort } = leaving(c);
    async function* frames() {
      for await (const { index, event } of play.follow(Number.isInteger(from) && from > 0 ? from : 0, caller.signal))
        yield `id: ${index}\nevent: play\ndata: ${JSON.stringify(event)}\n\n`;
    }
    return stream(c, app, frames(), abort);
  });

  hono.post("/api/worlds/play/:id/say", async (c) => {
    const play = find(c);
    const { text, act, end } = await body(c, app);
    if (end === true) play.say(null);
    else if (typeof act === "number") return c.json({ text: play.act(act) });
    else if (typeof text === "string" && text.trim() && text.length <= CHARACTERS) play.say(text);
    else throw invalid("text", `1 to ${CHARACTERS} characters`);
    return c.json({});
  });

  hono.delete("/api/worlds/play/:id", (c) => {
    find(c).leave();
    held.delete(c.req.param("id"));
    return c.json({});
  });
}

const describe = ({ name, file, tools, rules }: World) => ({
  world: name,
  about: file.system,
  rules: rules.map(({ say }) => say),
  tools: Object.values(tools).map(({ spec }) => spec.function),
});

/** The model as any other request has it: in its turn, counted, and by whose key. */
function served(c: Ctx, { service, newId }: App, name: string): LanguageModel {
  const { model } = service.backend(name);
  const { key } = callerOf(c);
  return {
    name: model.name,
    async *stream({ signal = new AbortController().signal, ...chat }) {
      const caller = { requestId: `play_${newId()}`, signal, ...(key && { key }) };
      const call = { model: name, chat, n: 1, stream: true, explain: false };
      for await (const { event } of service.run(call, caller)) yield event;
    },
  };
}
