/** The checkpoints of a run: folders `step-N`, each whole or absent, the last few kept. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MassifError } from "../../common/index.ts";
import { isDiskFull, sync } from "./disk.ts";

export interface Checkpoint {
  step: number;
  dir: string;
}

export interface CheckpointOptions {
  /** How many of the last are kept. */
  keep?: number;
  /** Steps whose multiples are kept for ever; 0 for none. */
  keepEvery?: number;
  /** Told about folders that are passed over. */
  warn?: (text: string) => void;
}

const MANIFEST = "manifest.json";

export class Checkpoints {
  readonly dir: string;
  readonly #options: Required<CheckpointOptions>;

  constructor(dir: string, { keep = 2, keepEvery = 0, warn = () => {} }: CheckpointOptions = {}) {
    if (keep < 1) throw new RangeError("at least one checkpoint must be kept");
    this.dir = dir;
    this.#options = { keep, keepEvery, warn };
    mkdirSync(dir, { recursive: true });
  }

  /**
   * Calls `write` with an empty folder, and makes what it wrote the checkpoint of `step`, in one rename. Whatever fails,
   * the checkpoints before stay as they were. Then prunes.
   * @throws MassifError `run.disk-full`; whatever `write` throws
   */
  async save(step: number, write: (dir: string) => void | Promise<void>): Promise<Checkpoint> {
    const temporary = join(this.dir, `.tmp-step-${step}-${process.pid}`);
    const final = join(this.dir, `step-${step}`);
    const before = join(this.dir, `.old-step-${step}`);
    rmSync(temporary, { recursive: true, force: true });
    try {
      mkdirSync(temporary);
      await write(temporary);
      seal(temporary, step);
      // Only a run that was rolled back writes a step twice. A folder cannot be renamed onto another in one move, so
      // the first steps aside; `tidy` brings it back if a kill comes between.
      const twice = statSync(final, { throwIfNoEntry: false }) !== undefined;
      if (twice) renameSync(final, before);
      renameSync(temporary, final);
      sync(this.dir);
      if (twice) rmSync(before, { recursive: true, force: true });
    } catch (cause) {
      rmSync(temporary, { recursive: true, force: true });
      if (!isDiskFull(cause)) throw cause;
      const last = this.latest();
      throw new MassifError("run.disk-full", {
        found: `no space left to write the checkpoint of step ${step} in ${this.dir}`,
        expected: last ? `room for one more; step ${last.step} is whole` : "room for one",
        fix: "make room, then go on with --resume",
        cause,
      });
    }
    this.#prune();
    return { step, dir: final };
  }

  /** The last whole checkpoint. */
  latest(): Checkpoint | undefined {
    return this.#folders().findLast((checkpoint) => {
      const flaw = flawOf(checkpoint);
      if (flaw) this.#options.warn(`passing over ${checkpoint.dir}: ${flaw}`);
      return !flaw;
    });
  }

  /** The whole checkpoints, first to last. */
  list(): Checkpoint[] {
    return this.#folders().filter((checkpoint) => !flawOf(checkpoint));
  }

  /** Removes what a kill has left behind, and checkpoints after `step`. Only for the one writer. */
  tidy(step = Number.POSITIVE_INFINITY): void {
    for (const name of readdirSync(this.dir)) {
      const path = join(this.dir, name);
      const old = /^\.old-(step-\d+)$/.exec(name)?.[1];
      if (old && !statSync(join(this.dir, old), { throwIfNoEntry: false })) renameSync(path, join(this.dir, old));
      else if (old || name.startsWith(".tmp-step-")) rmSync(path, { recursive: true, force: true });
    }
    for (const late of this.#folders().filter((checkpoint) => checkpoint.step > step)) this.#remove(late);
  }

  #folders(): Checkpoint[] {
    return readdirSync(this.dir)
      .flatMap((name) => {
        const step = /^step-(\d+)$/.exec(name)?.[1];
        return step === undefined ? [] : [{ step: Number(step), dir: join(this.dir, name) }];
      })
      .sort((a, b) => a.step - b.step);
  }

  #prune(): void {
    const { keep, keepEvery } = this.#options;
    for (const checkpoint of this.list().slice(0, -keep)) {
      if (keepEvery > 0 && checkpoint.step % keepEvery === 0) continue;
      this.#remove(checkpoint);
    }
  }

  #remove({ step, dir }: Checkpoint): void {
    // Out of sight first: a kill in the middle of the removal must not leave half a checkpoint under its name.
    const away = join(this.dir, `.tmp-step-${step}-away`);
    rmSync(away, { recursive: true, force: true });
    renameSync(dir, away);
    rmSync(away, { recursive: true, force: true });
  }
}

interface Manifest {
  step: number;
  files: { path: string; bytes: number }[];
}

/** Forces every file onto the disk and lists it with its size; the list comes last. */
function seal(dir: string, step: number): void {
  const files: Manifest["files"] = [];
  for (const entry of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    sync(path);
    if (entry.isFile()) files.push({ path: path.slice(dir.length + 1), bytes: statSync(path).size });
  }
  files.sort((a, b) => (a.path < b.path ? -1 : 1));
  writeFileSync(join(dir, MANIFEST), `${JSON.stringify({ step, files } satisfies Manifest, null, 1)}\n`);
  sync(join(dir, MANIFEST));
  sync(dir);
}

/** Why a folder is no whole checkpoint, if it is not. */
function flawOf({ step, dir }: Checkpoint): string | undefined {
  let manifest: Manifest;
  try {
    manifest = JSON.parse(readFileSync(join(dir, MANIFEST), "utf8")) as Manifest;
  } catch {
    return `no readable ${MANIFEST}`;
  }
  if (manifest.step !== step || !Array.isArray(manifest.files)) return `${MANIFEST} is of another step`;
  for (const { path, bytes } of manifest.files) {
    const size = statSync(join(dir, path), { throwIfNoEntry: false })?.size;
    if (size !== bytes) return `${path} has ${size ?? "no"} bytes, ${bytes} were written`;
  }
  return undefined;
}
