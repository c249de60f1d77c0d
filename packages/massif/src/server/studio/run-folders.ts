/** Run folders under given roots, to be looked at. What a client names is looked up among what was found and never joined
 *  to a path, and no link is followed: nothing outside the roots is ever read. */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, lstatSync, openSync, readdirSync, readFileSync, readSync, realpathSync } from "node:fs";
import { hostname } from "node:os";
import { basename, join, relative, sep } from "node:path";
import { MassifError } from "../../common/index.ts";
import { ApiError } from "../errors.ts";

type RunKind = "pretrain" | "sft" | "rl" | "run";

interface RunSummary {
  /** Its folder from the root, with the root's own name in front. */
  id: string;
  kind: RunKind;
  /** Steps that its recipe asks for, where it says. */
  steps?: number;
  /** Of its last row. */
  step: number;
  /** Milliseconds since 1970 of the last change of its metrics. */
  changed: number;
  /** A process holds its lock. */
  live: boolean;
}

/** What lies in a run's folder beside its logs; the names are those that may be asked for. */
interface RunFiles {
  episodes: string[];
  samples: string[];
}

/** Folders that are parts of a run, and hold none. */
const parts = new Set(["checkpoints", "data", "samples", "rollouts", "tensorboard", "tokenizer", "node_modules"]);
const DEPTH = 4;
const MOST = 500;
/** Milliseconds for which a search of the roots is good. */
const FRESH = 1000;

export class RunFolders {
  readonly #roots: readonly string[];
  #found = new Map<string, string>();
  #at = Number.NEGATIVE_INFINITY;

  /** Throws `server.runs` where a root is no folder. */
  constructor(roots: readonly string[]) {
    this.#roots = roots.map((root) => {
      try {
        readdirSync(root);
        return realpathSync(root);
      } catch (cause) {
        const fix = "give run folders, or a folder that holds some";
        throw new MassifError("server.runs", { found: `${root} is no folder that can be read`, fix, cause });
      }
    });
  }

  /** Throws 404. */
  dir(id: string): string {
    if (!this.#found.has(id)) this.#search();
    const dir = this.#found.get(id);
    if (dir && isFile(join(dir, "metrics.jsonl"))) return dir;
    throw new ApiError(404, `there is no run ${JSON.stringify(id.slice(0, 200))} here`, { param: "run" });
  }

  /** Those that changed last come first. */
  list(): RunSummary[] {
    this.#search();
    return [...this.#found].map(([id, dir]) => summaryOf(id, dir)).sort((a, b) => b.changed - a.changed);
  }

  config(id: string): unknown {
    return readJson(join(this.dir(id), "config.json"));
  }

  /** The text of a file of the run. Throws 404 for a name that `filesOf` does not tell. */
  text(id: string, folder: "rollouts" | "samples", name: string): string {
    const dir = this.dir(id);
    const { episodes, samples } = filesOf(dir);
    if (!(folder === "rollouts" ? episodes : samples).includes(name))
      throw new ApiError(404, `the run has no ${folder}/${name.slice(0, 100)}`, { param: "file" });
    return readFileSync(join(dir, folder, name), "utf8");
  }

  #search(): void {
    const now = performance.now();
    if (now - this.#at < FRESH) return;
    this.#at = now;
    const found = new Map<string, string>();
    const look = (root: string, dir: string, depth: number): void => {
      if (found.size >= MOST) return;
      if (isFile(join(dir, "metrics.jsonl"))) {
        const id = [basename(root), ...relative(root, dir).split(sep)].filter(Boolean).join("/");
        let own = id;
        for (let n = 2; found.has(own) && found.get(own) !== dir; n++) own = `${id}~${n}`;
        found.set(own, dir);
      }
      if (depth >= DEPTH) return;
      for (const entry of entriesOf(dir))
        if (entry.isDirectory() && !parts.has(entry.name) && !entry.name.startsWith("."))
          look(root, join(dir, entry.name), depth + 1);
    };
    for (const root of this.#roots) look(root, root, 0);
    this.#found = found;
  }
}

const entriesOf = (dir: string) => {
  try {
    return readdirSync(dir, { withFileTypes: true });
  } catch {
    return [];
  }
};

/** A file itself: no link to one. */
export function isFile(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

const stepOf = (name: string): number => Number(/step-(\d+)/.exec(name)?.[1]);

export function filesOf(dir: string): RunFiles {
  const named = (folder: string, pattern: RegExp) => {
    // The folder itself may be no link either.
    const own = lstatSync(join(dir, folder), { throwIfNoEntry: false })?.isDirectory();
    const entries = own ? entriesOf(join(dir, folder)) : [];
    const names = entries.filter((entry) => entry.isFile() && pattern.test(entry.name)).map(({ name }) => name);
    return names.sort((a, b) => stepOf(a) - stepOf(b) || (a < b ? -1 : 1));
  };
  return {
    episodes: named("rollouts", /^(train-)?step-\d+\.jsonl$/),
    samples: named("samples", /^step-\d+\.json$/),
  };
}

function summaryOf(id: string, dir: string): RunSummary {
  const config = (readJson(join(dir, "config.json")) ?? {}) as Record<string, unknown>;
  const { steps } = config;
  return {
    id,
    kind: kindOf(config),
    ...(typeof steps === "number" && { steps }),
    step: lastStep(join(dir, "metrics.jsonl")),
    changed: lstatSync(join(dir, "metrics.jsonl"), { throwIfNoEntry: false })?.mtimeMs ?? 0,
    live: isHeld(join(dir, "lock")),
  };
}

/** By what its recipe has: a run folder does not say what made it. */
function kindOf(config: Record<string, unknown>): RunKind {
  if ("groupSize" in config) return "rl";
  if ("epochs" in config) return "sft";
  return "heldOut" in config || "schedule" in config ? "pretrain" : "run";
}

function readJson(file: string): unknown {
  try {
    return isFile(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined;
  } catch {
    return undefined;
  }
}

/** Bytes from the end in which the last row is looked for. */
const TAIL = 1 << 18;

function lastStep(file: string): number {
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch {
    return 0;
  }
  try {
    const { size } = fstatSync(fd);
    const bytes = Buffer.alloc(Math.min(TAIL, size));
    readSync(fd, bytes, 0, bytes.length, size - bytes.length);
    const steps = bytes.toString("latin1").match(/(?<=^|\n)\{"step":\d+/g);
    return Number(steps?.at(-1)?.slice(8) ?? 0);
  } finally {
    closeSync(fd);
  }
}

/** Whether the process that a run's lock names is alive, as far as this machine can tell (train/run/lock.ts writes it). */
function isHeld(file: string): boolean {
  const holder = readJson(file) as { pid?: number; host?: string } | undefined;
  if (!holder?.pid) return false;
  if (holder.host !== hostname()) return true;
  try {
    process.kill(holder.pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** A short name of a text, to tell whether it changed. */
export const markOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex").slice(0, 12);
