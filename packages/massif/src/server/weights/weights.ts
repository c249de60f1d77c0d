/** Which weights a server has, and how it takes others: from a folder, from tensors that are sent, all at once or in parts. */
import { realpathSync, statSync } from "node:fs";
import { isAbsolute, relative, resolve } from "node:path";
import type { Context, Hono } from "hono";
import { z } from "zod";
import { readFields } from "../body.ts";
import { ApiError, invalid } from "../errors.ts";
import type { App, Ctx, Env } from "../http.ts";
import { controlsOf, fieldsOf } from "./admin.ts";
import type { Control, Digest } from "./control.ts";
import { SentTensors } from "./sent.ts";

const flag = z.union([z.boolean(), z.enum(["true", "false"]).transform((word) => word === "true")]);
const Version = z.union([z.string().min(1).max(128), z.number().transform(String)]);
/** What every update may say. */
const common = {
  /** What is under way ends first, or is aborted. */
  abort_all_requests: flag.optional(),
  flush_cache: z.literal([true, "true"], "the cache of other weights is never kept").optional(),
  weight_version: Version.optional(),
  /** A pause is kept until it is ended. */
  keep_pause: z.literal([true, "true"], "an update does not end a pause: send /continue_generation").optional(),
};
const DiskBody = z.object({
  ...common,
  model_path: z.string().min(1),
  load_format: z.enum(["auto", "safetensors"]).nullish(),
  is_async: z.literal(false, "the answer comes when the weights are in").optional(),
});
const TensorBody = z.object({
  ...common,
  path: z.string().min(1).optional(),
  serialized_named_tensors: z.array(z.string()).min(1).optional(),
  load_format: z.enum(["safetensors"], "safetensors: nothing here unpickles").nullish(),
});
const NameBody = z.object({ new_version: Version.optional(), weight_version: Version.optional() });
const FinishBody = z.object({ abort_all_requests: flag.optional(), weight_version: Version.optional() });
const CheckBody = z.object({ action: z.enum(["checksum", "snapshot", "compare"], "checksum, snapshot or compare") });

/** Bytes of tensors that may be sent, beside those of the model itself, for headers and other dtypes. */
const MARGIN = 64 << 20;

