/** `/v1/batches`: files of requests, run behind everyone else's through the same routes. What was answered is on disk at
 *  once: a server that was killed goes on where it was. */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Hono } from "hono";
import { z } from "zod";
import { readFields } from "../body.ts";
import { ApiError, CLIENT_GONE, invalid } from "../errors.ts";
import { type App, body, type Ctx, type Env, innerRequest } from "../http.ts";
import { Metadata, ownerOf, page, Shelf } from "../shelf.ts";
import { type BatchError, type BatchLine, checkLines, endpoints, requestsOf } from "./batch-lines.ts";
import { Expiry, type Files } from "./files.ts";

const unfinished = ["validating", "in_progress", "finalizing", "cancelling"] as const;
type Status = (typeof unfinished)[number] | "failed" | "completed" | "expired" | "cancelled";

/** OpenAI's batch object. */
interface Batch {
  id: string;
  object: "batch";
  endpoint: string;
  input_file_id: string;
  completion_window: "24h";
  status: Status;
  errors?: { object: "list"; data: BatchError[] };
  output_file_id?: string;
  error_file_id?: string;
  created_at: number;
  expires_at: number;
  in_progress_at?: number;
  finalizing_at?: number;
  completed_at?: number;
  failed_at?: number;
  expired_at?: number;
  cancelling_at?: number;
  cancelled_at?: number;
  request_counts: { total: number; completed: number; failed: number };
  metadata: Record<string, string> | null;
  output_expires_after?: { anchor: "created_at"; seconds: number };
}

const CreateBody = z.object({
  input_file_id: z.string(),
  endpoint: z.enum(endpoints, `one of ${endpoints.join(", ")}`),
  completion_window: z.literal("24h", "only 24h"),
  metadata: Metadata.optional(),
  output_expires_after: Expiry.optional(),
});

/** Seconds a batch may take. */
const WINDOW = 24 * 3600;
/** Batches of a key that are not finished; requests of a batch at once; attempts at a request that fails by our fault;
 *  milliseconds before the second. */
const LIMIT = { open: 16, width: 4, attempts: 3, pause: 500 };

/** `output` has the answers, `errors` what failed. */
type Part = "output" | "errors";

export class Batches {
  readonly #app: App;
  readonly #files: Files;
  readonly #folder: string;
  readonly #shelf: Shelf<Batch>;
  readonly #send: (request: Request) => Promise<Response>;
  readonly #running = new Map<string, AbortController>();

