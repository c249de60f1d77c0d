/** What the server keeps for its clients: in the folder of `--state`, or not at all. */
import type { Hono } from "hono";
import { ApiError } from "../errors.ts";
import type { App, Env } from "../http.ts";
import { Batches, batchRoutes } from "./batches.ts";
import { Files, fileRoutes } from "./files.ts";

export function stateRoutes(hono: Hono<Env>, app: App): void {
  const { state } = app;
  if (state === undefined) {
    for (const path of ["/v1/files", "/v1/files/*", "/v1/batches", "/v1/batches/*"])
      hono.all(path, (c) => {
        throw new ApiError(400, `${c.req.path.slice(0, 100)}: this server keeps no files; start it with --state DIR`, {
          code: "no_state",
        });
      });
    return;
  }
  const files = new Files(app, state);
  fileRoutes(hono, app, files);
  const batches = new Batches(app, state, files, async (request) => hono.fetch(request));
  batchRoutes(hono, app, batches);
  batches.resume();
}