export function weightRoutes(hono: Hono<Env>, app: App): void {
  const { weightsRoot } = app;
  const controls = (c: Context<Env>) => controlsOf(c as Ctx, app);
  const stateOf = (control: Control) => ({ weight_version: control.nameOf(control.version), version: control.version });

  for (const path of ["/weight_version", "/get_weight_version", "/weight_info"])
    hono.get(path, (c) => {
      const [control] = controls(c);
      return c.json({ ...stateOf(control), ...(path === "/weight_info" && { tensors: control.describe() }) });
    });
  for (const path of ["/model_info", "/get_model_info", "/server_info", "/get_server_info"])
    hono.get(path, (c) => {
      const [control] = controls(c);
      const [{ names, contextLength } = { names: [] }] = app.service.backends;
      const { paused, asleep } = control;
      return c.json({ model_path: names[0], ...stateOf(control), max_model_len: contextLength, paused, asleep });
    });
  let snapshot: Digest | undefined;
  for (const path of ["/weight_checker", "/weights_checker"])
    hono.post(path, async (c) => {
      const [control] = controls(c);
      const { action } = readFields(CheckBody, await fieldsOf(c as Ctx, app));
      const digest = await control.digest();
      if (action === "checksum") return c.json({ success: true, ...stateOf(control), ...digest });
      if (action === "snapshot") {
        snapshot = digest;
        return c.json({ success: true, ...stateOf(control), checksum: digest.checksum });
      }
      if (!snapshot) throw invalid("action", "there is no snapshot to compare with");
      const { tensors } = snapshot;
      const changed = Object.keys(digest.tensors).filter((name) => tensors[name] !== digest.tensors[name]);
      return c.json({ success: true, equal: !changed.length, changed, ...stateOf(control) });
    });
  if (weightsRoot === undefined) return;
  const root = realpathSync(weightsRoot);
  /** The parts of an update that was begun. */
  let staged: SentTensors[] | undefined;
  const drop = () => {
    for (const sent of staged ?? []) sent[Symbol.dispose]();
    staged = undefined;
  };

  type Update = z.output<typeof FinishBody>;
  const take = async (
    c: Context<Env>,
    control: Control,
    source: string | SentTensors[],
    fields: Update,
    of: string,
  ) => {
    const files = typeof source === "string" ? source : source.map(({ file }) => file);
    await control.update(files, fields.abort_all_requests ? "abort" : "finish");
    if (fields.weight_version !== undefined) control.call(fields.weight_version);
    c.header("x-weight-version", control.nameOf(control.version));
    const paused = control.paused ? { num_paused_requests: app.service.slots.held } : {};
    return c.json({ success: true, message: `weights of ${of}`, ...stateOf(control), ...paused });
  };
  const disk = (c: Context<Env>, control: Control, given: Record<string, unknown>) => {
    const { model_path, ...fields } = readFields(DiskBody, given);
    const folder = inside(root, model_path, "model_path");
    if (!statSync(folder).isDirectory()) throw outside("model_path");
    return take(c, control, folder, fields, relative(root, folder) || ".");
  };
  /** Tensors of a request: its body, what its body names, or what its body holds. */
  const tensors = async (c: Context<Env>, control: Control, given?: Record<string, unknown>) => {
    const type = c.req.header("content-type") ?? "";
    if (/octet-stream|safetensors/i.test(type)) {
      const { path: _, ...fields } = readFields(TensorBody, c.req.query());
      const most = control.describe().reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 8), MARGIN);
      return { sent: [await SentTensors.receive(control, c.req.raw.body, most)], fields };
    }
    const {
      path,
      serialized_named_tensors: texts,
      ...fields
    } = readFields(TensorBody, given ?? (await fieldsOf(c as Ctx, app)));
    if ((path === undefined) === (texts === undefined))
      throw invalid("path", "a .safetensors file under the root, or send its bytes as application/octet-stream");
    const sent =
      path === undefined
        ? texts!.map((text) => SentTensors.decode(control, text))
        : [SentTensors.at(control, inside(root, path, "path"))];
    return { sent, fields };
  };
  const fromTensors = async (c: Context<Env>, control: Control, given?: Record<string, unknown>) => {
    const { sent, fields } = await tensors(c, control, given);
    let kept = false;
    try {
      for (const { file } of sent) control.check(file);
      if (!staged)
        return await take(c, control, sent, fields, `${sent.flatMap(({ file }) => file.names).length} tensors`);
      staged.push(...sent);
      kept = true;
      return c.json({ success: true, message: "kept until /finish_weight_update", ...stateOf(control) });
    } finally {
      if (!kept) for (const one of sent) one[Symbol.dispose]();
    }
  };

  hono.post("/update_weights_from_disk", async (c) => disk(c, controls(c)[0], await fieldsOf(c as Ctx, app)));
  hono.post("/update_weights_from_tensor", (c) => fromTensors(c, controls(c)[0]));
  hono.post("/update_weights", async (c) => {
    const [control] = controls(c);
    if (!/json/i.test(c.req.header("content-type") ?? "json")) return fromTensors(c, control);
    const given = await fieldsOf(c as Ctx, app);
    return given.model_path === undefined ? fromTensors(c, control, given) : disk(c, control, given);
  });
  hono.post("/start_weight_update", (c) => {
    const [control] = controls(c);
    drop();
    staged = [];
    return c.json({ success: true, ...stateOf(control) });
  });
  hono.post("/finish_weight_update", async (c) => {
    const [control] = controls(c);
    if (!staged?.length) throw new ApiError(409, "no update was begun, or nothing was sent", { code: "conflict" });
    try {
      const fields = readFields(FinishBody, await fieldsOf(c as Ctx, app));
      return await take(c, control, staged, fields, `${staged.length} parts`);
    } finally {
      drop();
    }
  });
  hono.post("/update_weight_version", async (c) => {
    const [control] = controls(c);
    const { new_version, weight_version } = readFields(NameBody, await fieldsOf(c as Ctx, app));
    const name = new_version ?? weight_version;
    if (name === undefined) throw invalid("new_version", "what to call the weights");
    control.call(name);
    return c.json({ success: true, ...stateOf(control) });
  });
  const groups = ["init_weight_transfer_engine", "init_weights_update_group", "destroy_weights_update_group"];
  for (const path of [...groups, "update_weights_from_distributed"])
    hono.post(`/${path}`, (c) => {
      controls(c);
      throw new ApiError(
        400,
        `${path}: there are no process groups here; send tensors to /update_weights_from_tensor`,
        {
          code: "unsupported",
        },
      );
    });
}

const outside = (param: string) => invalid(param, "nothing under the root that the server was started with");

/** What a path means, links followed. Throws 400 where it is nothing, or not under the root; it does not tell which. */
function inside(root: string, path: string, param: string): string {
  let real: string;
  try {
    real = realpathSync(resolve(root, path));
  } catch {
    throw outside(param);
  }
  const way = relative(root, real);
  if (way.startsWith("..") || isAbsolute(way)) throw outside(param);
  return real;
}
