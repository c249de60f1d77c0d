/** The server's stream of runs, opened again wherever it breaks, from where it was. */
import type { Files, RunData, RunEvent } from "./run-data.ts";
import { ask, readEvents, type ServerEvent } from "./wire.ts";

export type Link = "connecting" | "live" | "lost";

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
      const { body } = await ask({ path: `/api/runs/stream?${query}`, key, signal, last: place.id });
      for await (const message of readEvents(body!)) {
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

function take({ event, lines }: ServerEvent, runs: ReadonlyMap<string, RunData>): void {
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
