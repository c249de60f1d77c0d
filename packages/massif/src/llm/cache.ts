/** A model that remembers on disk what another has answered: one file a request, so that a step done twice is free and
 *  gives the same. Any number of processes may share a folder. */
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { z } from "zod";
import { aborted } from "./errors.ts";
import { ModelEventSchema } from "./event-schema.ts";
import type { LanguageModel, ModelEvent } from "./model.ts";
import { type ChatRequest, canonical, requestKey } from "./request.ts";

const Entry = z.object({ events: z.array(ModelEventSchema) });

/** Answers are kept whole or not at all; errors never. The same request twice has the same answer: for several samples,
 *  give each a seed. */
export class CachedModel implements LanguageModel {
  readonly name: string;
  hits = 0;
  misses = 0;
  readonly #model: LanguageModel;
  readonly #folder: string;

  constructor(model: LanguageModel, folder: string) {
    this.name = model.name;
    this.#model = model;
    this.#folder = folder;
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const key = requestKey(this.name, request);
    const file = join(this.#folder, key.slice(0, 2), `${key.slice(2)}.json`);
    const kept = await readEntry(file);
    if (kept) {
      this.hits++;
      for (const event of kept) {
        if (request.signal?.aborted) throw aborted(request.signal);
        yield event;
      }
      return;
    }
    this.misses++;
    const events: ModelEvent[] = [];
    for await (const event of this.#model.stream(request)) {
      events.push(event);
      // Before it is told: who leaves at the finish has it kept too.
      if (event.type === "finish") await writeEntry(file, { model: this.name, request: canonical(request), events });
      yield event;
    }
  }
}

/** Undefined where there is none, or one that is damaged (a power cut), which is then written anew. */
async function readEntry(file: string): Promise<ModelEvent[] | undefined> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    return Entry.parse(JSON.parse(text)).events;
  } catch {
    return undefined;
  }
}

/** By renaming, so that nobody ever reads half an entry; of two writers the later wins. */
async function writeEntry(file: string, entry: object): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const half = `${file}.${randomUUID()}`;
  await writeFile(half, JSON.stringify(entry));
  await rename(half, file);
}
