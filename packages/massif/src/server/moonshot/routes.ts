/** What Moonshot's API has beside OpenAI's: context caches, formulas, a web search of the server's own. */
import type { Hono } from "hono";
import type { App, Ctx, Env } from "../http.ts";
import { ContextCaches } from "./context-caches.ts";
import { formulaRoutes } from "./formulas.ts";
import { withSearch } from "./web-search.ts";

/** A body with what Moonshot's words in it stand for, and what the answer's heads tell. Throws 400, 404. */
export type Prepare = (
  c: Ctx,
  fields: Record<string, unknown>,
) => Promise<{ fields: Record<string, unknown>; headers: Record<string, string> }>;

export function moonshotRoutes(hono: Hono<Env>, app: App): Prepare {
  const caches = new ContextCaches(app);
  caches.routes(hono);
  formulaRoutes(hono, app);
  return async (c, given) => {
    const { fields, headers } = caches.expand(c, given);
    return { fields: await withSearch(fields, app.search, c.req.raw.signal), headers };
  };
}
