/** The server's HTTP as this page needs it: JSON, server-sent events, and errors that say what to do. */

export interface Trouble {
  message: string;
  /** 0: no answer at all. */
  status: number;
  param?: string;
  code?: string;
  requestId?: string;
}

export class WireError extends Error {
  readonly trouble: Trouble;
  constructor(trouble: Trouble) {
    super(trouble.message);
    this.trouble = trouble;
  }
}

/** What to do about an error; "" where its message says enough. */
export function advice({ status, param, code }: Trouble): string {
  if (status === 0) return "Is the server still running? Start it again with massif serve, then retry.";
  if (status === 401 || status === 403) return "Enter a key of this server under Settings → Key.";
  if (status === 429) return "The server or this key is at its limit: wait a moment, then retry.";
  if (status === 503) return "The server is loading or full: retry in a few seconds.";
  if (code === "context_length_exceeded") return "Shorten the conversation, or lower Most tokens under Settings.";
  if (status === 400 && param) return `Correct ${param} under Settings, then retry.`;
  if (status >= 500) return "The server's log tells more, under the id of the request.";
  return "";
}

type Fetched = { path: string; key: string; body?: unknown; signal?: AbortSignal };

/** Throws `WireError`, or the signal's reason. */
async function ask({ path, key, body, signal }: Fetched): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: {
        ...(body !== undefined && { "content-type": "application/json" }),
        ...(key && { authorization: `Bearer ${key}` }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      ...(signal && { signal }),
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw new WireError({ status: 0, message: `No answer from ${location.host}: ${(error as Error).message}` });
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  throw new WireError(readTrouble(text, response.status, response.headers.get("x-request-id") ?? undefined));
}

/** An error's body, in OpenAI's shape or any other. */
export function readTrouble(text: string, status: number, requestId?: string): Trouble {
  const trouble: Trouble = {
    status,
    message: text.slice(0, 2000) || `HTTP ${status}`,
    ...(requestId && { requestId }),
  };
  try {
    const { error } = JSON.parse(text) as { error?: { message?: string; param?: string; code?: string } | string };
    if (typeof error === "string") return { ...trouble, message: error };
    if (!error) return trouble;
    return {
      ...trouble,
      message: error.message ?? trouble.message,
      ...(error.param && { param: error.param }),
      ...(error.code && { code: String(error.code) }),
    };
  } catch {
    return trouble;
  }
}

export async function getJson(path: string, key: string, body?: unknown, signal?: AbortSignal): Promise<unknown> {
  const response = await ask({ path, key, body, ...(signal && { signal }) });
  return response.json();
}

/** The JSON values of a stream. Throws `WireError` for an error within it, and for a stream that ends without `[DONE]`. */
export async function* postStream(
  path: string,
  key: string,
  body: unknown,
  signal: AbortSignal,
): AsyncGenerator<unknown, void, undefined> {
  const response = await ask({ path, key, body, signal });
  const requestId = response.headers.get("x-request-id") ?? undefined;
  try {
    for await (const data of readEvents(response.body!)) {
      if (data === "[DONE]") return;
      const value = JSON.parse(data) as { error?: unknown };
      if (value.error) throw new WireError(readTrouble(data, response.status, requestId));
      yield value;
    }
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof WireError) throw error;
    throw new WireError({ status: 0, message: `The answer broke off: ${(error as Error).message}` });
  }
  throw new WireError({ status: 0, message: "The answer broke off: the server closed the connection before its end." });
}

/** Data of server-sent events; comments and other fields are for others. Leaving the loop closes the stream. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string, void, undefined> {
  const reader = body.getReader();
  const utf8 = new TextDecoder();
  let [held, data] = ["", [] as string[]];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      held += done ? `${utf8.decode()}\n\n` : utf8.decode(value, { stream: true });
      const lines = held.split("\n");
      held = lines.pop()!;
      for (const whole of lines) {
        const line = whole.endsWith("\r") ? whole.slice(0, -1) : whole;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (!line && data.length) yield data.splice(0).join("\n");
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
