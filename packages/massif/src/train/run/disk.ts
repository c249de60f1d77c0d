/** Writing that survives a kill: what a name points to is whole, old or new. */
import { closeSync, fsyncSync, openSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** Forces a file, or the names in a folder, onto the disk. */
export function sync(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Writes a small file whole, or leaves the one before. */
export function writeWhole(file: string, text: string): void {
  const temporary = `${file}.tmp-${process.pid}`;
  writeFileSync(temporary, text);
  sync(temporary);
  renameSync(temporary, file);
  sync(dirname(file));
}

/** Whether an error, or what caused it, is a full disk or a spent quota; native writers say so only in their message. */
export function isDiskFull(error: unknown): boolean {
  for (let e = error; e instanceof Error; e = e.cause) {
    const code = "code" in e ? e.code : undefined;
    if (code === "ENOSPC" || code === "EDQUOT" || /no space left on device|disk quota exceeded/i.test(e.message))
      return true;
  }
  return false;
}
