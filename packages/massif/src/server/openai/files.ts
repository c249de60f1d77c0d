/** `/v1/files`: what clients upload, and what batches write, each key's own (serving-and-agent.md §3.5). */
import { existsSync, mkdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Hono } from "hono";
import { z } from "zod";
import { readBytes, readFields } from "../body.ts";
import { ApiError, invalid } from "../errors.ts";
import type { App, Ctx, Env } from "../http.ts";
import { ownerOf, page, Shelf } from "../shelf.ts";
import { extractText } from "./extract.ts";

/** OpenAI's file object; what is not there does not expire. */
interface FileObject {
  id: string;
  object: "file";
  bytes: number;
  created_at: number;
  expires_at?: number;
  filename: string;
  purpose: string;
  status: "processed";
  status_details: string;
}

const purposes = ["batch", "file-extract", "assistants", "fine-tune", "user_data", "evals"] as const;
const Purpose = z.enum(purposes, {
  error: ({ input }) =>
    ["vision", "image", "video"].includes(String(input))
      ? `${input} is nothing that this server's models read; ${purposes.join(", ")}`
      : `one of ${purposes.join(", ")}`,
});
export const Expiry = z.object({
  anchor: z.literal("created_at"),
  seconds: z.coerce.number().int().min(3600).max(2_592_000),
});
/** Uploads that are read at once: each is in memory until it is whole. */
const UPLOADS = 4;

export class Files {
  readonly #app: App;
  readonly #folder: string;
  readonly #shelf: Shelf<FileObject>;

