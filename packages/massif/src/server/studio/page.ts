/** The studio's pages, for anyone who can reach the server: its files tell nothing, what it asks needs the key. */
import { studioFile } from "@massif/studio";
import type { Hono } from "hono";
import type { Env } from "../http.ts";

export function pageRoutes(hono: Hono<Env>): void {
  for (const path of ["/", "/runs", "/studio/:name"])
    hono.get(path, async (c, next) => {
      const file = studioFile(c.req.path);
      return file ? c.body(file.body, 200, file.headers) : next();
    });
}
