/** Run folders for the studio's run view: read only, for this machine's own browsers or whoever has a key. */
import type { Hono } from "hono";
import { ApiError } from "../errors.ts";
import { type App, type Ctx, type Env, leaving, stream } from "../http.ts";
import { readEpisodes } from "./run-episodes.ts";
import { filesOf, RunFolders } from "./run-folders.ts";
import { follow } from "./run-stream.ts";

/** Runs in one stream, and streams at once. */
const MOST_RUNS = 64;
const MOST_STREAMS = 64;
/** Milliseconds between two looks at a run's files. */
const POLL = 400;

export function runRoutes(hono: Hono<Env>, app: App): void {
  const folders = new RunFolders(app.runs);
  const asked = (c: Ctx, name: string): string => {
    const value = c.req.query(name);
    if (value === undefined) throw new ApiError(400, `${name}: is missing`, { param: name });
    return value;
  };
  let streams = 0;

  hono.use("/api/runs/*", async (c, next) => {
    ownMachine(c);
    await next();
  });
  hono.get("/api/runs", (c) => {
    ownMachine(c);
    return c.json({ runs: folders.list(), chat: app.service.backends.length > 0 });
  });
  hono.get("/api/runs/about", (c) => {
    const run = asked(c, "run");
    return c.json({ run, config: folders.config(run) ?? {}, ...filesOf(folders.dir(run)) });
  });
  hono.get("/api/runs/episodes", async (c) => {
    const run = asked(c, "run");
    return c.json(await readEpisodes(folders.dir(run), folders.text(run, "rollouts", asked(c, "file"))));
  });
  hono.get("/api/runs/samples", (c) =>
    c.body(folders.text(asked(c, "run"), "samples", asked(c, "file")), 200, { "content-type": "application/json" }),
  );
  hono.get("/api/runs/stream", async (c) => {
    const ids = [...new Set(c.req.queries("run") ?? [])];
    if (!ids.length || ids.length > MOST_RUNS)
      throw new ApiError(400, `run: 1 to ${MOST_RUNS} of them`, { param: "run" });
    if (streams >= MOST_STREAMS) throw new ApiError(429, `${MOST_STREAMS} pages follow runs already`);
    const runs = ids.map((id) => ({ id, dir: folders.dir(id) }));
    const { caller, abort } = leaving(c);
    const lastEventId = c.req.header("last-event-id") ?? "";
    async function* frames() {
      streams++;
      try {
        yield* follow(runs, { lastEventId, poll: POLL, signal: caller.signal });
      } finally {
        streams--;
      }
    }
    return stream(c, app, frames(), abort);
  });
}

/** A page of another site whose name was made to point here (DNS rebinding) brings its own name; a key excuses it. */
export function ownMachine(c: Ctx): void {
  if (c.get("key")) return;
  const { hostname } = new URL(c.req.url);
  if (hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname)) return;
  throw new ApiError(403, `the host ${hostname.slice(0, 100)}: without a key this is for loopback addresses only`);
}
