/**
 * Runs as server-sent events, many in one stream (a browser opens six connections to a host, no more):
 *
 *   event: metrics | events    data: {"run": …, "reset": true?}, then the rows as they stand in the file, a line each
 *   event: files               data: {"run": …, "episodes": […], "samples": […]}
 *   event: now                 what there is has been sent; from here on it comes as it is made
 *
 * Every event's id is where the reader then is in every file. With it as `Last-Event-ID`, another stream goes on from there,
 * also of other runs, also of another server process.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { filesOf, markOf } from "./run-folders.ts";
import { type Place, Tail } from "./tail.ts";

export interface Followed {
  id: string;
  dir: string;
}

const logs = ["metrics", "events"] as const;

/** Until the signal. `poll`: milliseconds between two looks. */
export async function* follow(
  runs: readonly Followed[],
  { lastEventId = "", poll, signal }: { lastEventId?: string; poll: number; signal: AbortSignal },
): AsyncGenerator<string, void> {
  const places = readPlaces(lastEventId);
  const tails = runs.flatMap(({ id, dir }) =>
    logs.map((log) => ({ id, log, tail: new Tail(join(dir, `${log}.jsonl`), places.get(`${id} ${log}`)) })),
  );
  const listed = new Map<string, string>();
  const at = () => showPlaces(tails.map(({ id, log, tail }) => [`${id} ${log}`, tail.place]));
  for (let first = true; !signal.aborted; ) {
    let quiet = true;
    for (const { id, log, tail } of tails) {
      const part = await tail.read();
      if (!part) continue;
      quiet = false;
      const head = JSON.stringify({ run: id, ...(part.reset && { reset: true }) });
      yield event(log, [head, ...part.text.split("\n").filter(Boolean)], at());
    }
    for (const { id, dir } of runs) {
      const files = JSON.stringify({ run: id, ...filesOf(dir) });
      const mark = markOf(Buffer.from(files));
      if (listed.get(id) === mark) continue;
      listed.set(id, mark);
      yield event("files", [files]);
    }
    if (!quiet) continue;
    if (first) yield event("now", ["{}"], at());
    first = false;
    await sleep(poll, undefined, { signal }).catch(() => undefined);
  }
}

const event = (name: string, lines: readonly string[], id?: string): string =>
  `${id === undefined ? "" : `id: ${id}\n`}event: ${name}\n${lines.map((line) => `data: ${line.replaceAll("\r", "")}\n`).join("")}\n`;

const showPlaces = (places: readonly (readonly [string, Place])[]): string =>
  new URLSearchParams(places.map(([name, { offset, mark }]) => [name, `${offset}.${mark}`])).toString();

/** Whatever a client sends: what is no place is none. */
function readPlaces(text: string): Map<string, Place> {
  const places = new Map<string, Place>();
  for (const [name, value] of new URLSearchParams(text)) {
    const [, offset, mark] = /^(\d{1,15})\.([0-9a-f]*)$/.exec(value) ?? [];
    if (offset !== undefined && mark !== undefined) places.set(name, { offset: Number(offset), mark });
  }
  return places;
}
