/** What outlives its request: records of one kind, each of one owner, in memory and, where there is a folder, on disk. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readFields } from "./body.ts";
import { ApiError } from "./errors.ts";
import type { Ctx } from "./http.ts";

interface ShelfOptions {
  /** What a record is called in errors: `file`, `batch`. */
  kind: string;
  /** One JSON file a record. Without it they go with the process. */
  folder?: string | undefined;
  /** Most records of an owner. */
  most: number;
  /** Most bytes of all records. */
  mostBytes?: number;
  /** Where there is no room: the oldest are forgotten, or the new one is refused with a 429. */
  full: "forget" | "refuse";
}

interface Kept<T> {
  owner: string;
  record: T;
  bytes: number;
}

/** Whose records a request sees: those of its key, which is known by its hash so that names may change. */
export const ownerOf = (c: Ctx): string => c.get("key")?.id ?? "";

export class Shelf<T extends { id: string }> {
  readonly #kept = new Map<string, Kept<T>>();
  readonly #options: ShelfOptions;
  #bytes = 0;
  /** Counts records, so that their order survives a restart. */
  #at = 0;
  readonly #places = new Map<string, number>();

  /** Reads what the folder has, oldest first. */
  constructor(options: ShelfOptions) {
    this.#options = options;
    const { folder } = options;
    if (folder === undefined) return;
    mkdirSync(folder, { recursive: true });
    const found = readdirSync(folder)
      .filter((name) => name.endsWith(".json"))
      .map((name) => JSON.parse(readFileSync(join(folder, name), "utf8")) as { at: number; owner: string; record: T });
    for (const { at, owner, record } of found.sort((a, b) => a.at - b.at)) {
      this.#places.set(record.id, (this.#at = at));
      this.#keep(owner, record);
    }
  }

  /** Throws 429 where the owner has as many as may be. */
  add(owner: string, record: T): void {
    const { kind, most, mostBytes = Infinity, full } = this.#options;
    if (full === "refuse" && this.list(owner).length >= most)
      throw new ApiError(429, `there are ${most} ${kind} records of this key already; delete some`, {
        code: "insufficient_quota",
      });
    this.put(owner, record);
    if (full === "refuse") return;
    for (const { id } of this.list(owner).slice(0, -most)) this.delete(id);
    for (const [id] of this.#kept) {
      if (this.#bytes <= mostBytes || id === record.id) break;
      this.delete(id);
    }
  }

  /** Writes a record, new or changed: whole or not at all. */
  put(owner: string, record: T): void {
    const { folder } = this.#options;
    this.#keep(owner, record);
    if (folder === undefined) return;
    const path = join(folder, `${record.id}.json`);
    if (!this.#places.has(record.id)) this.#places.set(record.id, ++this.#at);
    writeFileSync(`${path}.new`, JSON.stringify({ at: this.#places.get(record.id), owner, record }));
    renameSync(`${path}.new`, path);
  }

  #keep(owner: string, record: T): void {
    const bytes = this.#options.mostBytes === undefined ? 0 : Buffer.byteLength(JSON.stringify(record));
    this.#bytes += bytes - (this.#kept.get(record.id)?.bytes ?? 0);
    this.#kept.set(record.id, { owner, record, bytes });
  }

  has(id: string): boolean {
    return this.#kept.has(id);
  }

  /** Throws 404, for another owner's too. */
  get(owner: string, id: string, param?: string): T {
    const kept = this.#kept.get(id);
    if (kept && kept.owner === owner) return kept.record;
    const { kind } = this.#options;
    throw new ApiError(404, `there is no ${kind} ${id.slice(0, 100)}`, { ...(param && { param }) });
  }

  /** Oldest first. */
  list(owner: string): T[] {
    return [...this.#kept.values()].filter((kept) => kept.owner === owner).map(({ record }) => record);
  }

  /** Everyone's, oldest first. */
  all(): { owner: string; record: T }[] {
    return [...this.#kept.values()];
  }

  delete(id: string): void {
    const kept = this.#kept.get(id);
    if (!kept) return;
    this.#kept.delete(id);
    this.#places.delete(id);
    this.#bytes -= kept.bytes;
    const { folder } = this.#options;
    if (folder !== undefined) rmSync(join(folder, `${id}.json`), { force: true });
  }
}

export interface Page<T> {
  object: "list";
  data: T[];
  first_id: string | null;
  last_id: string | null;
  has_more: boolean;
}

/** The part of a list that a query asks for, as OpenAI's lists are told. `records` oldest first. Throws 400 for a query
 *  that is not known, and where `after` names none of them. */
export function page<T extends { id: string }>(
  records: readonly T[],
  query: Record<string, string>,
  { order: usual, most = 100 }: { order: "asc" | "desc"; most?: number },
): Page<T> {
  const Query = z.object({
    after: z.string().optional(),
    limit: z.coerce.number("a number").int().min(1).max(most).default(Math.min(20, most)),
    order: z.enum(["asc", "desc"]).default(usual),
  });
  const { after, limit, order } = readFields(Query, query);
  const all = order === "asc" ? records : records.toReversed();
  const at = after === undefined ? -1 : all.findIndex(({ id }) => id === after);
  if (after !== undefined && at < 0)
    throw new ApiError(400, `after: ${after.slice(0, 100)} is not in this list`, { param: "after" });
  const data = all.slice(at + 1, at + 1 + limit);
  const has_more = at + 1 + limit < all.length;
  return { object: "list", data, first_id: data[0]?.id ?? null, last_id: data.at(-1)?.id ?? null, has_more };
}

/** OpenAI's: 16 pairs, keys of 64 and values of 512 characters. */
export const Metadata = z
  .record(z.string().max(64, "keys of at most 64 characters"), z.string().max(512, "values of at most 512 characters"))
  .refine((pairs) => Object.keys(pairs).length <= 16, "at most 16 pairs");
