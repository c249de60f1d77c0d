/** The server's stream of runs, opened again wherever it breaks, from where it was. */
import type { Files, RunData, RunEvent } from "./run-data.ts";

export type Link = "connecting" | "live" | "lost";

interface Message {
  id?: string;
  event: string;
  lines: string[];
}

export interface Followed {
  runs: readonly RunData[];
  key: string;
  /** Of what was taken in so far, by this stream or one before. */
  place: { id: string };
  onChange(): void;
  onLink(link: Link, why?: string): void;
  signal: AbortSignal;
}

/** Until the signal. */
export async function follow({ runs, key, place, onChange, onLink, signal }: Followed): Promise<void> {
  const byId = new Map(runs.map((run) => [run.id, run]));
  const query = runs.map(({ id }) => `run=${encodeURIComponent(id)}`).join("&");
  for (let wait = 250; !signal.aborted; wait = Math.min(wait * 2, 5000)) {
    try {
      onLink("connecting");
      const response = await fetch(`/api/runs/stream?${query}`, {
        signal,
        headers: { ...(key && { authorization: `Bearer ${key}` }), ...(place.id && { "last-event-id": place.id }) },
      });
      if (!response.ok || !response.body) throw new Error(`the server says ${response.status}`);
      for await (const message of readMessages(response.body)) {
        wait = 250;
        if (message.event === "now") onLink("live");
        take(message, byId);
        // Only what was taken in counts as read.
        if (message.id) place.id = merged(place.id, message.id);
        onChange();
        // The browser draws between two messages.
        if (message.lines.length > 64) await new Promise((resolve) => setTimeout(resolve));
      }
      throw new Error("the server closed the stream");
    } catch (error) {
      if (signal.aborted) return;
      onLink("lost", (error as Error).message);
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Places of runs that this stream does not follow stay. */
function merged(old: string, now: string): string {
  const all = new URLSearchParams(old);
  for (const [name, value] of new URLSearchParams(now)) all.set(name, value);
  return all.toString();
}

function take({ event, lines }: Message, runs: ReadonlyMap<string, RunData>): void {
  const head = JSON.parse(lines[0] ?? "{}") as { run?: string; reset?: boolean } & Partial<Files>;
  const run = runs.get(head.run ?? "");
  if (!run) return;
  if (event === "files") run.files = { episodes: head.episodes ?? [], samples: head.samples ?? [] };
  else if (event === "metrics") {
    if (head.reset) run.clear();
    for (const row of rowsOf(lines)) run.take(row);
  } else if (event === "events") {
    if (head.reset) run.events = [];
    for (const row of rowsOf(lines)) if (typeof row.event === "string") run.events.push(row as RunEvent);
  }
  run.version++;
}

/** All at once, which is quick; one by one where a line is no JSON. */
function rowsOf(lines: readonly string[]): Record<string, unknown>[] {
  try {
    return JSON.parse(`[${lines.slice(1).join(",")}]`);
  } catch {
    return lines.slice(1).flatMap((line) => {
      try {
        return [JSON.parse(line)];
      } catch {
        return [];
      }
    });
  }
}

async function* readMessages(body: ReadableStream<Uint8Array>): AsyncGenerator<Message, void, undefined> {
  const reader = body.getReader();
  const utf8 = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (held + utf8.decode(value, { stream: true })).split("\n\n");
      held = blocks.pop()!;
      for (const block of blocks) {
        const message: Message = { event: "", lines: [] };
        for (const line of block.split("\n")) {
          if (line.startsWith("data: ")) message.lines.push(line.slice(6));
          else if (line.startsWith("event: ")) message.event = line.slice(7);
          else if (line.startsWith("id: ")) message.id = line.slice(4);
        }
        if (message.event) yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
