/** The server's routes over one `Service`. Each dialect reads its body into a call and writes the call's events; between
 *  the two there is one code path, over the engine and over any upstream. */
import { Hono } from "hono";
import { anthropicRoutes } from "./anthropic/routes.ts";
import { ApiError } from "./errors.ts";
import { type AppOptions, type Ctx, type Env, errorResponse, keyOf, resolveOptions } from "./http.ts";
import { moonshotRoutes } from "./moonshot/routes.ts";
import { openAiRoutes } from "./openai/routes.ts";
import { responsesRoutes } from "./responses/routes.ts";
import { pageRoutes } from "./studio/page.ts";
import { runRoutes } from "./studio/runs.ts";
import { worldRoutes } from "./studio/worlds.ts";
import { adminRoutes } from "./weights/admin.ts";
import { weightRoutes } from "./weights/weights.ts";

/** Paths that anyone may ask: they tell nothing of anyone's. */
const open = new Set(["/health", "/ping", "/version"]);

export function createApp(given: AppOptions): Hono<Env> {
  const app = resolveOptions(given);
  const { service } = app;
  const hono = new Hono<Env>();
  pageRoutes(hono);

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
  openAiRoutes(hono, app, moonshotRoutes(hono, app));
  anthropicRoutes(hono, app);
  responsesRoutes(hono, app);
  adminRoutes(hono, app);
  weightRoutes(hono, app);
  runRoutes(hono, app);
  worldRoutes(hono, app);
  return hono;
}
