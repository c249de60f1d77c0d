/** A JSONL file of rows with a `step`, only ever appended to, and cut back when a run goes on from an earlier step. */
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { MassifError } from "../../common/index.ts";
import { isDiskFull } from "./disk.ts";

export class StepLog implements Disposable {
  readonly file: string;
  readonly #fd: number;

  constructor(file: string) {
    this.file = file;
    this.#fd = openSync(file, "a");
  }

  /** One line, whole or not at all; in the kernel's hands on return, so it survives a kill. NaN and ∞ become null. */
  append(row: object): void {
    appendWhole(this.#fd, this.file, Buffer.from(`${JSON.stringify(row)}\n`));
  }

  /** Drops the first row later than `step` and all that follows it, and a last line that a kill has torn. */
  cut(step: number): void {
    ftruncateSync(this.#fd, lengthThrough(this.file, step));
  }

  /** Onto the disk, to survive a power failure too. */
  sync(): void {
    fsyncSync(this.#fd);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** Appends all of `bytes` to a file, or nothing. @throws MassifError `run.disk-full` */
export function appendWhole(fd: number, file: string, bytes: Uint8Array): void {
  const before = fstatSync(fd).size;
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
  } catch (cause) {
    ftruncateSync(fd, before);
    if (!isDiskFull(cause)) throw cause;
    throw new MassifError("run.disk-full", {
      found: `no space left to write ${file}`,
      fix: "make room, then go on with --resume; checkpoints are whole",
      cause,
    });
  }
}

/** Bytes of the rows up to `step`. */
function lengthThrough(file: string, step: number): number {
  const bytes = readFileSync(file);
  let at = 0;
  for (let line = 1; at < bytes.length; line++) {
    const end = bytes.indexOf(10, at);
    if (end < 0) return at;
    const row = parse(bytes.toString("utf8", at, end));
    if (row === undefined) {
      if (end + 1 === bytes.length) return at;
      throw new MassifError("run.log", {
        found: `line ${line} of ${file} is no JSON object`,
        fix: "delete that line, or begin a new run with another --run",
      });
    }
    if (typeof row.step === "number" && row.step > step) return at;
    at = end + 1;
  }
  return at;
}

function parse(line: string): { step?: unknown } | undefined {
  try {
    const row: unknown = JSON.parse(line);
    return typeof row === "object" && row !== null ? row : undefined;
  } catch {
    return undefined;
  }
}

/** The whole rows of a log, for readers; a torn last line and a missing file are no rows. */
export function readRows(file: string): Record<string, unknown>[] {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return [];
  }
  return text.split("\n").flatMap((line) => {
    const row = line ? parse(line) : undefined;
    return row ? [row as Record<string, unknown>] : [];
  });
}
