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

interface Asked {
  path: string;
  key: string;
  body?: unknown;
  signal?: AbortSignal;
  method?: string;
  /** A stream goes on after this event. */
  last?: string;
}

/** Throws `WireError`, or the signal's reason. */
export async function ask({ path, key, body, signal, method, last }: Asked): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers: {
        ...(body !== undefined && { "content-type": "application/json" }),
        ...(key && { authorization: `Bearer ${key}` }),
        ...(last && { "last-event-id": last }),
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
    for await (const { lines } of readEvents(response.body!)) {
      const data = lines.join("\n");
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

export interface ServerEvent {
  id?: string;
  event?: string;
  /** Of its data. */
  lines: string[];
}

/** Server-sent events; one that is cut off is none. Leaving the loop closes the stream. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent, void, undefined> {
  const reader = body.getReader();
  const utf8 = new TextDecoder();
  let held = "";
  let event: ServerEvent = { lines: [] };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (held + utf8.decode(value, { stream: true })).split("\n");
      held = lines.pop()!;
      for (const whole of lines) {
        const line = whole.endsWith("\r") ? whole.slice(0, -1) : whole;
        if (!line) {
          if (event.lines.length) yield event;
          event = { lines: [] };
          continue;
        }
        const colon = line.indexOf(":");
        const [name, text] = [line.slice(0, colon), line.slice(colon + (line[colon + 1] === " " ? 2 : 1))];
        if (name === "data") event.lines.push(text);
        else if (name === "event" || name === "id") event[name] = text;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
