/** Routes for reinforcement learning, under vLLM's and SGLang's names (serving-and-agent.md §5.1, §5.2): stop and go, sleep,
 *  and what to end. Those that change anything exist only where a folder for weights was named, and all ask for an admin's
 *  key where there are keys. */
import type { Hono } from "hono";
import { z } from "zod";
import { readFields } from "../body.ts";
import { ApiError } from "../errors.ts";
import { type App, body, type Ctx, type Env } from "../http.ts";
import type { Control, Memory } from "./control.ts";

/** vLLM's words and SGLang's for what becomes of requests that are under way. */
const modes = { keep: "keep", in_place: "keep", retract: "retract", wait: "wait", abort: "abort" } as const;
const PauseFields = z.object({
  mode: z
    .enum(Object.keys(modes) as (keyof typeof modes)[], `one of ${Object.keys(modes).join(", ")}`)
    .default("abort"),
});
const Tag = z.enum(["weights", "kv_cache"], "weights or kv_cache");
const tags = z.union([Tag.transform((tag) => [tag]), z.array(Tag)]).optional();
const SleepFields = z.object({
  level: z.coerce.number().int().min(1).max(2).optional(),
  tags,
  mode: z.enum(["wait", "abort"], "wait or abort").default("abort"),
});
const WakeFields = z.object({ tags });
const AbortFields = z.object({
  rid: z.string().optional(),
  request_ids: z.array(z.string()).optional(),
  abort_all: z.boolean().optional(),
});

/** The controls of our own models. Throws 403 without an admin's key, 404 where there are none. */
export function controlsOf(c: Ctx, app: App): [Control, ...Control[]] {
  if (app.keys.size && !c.get("key")?.admin) throw new ApiError(403, "this needs an admin's key");
  const [first, ...others] = app.service.backends.flatMap(({ control }) => control ?? []);
  if (!first) throw new ApiError(404, "no model here has weights of its own");
  return [first, ...others];
}

/** What a request says, in its query (vLLM) or its body (SGLang). */
export async function fieldsOf(c: Ctx, app: App): Promise<Record<string, unknown>> {
  const query = Object.entries(c.req.queries()).map(([name, values]) => [name, values.length > 1 ? values : values[0]]);
  const empty = c.req.method === "GET" || !c.req.header("content-type");
  return { ...Object.fromEntries(query), ...(empty ? {} : await body(c, app)) };
}

export function adminRoutes(hono: Hono<Env>, app: App): void {
  const { service, weightsRoot } = app;
  const controls = (c: unknown) => controlsOf(c as Ctx, app);
  hono.get("/is_paused", (c) => c.json({ is_paused: controls(c).every(({ paused }) => paused) }));
  hono.get("/is_sleeping", (c) => c.json({ is_sleeping: controls(c).some(({ asleep }) => asleep.length > 0) }));
  hono.get("/get_world_size", (c) => c.json({ world_size: controls(c) && 1 }));
  if (weightsRoot === undefined) return;

  /** A change under all of its names. */
  const route = (
    paths: readonly string[],
    act: (given: Record<string, unknown>, all: readonly Control[]) => Promise<Record<string, unknown>>,
  ) => {
    for (const path of paths)
      hono.post(path, async (c) => {
        const all = controls(c);
        return c.json(await act(await fieldsOf(c as Ctx, app), all));
      });
  };
  const memory = (given: readonly Memory[] | undefined): ReadonlySet<Memory> =>
    new Set(given?.length ? given : (["weights", "kv_cache"] as const));

  route(["/pause", "/pause_generation"], async (given, all) => {
    const { mode } = readFields(PauseFields, given);
    for (const control of all) await control.pause(modes[mode]);
    return { status: "paused", mode };
  });
  route(["/resume", "/continue_generation"], async (given, all) => {
    readFields(z.object({}), given);
    for (const control of all) control.resume();
    return { status: "resumed" };
  });
  route(["/sleep", "/release_memory_occupation"], async (given, all) => {
    const { level, tags, mode } = readFields(SleepFields, given);
    for (const control of all) {
      // vLLM's level 1 moves weights into main memory: where they are there already, only the cache is left to free.
      const own = level === 1 && control.device === "cpu" ? (["kv_cache"] as const) : tags;
      await control.sleep(memory(own), mode === "wait" ? "finish" : "abort");
    }
    return { status: "asleep", asleep: all[0]!.asleep };
  });
  route(["/wake_up", "/resume_memory_occupation"], async (given, all) => {
    const { tags } = readFields(WakeFields, given);
    for (const control of all) control.wake(memory(tags));
    return { status: all[0]!.asleep.length ? "asleep" : "awake", asleep: all[0]!.asleep };
  });
  route(["/reset_prefix_cache", "/flush_cache"], async (given, all) => {
    readFields(z.object({ timeout: z.unknown() }), given);
    for (const control of all) control.forgetPrefixes();
    return { success: true };
  });
  route(["/abort_request", "/abort_requests"], async (given) => {
    const { rid, request_ids, abort_all } = readFields(AbortFields, given);
    if ((rid !== undefined || request_ids !== undefined) === (abort_all === true))
      throw new ApiError(400, "request_ids: the x-request-id of some, or abort_all: true", { param: "request_ids" });
    const ids = abort_all ? undefined : new Set([...(request_ids ?? []), ...(rid === undefined ? [] : [rid])]);
    return { aborted: service.abort(ids) };
  });
}
