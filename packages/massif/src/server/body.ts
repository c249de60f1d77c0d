/** Bodies from strangers: bounded in bytes and depth before anything walks them, read strictly, refused by field. */
import type { z } from "zod";
import { nearest } from "../common/index.ts";
import { ApiError, invalid } from "./errors.ts";

export interface BodyLimits {
  /** Bytes of a body. */
  maxBytes: number;
  /** Levels of lists and objects. */
  maxDepth: number;
  /** Bytes of a file that is uploaded (Moonshot's 100 MB), files of a key, bytes of all files. */
  fileBytes: number;
  files: number;
  allFileBytes: number;
}

export const bodyLimits: BodyLimits = {
  ...{ maxBytes: 8 << 20, maxDepth: 64 },
  ...{ fileBytes: 100 << 20, files: 1000, allFileBytes: 10 * 2 ** 30 },
};

/** The JSON object that a request carries. Throws 400, 413, 415. */
export async function readJson(request: Request, limits: BodyLimits): Promise<Record<string, unknown>> {
  const type = request.headers.get("content-type");
  if (type && !/\bjson\b/i.test(type)) throw new ApiError(415, `content-type is ${type}; send application/json`);
  const bytes = await readBytes(request, limits.maxBytes);
  const depth = depthOf(bytes);
  if (depth > limits.maxDepth) throw new ApiError(400, `the body is nested deeper than ${limits.maxDepth} levels`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new ApiError(400, `the body is not JSON: ${(cause as Error).message}`, { code: "invalid_json", cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new ApiError(400, "the body is not a JSON object");
  return value as Record<string, unknown>;
}

export async function readBytes(request: Request, most: number): Promise<Uint8Array<ArrayBuffer>> {
  const tooLarge = () => new ApiError(413, `the body has more than ${most} bytes`, { code: "request_too_large" });
  if (Number(request.headers.get("content-length") ?? 0) > most) throw tooLarge();
  if (!request.body) return new Uint8Array();
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of request.body) {
    size += piece.length;
    if (size > most) throw tooLarge();
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

/** Levels of a JSON text, without parsing it: JSON.parse stands any depth, what walks its result does not. */
export function depthOf(bytes: Uint8Array): number {
  let [depth, deepest] = [0, 0];
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!;
    if (byte === 0x22) {
      while (++i < bytes.length && bytes[i] !== 0x22) if (bytes[i] === 0x5c) i++;
    } else if (byte === 0x7b || byte === 0x5b) {
      if (++depth > deepest) deepest = depth;
    } else if (byte === 0x7d || byte === 0x5d) depth--;
  }
  return deepest;
}

/** `tools[0].function.name` */
const pathOf = (path: readonly PropertyKey[]): string =>
  path.map((key, i) => (typeof key === "number" ? `[${key}]` : `${i ? "." : ""}${String(key)}`)).join("");

/** A body in the shape of `schema`. A member that is null counts as missing, as every client means it. An unknown one is
 *  refused by name, or dropped where `ignoreUnknown`. Throws 400 that names the field. */
export function readFields<S extends z.ZodObject>(
  schema: S,
  body: Record<string, unknown>,
  { ignoreUnknown = false }: { ignoreUnknown?: boolean } = {},
): z.output<S> {
  const known = Object.keys(schema.shape);
  const present = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null));
  const unknown = Object.keys(present).find((key) => !known.includes(key));
  if (unknown !== undefined && !ignoreUnknown) {
    const like = nearest(unknown, known);
    const hint = like ? `; did you mean ${like}?` : "";
    throw new ApiError(400, `${unknown.slice(0, 100)}: this server knows no such field${hint}`, {
      param: unknown.slice(0, 100),
      code: "unknown_parameter",
    });
  }
  const read = schema.safeParse(present);
  if (read.success) return read.data;
  const issue = deepest(read.error.issues);
  throw invalid(pathOf(issue.path) || "body", issue.message);
}

/** Of a union's complaints the one that came farthest. */
function deepest(issues: readonly z.core.$ZodIssue[], before: readonly PropertyKey[] = []): z.core.$ZodIssue {
  const [issue] = issues;
  if (!issue) throw new ApiError(400, "the body does not fit");
  const path = [...before, ...issue.path];
  if (issue.code === "invalid_union") {
    const inner = issue.errors.flatMap((branch) => (branch.length ? [deepest(branch, path)] : []));
    const [best] = inner.sort((a, b) => b.path.length - a.path.length);
    if (best && best.path.length > path.length) return best;
  }
  return { ...issue, path };
}