  constructor(app: App, state: string, files: Files, send: (request: Request) => Promise<Response>) {
    this.#app = app;
    this.#files = files;
    this.#folder = join(state, "batch-results");
    mkdirSync(this.#folder, { recursive: true });
    this.#shelf = new Shelf({ kind: "batch", folder: join(state, "batch"), most: 10_000, full: "refuse" });
    this.#send = send;
  }

  get(owner: string, id: string): Batch {
    return this.#shelf.get(owner, id);
  }

  list(owner: string): Batch[] {
    return this.#shelf.list(owner);
  }

  /** Throws 400 for an input file that is none, 429 for one batch too many. */
  create(owner: string, fields: z.output<typeof CreateBody>): Batch {
    const { input_file_id, endpoint, completion_window, metadata, output_expires_after } = fields;
    let purpose: string;
    try {
      ({ purpose } = this.#files.get(owner, input_file_id));
    } catch {
      throw invalid("input_file_id", `there is no file ${input_file_id.slice(0, 100)}`);
    }
    if (purpose !== "batch") throw invalid("input_file_id", `a file of purpose ${purpose}, not batch`);
    if (this.list(owner).filter(({ status }) => isOpen(status)).length >= LIMIT.open)
      throw new ApiError(429, `${LIMIT.open} batches of this key are not finished`, { code: "rate_limit_exceeded" });
    const created_at = this.#app.unixTime();
    const batch: Batch = {
      ...{ id: `batch_${this.#app.newId()}`, object: "batch", endpoint, input_file_id, completion_window },
      ...{ status: "validating", created_at, expires_at: created_at + WINDOW },
      ...{ request_counts: { total: 0, completed: 0, failed: 0 }, metadata: metadata ?? null },
      ...(output_expires_after && { output_expires_after }),
    };
    this.#shelf.add(owner, batch);
    this.#start(owner, batch);
    return batch;
  }

  /** Throws 409 for one that has ended. */
  cancel(owner: string, id: string): Batch {
    const batch = this.get(owner, id);
    if (!isOpen(batch.status) || batch.status === "finalizing")
      throw new ApiError(409, `a batch that is ${batch.status} cannot be cancelled`, { code: "conflict" });
    if (batch.status === "cancelling") return batch;
    this.#to(owner, batch, "cancelling");
    this.#running.get(id)?.abort();
    return batch;
  }

  /** Goes on with what was not finished when the server ended. */
  resume(): void {
    for (const { owner, record } of this.#shelf.all()) if (isOpen(record.status)) this.#start(owner, record);
  }

  #start(owner: string, batch: Batch): void {
    const stop = new AbortController();
    this.#running.set(batch.id, stop);
    const signal = AbortSignal.any([stop.signal, this.#app.service.ending]);
    void this.#run(owner, batch, signal)
      .catch((error: unknown) => {
        this.#app.log({ level: "error", batch: batch.id, message: String(error) });
        if (isOpen(batch.status)) this.#fail(owner, batch, [{ code: "server_error", message: "the server failed" }]);
      })
      .finally(() => this.#running.delete(batch.id));
  }

  async #run(owner: string, batch: Batch, signal: AbortSignal): Promise<void> {
    // The client has the new batch before anything comes of it.
    await sleep(0);
    const { keys, limits, service } = this.#app;
    const key = keys.byId(owner);
    if (keys.size && !key)
      return this.#fail(owner, batch, [
        { code: "invalid_api_key", message: "the key that made it is no longer known" },
      ]);
    const path = this.#files.path(batch.input_file_id);
    if (batch.status === "validating") {
      if (!existsSync(path))
        return this.#fail(owner, batch, [{ code: "file_not_found", message: "the input file was deleted" }]);
      const { errors, total } = await checkLines(path, batch.endpoint, limits);
      if (errors.length) return this.#fail(owner, batch, errors);
      batch.request_counts.total = total;
      if (batch.status === "validating") this.#to(owner, batch, "in_progress");
    }
    const done = this.#recover(batch);
    if (batch.status === "in_progress") {
      const lines = requestsOf(path);
      const worker = async () => {
        for await (const line of lines) {
          if (done.has(line.custom_id)) continue;
          if (this.#app.unixTime() >= batch.expires_at)
            this.#keep(batch, "errors", { ...this.#head(line), response: null, error: expired });
          else await this.#answer(owner, batch, line, signal);
          if (signal.aborted) return;
        }
      };
      await Promise.all(Array.from({ length: LIMIT.width }, worker));
    }
    // The next server goes on with it.
    if (service.closing) return;
    const end: Status =
      batch.status === "cancelling" ? "cancelled" : this.#app.unixTime() >= batch.expires_at ? "expired" : "completed";
    if (batch.status === "in_progress") this.#to(owner, batch, "finalizing");
    this.#publish(owner, batch);
    this.#to(owner, batch, end);
  }

  /** One request, until it is answered, refused for good, or the batch ends. */
  async #answer(owner: string, batch: Batch, line: BatchLine, signal: AbortSignal): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const request = new Request(`http://batch${batch.endpoint}`, {
        ...{ method: "POST", signal, body: JSON.stringify(line.body) },
        headers: { "content-type": "application/json" },
      });
      const response = await this.#send(innerRequest(request, this.#app.keys.byId(owner)));
      const told = (await response.json()) as { error?: { code?: unknown } };
      if (signal.aborted || response.status === CLIENT_GONE) return;
      const { status, headers } = response;
      const busy = (status === 429 || status === 503) && told.error?.code !== "insufficient_quota";
      if ((busy && this.#app.unixTime() < batch.expires_at) || (status >= 500 && attempt < LIMIT.attempts)) {
        const wait = Number(headers.get("retry-after-ms") ?? LIMIT.pause * 2 ** (attempt - 1));
        await sleep(wait, undefined, { signal }).catch(() => undefined);
        if (signal.aborted) return;
        if (busy) attempt--;
        continue;
      }
      const answer = { status_code: status, request_id: headers.get("x-request-id") ?? "", body: told };
      this.#keep(batch, status === 200 ? "output" : "errors", { ...this.#head(line), response: answer, error: null });
      return;
    }
  }

