/** The input of a batch: one request a line, checked before any is run. */
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { depthOf } from "../body.ts";
import type { App } from "../http.ts";

export const endpoints = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"] as const;

/** Requests of a batch, OpenAI's; and how many of what is wrong with them is told. */
const MOST = { requests: 50_000, errors: 100 };

export interface BatchLine {
  custom_id: string;
  body: Record<string, unknown>;
}

export interface BatchError {
  code: string;
  message: string;
  param?: string;
  line?: number;
}

/** The lines that are not blank, with their numbers, from 1. */
async function* linesOf(path: string): AsyncGenerator<{ text: string; line: number }, void> {
  let line = 0;
  for await (const text of createInterface({ input: createReadStream(path, "utf8"), crlfDelay: Infinity })) {
    line++;
    if (text.trim()) yield { text, line };
  }
}

/** What is wrong with a batch's input, and how many requests it has. */
export async function checkLines(
  path: string,
  endpoint: string,
  limits: App["limits"],
): Promise<{ errors: BatchError[]; total: number }> {
  const errors: BatchError[] = [];
  const ids = new Set<string>();
  let total = 0;
  for await (const { text, line } of linesOf(path)) {
    const read = readLine(text, endpoint, limits);
    const wrong = "code" in read ? read : undefined;
    const id = "body" in read ? read.custom_id : undefined;
    if (wrong) errors.push({ ...wrong, line });
    else if (ids.has(id!))
      errors.push({ code: "duplicate_custom_id", message: `a second request ${id}`, param: "custom_id", line });
    if (id !== undefined) ids.add(id);
    if (++total > MOST.requests)
      return { errors: [{ code: "too_many_requests", message: `more than ${MOST.requests} requests` }], total };
    if (errors.length === MOST.errors) break;
  }
  if (!total) errors.push({ code: "empty_file", message: "the input file has no requests" });
  return { errors, total };
}

/** The requests of an input that was checked. */
export async function* requestsOf(path: string): AsyncGenerator<BatchLine, void> {
  for await (const { text } of linesOf(path)) yield JSON.parse(text) as BatchLine;
}

function readLine(text: string, endpoint: string, limits: App["limits"]): BatchLine | BatchError {
  const wrong = (code: string, message: string, param?: string): BatchError => ({
    ...{ code, message },
    ...(param !== undefined && { param }),
  });
  const bytes = Buffer.from(text);
  if (bytes.length > limits.maxBytes) return wrong("request_too_large", `more than ${limits.maxBytes} bytes`);
  if (depthOf(bytes) > limits.maxDepth)
    return wrong("invalid_json_line", `nested deeper than ${limits.maxDepth} levels`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return wrong("invalid_json_line", "this line is not parseable as valid JSON");
  }
  if (!isObject(value)) return wrong("invalid_json_line", "this line is no JSON object");
  const { custom_id, method = "POST", url, body, ...rest } = value;
  const [more] = Object.keys(rest);
  if (more !== undefined) return wrong("unknown_parameter", `there is no ${more.slice(0, 100)}`, more.slice(0, 100));
  if (typeof custom_id !== "string" || !custom_id || custom_id.length > 512)
    return wrong("missing_required_parameter", "a text of at most 512 characters", "custom_id");
  if (method !== "POST") return wrong("invalid_method", 'only "POST"', "method");
  if (url !== endpoint) return wrong("mismatched_url", `the batch is for ${endpoint}`, "url");
  if (!isObject(body)) return wrong("missing_required_parameter", "an object", "body");
  if (typeof body.model !== "string") return wrong("missing_required_parameter", "the name of a model", "body.model");
  for (const field of ["stream", "background"])
    if (body[field] === true) return wrong("invalid_request", "a batch has whole answers only", `body.${field}`);
  return { custom_id, body };
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
