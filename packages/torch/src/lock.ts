import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";

const STALE_MS = 30 * 60_000;

/**
 * Runs `work` while holding a lock file: only one process at a time is inside, the others wait (this thread sleeps). A
 * lock whose process is gone is taken over. `onWait` is called once, if there is a wait.
 */
export function withLock<T>(file: string, onWait: () => void, work: () => T): T {
  const mine = JSON.stringify({ pid: process.pid, host: hostname() });
  for (let waited = false; !take(file, mine); ) {
    if (isAbandoned(file)) {
      discard(file);
      continue;
    }
    if (!waited) onWait();
    waited = true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  }
  try {
    return work();
  } finally {
    rmSync(file, { force: true });
  }
}

function take(file: string, content: string): boolean {
  try {
    writeFileSync(file, content, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function isAbandoned(file: string): boolean {
  try {
    if (Date.now() - statSync(file).mtimeMs > STALE_MS) return true;
    const { pid, host } = JSON.parse(readFileSync(file, "utf8"));
    if (host !== hostname()) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    // ESRCH: no such process. Anything else (released just now, being written): look again.
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

/** By rename, so that of two who find it abandoned one removes it, and not the other's new one. */
function discard(file: string): void {
  const aside = `${file}.${process.pid}`;
  try {
    renameSync(file, aside);
    rmSync(aside);
  } catch {
    // Another one was quicker.
  }
}
