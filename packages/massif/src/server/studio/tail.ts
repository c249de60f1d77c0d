/** A growing file of lines, read from where one was: whole lines only, and a word when what was read is no longer there
 *  (the run went back to an earlier step, was begun anew, or another file took its place). */
import { open, stat } from "node:fs/promises";
import { markOf } from "./run-folders.ts";

/** Where a reader is: bytes read, and a mark of the last of them. */
export interface Place {
  offset: number;
  mark: string;
}

export interface Part {
  /** What was read before is void. */
  reset: boolean;
  /** Whole lines, without the last line's end. */
  text: string;
}

/** Bytes before the offset that the mark is made of: rows tell the clock, so no two ends are alike. */
const MARKED = 256;
/** Bytes read at once: what a page takes in without missing a frame. A longer line is read whole. */
const CHUNK = 1 << 17;
const LONGEST = 1 << 26;

export class Tail {
  readonly #file: string;
  #place: Place;
  /** Size and time at the last reading that found nothing new. */
  #seen = "";

  constructor(file: string, place: Place = { offset: 0, mark: "" }) {
    this.#file = file;
    this.#place = place;
  }

  get place(): Place {
    return this.#place;
  }

  /** What is new, or undefined. A file that is missing is an empty one. */
  async read(): Promise<Part | undefined> {
    const found = await stat(this.#file).catch(() => undefined);
    const seen = found ? `${found.ino} ${found.size} ${found.mtimeMs}` : "missing";
    if (seen === this.#seen) return undefined;
    if (!found) {
      this.#seen = seen;
      return this.#begin();
    }
    await using file = await open(this.#file, "r").catch(() => undefined);
    if (!file) return undefined; // gone since: the next look finds it missing
    const { offset } = this.#place;
    const reset = offset > found.size || (await this.#markAt(file, offset)) !== this.#place.mark;
    if (reset) this.#place = { offset: 0, mark: "" };
    for (let size = CHUNK; size <= LONGEST; size *= 4) {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(size), 0, size, this.#place.offset);
      const end = buffer.subarray(0, bytesRead).lastIndexOf(10);
      if (end < 0 && bytesRead === size) continue;
      if (end < 0) break;
      const next = this.#place.offset + end + 1;
      this.#place = { offset: next, mark: await this.#markAt(file, next) };
      return { reset, text: buffer.toString("utf8", 0, end) };
    }
    this.#seen = seen;
    return reset ? { reset, text: "" } : undefined;
  }

  #begin(): Part | undefined {
    if (!this.#place.offset) return undefined;
    this.#place = { offset: 0, mark: "" };
    return { reset: true, text: "" };
  }

  async #markAt(file: Awaited<ReturnType<typeof open>>, offset: number): Promise<string> {
    if (!offset) return "";
    const from = Math.max(0, offset - MARKED);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(offset - from), 0, offset - from, from);
    return markOf(buffer.subarray(0, bytesRead));
  }
}