  constructor(app: App, state: string) {
    this.#app = app;
    this.#folder = join(state, "files");
    mkdirSync(this.#folder, { recursive: true });
    this.#shelf = new Shelf({ kind: "file", folder: join(state, "file"), most: app.limits.files, full: "refuse" });
  }

  /** Throws 404, for one that has expired too. */
  get(owner: string, id: string, param?: string): FileObject {
    this.#expire();
    return this.#shelf.get(owner, id, param);
  }

  list(owner: string): FileObject[] {
    this.#expire();
    return this.#shelf.list(owner);
  }

  /** Where its bytes are. */
  path(id: string): string {
    return join(this.#folder, id);
  }

  /** Throws 429 where the key has as many files as may be, and 413 where all files have as many bytes. */
  add(owner: string, bytes: Uint8Array, about: Pick<FileObject, "filename" | "purpose">, seconds?: number): FileObject {
    this.#expire();
    const all = this.#shelf.all().reduce((sum, { record }) => sum + record.bytes, 0);
    const { allFileBytes } = this.#app.limits;
    if (all + bytes.length > allFileBytes)
      throw new ApiError(413, `file: all files together may have ${allFileBytes} bytes; delete some`, {
        param: "file",
      });
    const id = `file-${this.#app.newId()}`;
    const file = this.#object(id, bytes.length, about, seconds);
    // The bytes first: what is listed can be read.
    writeFileSync(this.path(id), bytes);
    try {
      this.#shelf.add(owner, file);
    } catch (error) {
      this.delete(id);
      throw error;
    }
    return file;
  }

  /** Takes over a file that the server wrote itself, under an id of its choice. Doing it twice is doing it once. */
  adopt(owner: string, id: string, from: string, filename: string, seconds?: number): FileObject {
    if (existsSync(from)) renameSync(from, this.path(id));
    const file = this.#object(id, statSync(this.path(id)).size, { filename, purpose: "batch_output" }, seconds);
    if (!this.#shelf.has(id)) this.#shelf.put(owner, file);
    return this.#shelf.get(owner, id);
  }

  delete(id: string): void {
    this.#shelf.delete(id);
    rmSync(this.path(id), { force: true });
  }

  #object(id: string, bytes: number, about: Pick<FileObject, "filename" | "purpose">, seconds?: number): FileObject {
    const created_at = this.#app.unixTime();
    return {
      ...{ id, object: "file", bytes, created_at },
      ...(seconds !== undefined && { expires_at: created_at + seconds }),
      ...{ ...about, status: "processed", status_details: "" },
    } as FileObject;
  }

  #expire(): void {
    const now = this.#app.unixTime();
    for (const { record } of this.#shelf.all()) if ((record.expires_at ?? Infinity) <= now) this.delete(record.id);
  }
}

export function fileRoutes(hono: Hono<Env>, app: App, files: Files): void {
  let uploads = 0;
  hono.post("/v1/files", async (c) => {
    if (uploads >= UPLOADS)
      throw new ApiError(429, `${UPLOADS} files are being uploaded; try again later`, {
        ...{ code: "rate_limit_exceeded", retryAfter: 1000 },
      });
    uploads++;
    try {
      const { file, purpose, seconds } = await upload(c as Ctx, app);
      const bytes = new Uint8Array(await file.arrayBuffer());
      const { fileBytes } = app.limits;
      if (!bytes.length) throw invalid("file", "empty");
      if (bytes.length > fileBytes) throw new ApiError(413, `file: more than ${fileBytes} bytes`, { param: "file" });
      if (purpose === "file-extract") extractText(bytes, file.name);
      const filename = file.name.replace(/\p{Cc}/gu, "").slice(0, 255) || "file";
      return c.json(files.add(ownerOf(c as Ctx), bytes, { filename, purpose }, seconds));
    } finally {
      uploads--;
    }
  });
  hono.get("/v1/files", (c) => {
    const { purpose, ...query } = c.req.query();
    const all = files.list(ownerOf(c as Ctx)).filter((file) => purpose === undefined || file.purpose === purpose);
    return c.json(page(all, query, { order: "desc", most: 10_000 }));
  });
  hono.get("/v1/files/:id", (c) => c.json(files.get(ownerOf(c as Ctx), c.req.param("id"))));
  hono.get("/v1/files/:id/content", async (c) => {
    const { id, purpose, filename } = files.get(ownerOf(c as Ctx), c.req.param("id"));
    const bytes = new Uint8Array(await readFile(files.path(id)));
    if (purpose === "file-extract") return c.text(extractText(bytes, filename));
    return c.body(bytes, 200, { "content-type": "application/octet-stream", "x-content-type-options": "nosniff" });
  });
  hono.delete("/v1/files/:id", (c) => {
    const { id } = files.get(ownerOf(c as Ctx), c.req.param("id"));
    files.delete(id);
    return c.json({ id, object: "file", deleted: true });
  });
}

/** The parts of an upload. Throws 400, 413, 415. */
async function upload(c: Ctx, app: App): Promise<{ file: File; purpose: string; seconds?: number }> {
  const type = c.req.header("content-type") ?? "";
  if (!/^multipart\/form-data\b/i.test(type))
    throw new ApiError(415, `content-type is ${type.slice(0, 100) || "missing"}; send multipart/form-data`);
  // The parts' own heads come on top.
  const bytes = await readBytes(c.req.raw, app.limits.fileBytes + (64 << 10));
  let form: FormData;
  try {
    form = await new Response(bytes, { headers: { "content-type": type } }).formData();
  } catch (cause) {
    throw new ApiError(400, "the body is not multipart/form-data as its content-type says", { cause });
  }
  const file = form.get("file");
  if (!(file instanceof File)) throw invalid("file", "a file, as a part of its own with a filename");
  const text: Record<string, unknown> = {};
  for (const [name, value] of form) if (name !== "file") text[name] = value;
  // OpenAI's clients send the object's members as parts of their own.
  const { "expires_after[anchor]": anchor, "expires_after[seconds]": seconds, ...rest } = text;
  const expires_after = anchor === undefined && seconds === undefined ? undefined : { anchor, seconds };
  const fields = readFields(z.object({ purpose: Purpose, expires_after: Expiry.optional() }), {
    ...rest,
    ...(expires_after && { expires_after }),
  });
  return {
    ...{ file, purpose: fields.purpose },
    ...(fields.expires_after && { seconds: fields.expires_after.seconds }),
  };
}
