/** One writer at a time: a lock file that names its process, taken over when that process is dead. */
import { linkSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { MassifError } from "../../common/index.ts";

interface Holder {
  pid: number;
  host: string;
  /** When the process began, in the kernel's ticks: a number that a later process with the same id does not share. */
  began?: string;
}

/** Holds `file` until disposed. @throws MassifError `run.locked` while a living process holds it */
export function lock(file: string): Disposable {
  const mine = `${file}.${process.pid}`;
  const me: Holder = { pid: process.pid, host: hostname(), began: beganAt(process.pid) };
  writeFileSync(mine, JSON.stringify(me));
  try {
    // A link is made whole or not at all, so nobody ever reads a half-written lock.
    for (let tries = 0; !link(mine, file); tries++) {
      const text = read(file);
      if (text === undefined) continue;
      const holder = parse(text);
      if (tries > 9 || isAlive(holder)) {
        const local = !holder || holder.host === me.host;
        throw new MassifError("run.locked", {
          found: `process ${holder?.pid ?? "?"}${local ? "" : ` on ${holder.host}`} is writing to this run (${file})`,
          expected: "one writer at a time",
          fix: local ? "wait for it or stop it, or choose another --run" : `if it is gone, delete ${file}`,
        });
      }
      takeAway(file, text);
    }
  } finally {
    rmSync(mine, { force: true });
  }
  return { [Symbol.dispose]: () => rmSync(file, { force: true }) };
}

function link(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EEXIST") return false;
    throw error;
  }
}

/** Removes a stale lock; if another process was quicker and what was removed is its new one, puts that back. */
function takeAway(file: string, stale: string): void {
  const aside = `${file}.stale-${process.pid}`;
  try {
    renameSync(file, aside);
  } catch {
    return;
  }
  if (read(aside) !== stale) link(aside, file);
  unlinkSync(aside);
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}

function parse(text: string): Holder | undefined {
  try {
    return JSON.parse(text) as Holder;
  } catch {
    return undefined;
  }
}

/** Whether the holder may still write: another machine's processes cannot be asked, so they count as alive. */
function isAlive(holder: Holder | undefined): boolean {
  if (!holder) return false;
  if (holder.host !== hostname()) return true;
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ESRCH") return false;
  }
  return holder.began === beganAt(holder.pid);
}

/** Field 22 of /proc/PID/stat, counted after the name in parentheses; undefined where there is no /proc. */
function beganAt(pid: number): string | undefined {
  const stat = read(`/proc/${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
}
