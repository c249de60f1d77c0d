/** Routes for reinforcement learning, under vLLM's and SGLang's names: pause, take other weights, tell their version. They
 *  exist only where a folder for weights was named, and ask for an admin's key where there are keys. */
import { realpathSync, statSync } from "node:fs";
import { isAbsolute, relative, resolve } from "node:path";
import type { Hono } from "hono";
import { z } from "zod";
import type { Control } from "./backend.ts";
import { readFields } from "./body.ts";
import { ApiError, invalid } from "./errors.ts";
import { type App, body, type Ctx, type Env } from "./http.ts";

const UpdateBody = z.object({
  model_path: z.string().min(1),
  /** What is under way ends first, or is aborted. */
  abort_all_requests: z.boolean().optional(),
  flush_cache: z.literal(true, "the cache of other weights is never kept").optional(),
  load_format: z.enum(["auto", "safetensors"]).optional(),
  is_async: z.literal(false, "the answer comes when the weights are in").optional(),
  weight_version: z.undefined("versions are counted by the server; the answer tells").optional(),
});

export function adminRoutes(hono: Hono<Env>, app: App): void {
  const { service, weightsRoot } = app;
  const controls = (): Control[] => service.backends.flatMap(({ control }) => control ?? []);
  const allowed = (c: Ctx): Control[] => {
    if (app.keys.size && !c.get("key")?.admin) throw new ApiError(403, "this needs an admin's key");
    const found = controls();
    if (!found.length) throw new ApiError(404, "no model here has weights of its own");
    return found;
  };
  hono.get("/weight_version", (c) => c.json({ weight_version: allowed(c as Ctx)[0]!.version }));
  hono.get("/is_paused", (c) => c.json({ is_paused: allowed(c as Ctx).every(({ paused }) => paused) }));
  if (weightsRoot === undefined) return;
  const root = realpathSync(weightsRoot);

  for (const path of ["/pause", "/pause_generation"]) {
    hono.post(path, (c) => {
      for (const control of allowed(c as Ctx)) control.pause();
      return c.json({ status: "paused" });
    });
  }
  for (const path of ["/resume", "/continue_generation"]) {
    hono.post(path, (c) => {
      for (const control of allowed(c as Ctx)) control.resume();
      return c.json({ status: "resumed" });
    });
  }
  for (const path of ["/update_weights_from_disk", "/update_weights"]) {
    hono.post(path, async (c) => {
      const [control] = allowed(c as Ctx);
      const { model_path, abort_all_requests } = readFields(UpdateBody, await body(c as Ctx, app));
      const folder = inside(root, model_path);
      const version = await control!.update(folder, abort_all_requests ? "abort" : "finish");
      c.header("x-weight-version", String(version));
      return c.json({ success: true, message: `weights of ${relative(root, folder) || "."}`, weight_version: version });
    });
  }
}

/** The folder that a path means, links followed. Throws 400 where it is none, or not under the root; it does not tell which. */
function inside(root: string, path: string): string {
  const refused = () => invalid("model_path", "not a folder under the root that the server was started with");
  try {
    const real = realpathSync(resolve(root, path));
    const way = relative(root, real);
    if (way.startsWith("..") || isAbsolute(way) || !statSync(real).isDirectory()) throw refused();
    return real;
  } catch {
    throw refused();
  }
}