  #head({ custom_id }: BatchLine) {
    return { id: `batch_req_${this.#app.newId()}`, custom_id };
  }

  #keep(batch: Batch, part: Part, row: object): void {
    appendFileSync(this.#path(batch, part), `${JSON.stringify(row)}\n`);
    batch.request_counts[part === "output" ? "completed" : "failed"]++;
  }

  /** The ids of requests whose answers are on disk, and their counts. What was half written is asked again. */
  #recover(batch: Batch): Set<string> {
    const done = new Set<string>();
    for (const part of ["output", "errors"] as const) {
      const path = this.#path(batch, part);
      if (!existsSync(path)) continue;
      const text = readFileSync(path, "utf8");
      const whole = text.slice(0, text.lastIndexOf("\n") + 1);
      if (whole.length < text.length) writeFileSync(path, whole);
      const ids = whole.split("\n").flatMap((row) => (row ? (JSON.parse(row) as BatchLine).custom_id : []));
      batch.request_counts[part === "output" ? "completed" : "failed"] = ids.length;
      for (const id of ids) done.add(id);
    }
    return done;
  }

  /** What was written becomes files. Their ids follow from the batch's, so that doing it twice is doing it once. */
  #publish(owner: string, batch: Batch): void {
    for (const part of ["output", "errors"] as const) {
      const { completed, failed } = batch.request_counts;
      if (!(part === "output" ? completed : failed)) continue;
      const id = `file-${batch.id.slice("batch_".length)}-${part}`;
      this.#files.adopt(
        owner,
        id,
        this.#path(batch, part),
        `${batch.id}_${part}.jsonl`,
        batch.output_expires_after?.seconds,
      );
      batch[part === "output" ? "output_file_id" : "error_file_id"] = id;
    }
  }

  #fail(owner: string, batch: Batch, data: BatchError[]): void {
    batch.errors = { object: "list", data };
    for (const part of ["output", "errors"] as const) rmSync(this.#path(batch, part), { force: true });
    this.#to(owner, batch, batch.status === "cancelling" ? "cancelled" : "failed");
  }

  #to(owner: string, batch: Batch, status: Status): void {
    batch.status = status;
    const at = this.#app.unixTime();
    if (status !== "validating") batch[`${status}_at`] = at;
    this.#shelf.put(owner, batch);
  }

  #path({ id }: Batch, part: Part): string {
    return join(this.#folder, `${id}.${part}.jsonl`);
  }
}

const isOpen = (status: Status): boolean => (unfinished as readonly string[]).includes(status);
const expired = { code: "batch_expired", message: "this request was not answered before the batch expired" };

export function batchRoutes(hono: Hono<Env>, app: App, batches: Batches): void {
  hono.post("/v1/batches", async (c) => {
    const fields = readFields(CreateBody, await body(c as Ctx, app));
    return c.json(batches.create(ownerOf(c as Ctx), fields));
  });
  hono.get("/v1/batches", (c) => c.json(page(batches.list(ownerOf(c as Ctx)), c.req.query(), { order: "desc" })));
  hono.get("/v1/batches/:id", (c) => c.json(batches.get(ownerOf(c as Ctx), c.req.param("id"))));
  hono.post("/v1/batches/:id/cancel", (c) => c.json(batches.cancel(ownerOf(c as Ctx), c.req.param("id"))));
}
