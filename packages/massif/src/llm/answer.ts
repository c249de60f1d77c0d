/** The body of an answer to the JSON values in it, whether it is a stream of events or one document. */
import type { z } from "zod";
import { LlmError } from "./errors.ts";
import { type Http, type HttpAnswer, readError } from "./http.ts";
import { SseDecoder } from "./sse.ts";

/** Milliseconds for the connection to end after `[DONE]`, so that it can be used again. */
const GRACE = 50;

/** The values of an answer; returns whether it was said to be complete (a whole document, or `[DONE]`). Throws
 *  `llm.upstream` for an error in the stream, `llm.protocol` for what does not parse, `llm.cut`, `llm.timeout`. */
export async function* readAnswer<T>(
  http: Http,
  answer: HttpAnswer,
  shape: z.ZodType<T>,
): AsyncGenerator<T, boolean, undefined> {
  const read = (data: string, ended: boolean): T => {
    let value: unknown;
    try {
      value = JSON.parse(data);
    } catch (cause) {
      if (ended) throw cut(http);
      throw protocol(http, answer, `what is no JSON: ${excerpt(http, data)}`, cause);
    }
    const checked = shape.safeParse(value);
    const error = (value as { error?: unknown } | null)?.error;
    if (error) throw said(http, answer, value);
    if (checked.success) return checked.data;
    const [issue] = checked.error.issues;
    throw protocol(http, answer, `${issue?.path.join(".") || "an answer"}: ${issue?.message}`);
  };

  if (/\bjson\b/.test(answer.contentType)) {
    yield read(Buffer.concat(await Array.fromAsync(answer.body)).toString(), false);
    return true;
  }
  const decoder = new SseDecoder();
  let any = false;
  for await (const bytes of answer.body) {
    for (const { event, data } of decoder.push(bytes)) {
      any = true;
      if (data.trim() === "[DONE]") {
        await drain(answer);
        return true;
      }
      if (event === "error") throw said(http, answer, data);
      yield read(data, false);
    }
  }
  for (const { data } of decoder.end()) {
    any = true;
    if (data.trim() === "[DONE]") return true;
    yield read(data, true);
  }
  if (!any) throw protocol(http, answer, `no events (content type ${answer.contentType || "missing"})`);
  return false;
}

/** Reads on to the end, so that the connection lives on; a server that never ends loses it. */
async function drain({ body }: HttpAnswer): Promise<void> {
  try {
    while (!(await body.next(GRACE)).done);
  } catch {
    // The answer is complete: how its connection ends is nobody's trouble.
  }
}

export const cut = (http: Http): LlmError =>
  new LlmError("llm.cut", { found: `${http.host} ended the stream before the message`, fix: "ask again" });

const excerpt = (http: Http, data: string): string => JSON.stringify(http.redact(data.slice(0, 200)));

function protocol(http: Http, { requestId }: HttpAnswer, what: string, cause?: unknown): LlmError {
  const trouble = { found: `${http.host} sent ${what}`, expected: "the OpenAI protocol", cause };
  return new LlmError("llm.protocol", trouble, requestId ? { requestId } : {});
}

function said(http: Http, { requestId }: HttpAnswer, body: unknown): LlmError {
  const error = readError(http.redact(typeof body === "string" ? body : JSON.stringify(body)));
  const found = `${http.host} said within its answer: ${error.message ?? JSON.stringify(error)}`;
  return new LlmError("llm.upstream", { found }, { ...(requestId && { requestId }), error });
}
