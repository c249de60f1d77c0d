/**
 * The folder of a run: config.json (as resolved), metrics.jsonl, events.jsonl, checkpoints/step-N/, samples/,
 * tensorboard/; report.md and report.html are made from these. A run that was killed and resumed leaves the same
 * metrics as one that was not, but for the clock's.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { configDifferences, MassifError } from "../../common/index.ts";
import { type Checkpoint, type CheckpointOptions, Checkpoints } from "./checkpoints.ts";
import { writeWhole } from "./disk.ts";
import { lock } from "./lock.ts";
import { provenance } from "./provenance.ts";
import { StepLog } from "./step-log.ts";
import { TensorboardFile } from "./tensorboard.ts";

/** One row of metrics.jsonl. Every step has scalars; some steps have matrices (see MetricsRow's lists). */
export interface MetricsRow {
  step: number;
  /** Tokens trained on so far. */
  tokens?: number;
  loss?: number;
  lr?: number;
  gradNorm?: number;
  /** The largest attention logit of the step, over all heads, before clipping. */
  maxLogit?: number;
  clippedHeads?: number;
  /** Largest load of an expert over the mean load, worst layer: 1 is even. */
  loadImbalance?: number;
  tokensPerSecond?: number;
  mfu?: number;
  /** Wall time of the step. */
  seconds?: number;
  evalLoss?: number;
  evalBitsPerByte?: number;
  /** layers × heads, before and after QK-Clip. */
  maxLogits?: number[][];
  maxLogitsAfter?: number[][];
  /** Mixture-of-experts layers × experts: shares of the tokens' routes, each layer adding up to 1. */
  expertLoad?: number[][];
  [key: string]: unknown;
}

/** Keys that tell of the clock, and so differ between two runs that are otherwise the same to the bit. */
export const CLOCK_KEYS: readonly string[] = ["seconds", "tokensPerSecond", "mfu"];

/** Something that happened: `event` is its kind (`start`, `resume`, `rollback`, …); `step` the step it happened at. */
export interface RunEvent {
  event: string;
  step: number;
  [key: string]: unknown;
}

export interface Sample {
  prompt: string;
  text: string;
}

export interface RunOptions extends CheckpointOptions {
  /** As resolved; kept in config.json. */
  config: object;
  /** Go on from the last checkpoint: `true` expects a run to be there, `"auto"` begins one where there is none. */
  resume?: boolean | "auto";
  /** Keys whose change on resume does no harm to the result (logging); with everything below them. */
  mayChange?: string[];
  /** Kept with the machine in the start event: versions, device, seed. */
  facts?: Record<string, unknown>;
  /** Milliseconds since 1970. */
  now?: () => number;
}

export class Run implements Disposable {
  readonly dir: string;
  readonly checkpoints: Checkpoints;
  /** The checkpoint to go on from; absent at the start. Rows after its step are already cut away. */
  readonly resumed: Checkpoint | undefined;
  readonly #now: () => number;
  readonly #metrics: StepLog;
  readonly #events: StepLog;
  readonly #tensorboard: TensorboardFile;
  readonly #lifetime: DisposableStack;

  constructor(dir: string, options: RunOptions, exists: boolean, lifetime: DisposableStack) {
    this.dir = dir;
    this.#now = options.now ?? Date.now;
    for (const folder of ["samples", "tensorboard"]) mkdirSync(join(dir, folder), { recursive: true });
    this.checkpoints = new Checkpoints(join(dir, "checkpoints"), options);
    this.checkpoints.tidy();
    this.resumed = this.checkpoints.latest();
    this.#metrics = lifetime.use(new StepLog(join(dir, "metrics.jsonl")));
    this.#events = lifetime.use(new StepLog(join(dir, "events.jsonl")));
    const file = join(dir, "tensorboard/events.out.tfevents.massif");
    this.#tensorboard = lifetime.use(new TensorboardFile(file, this.#now() / 1000));
    if (exists) {
      const step = this.resumed?.step ?? -1;
      this.#events.cut(step);
      this.rewind(step);
    }
    const kind = this.resumed ? "resume" : "start";
    this.event({ event: kind, step: this.step, machine: provenance(), ...options.facts });
    this.#lifetime = lifetime.move();
  }

  /** The step to go on from; 0 at the start. */
  get step(): number {
    return this.resumed?.step ?? 0;
  }

  /** One row a step, also to TensorBoard. The row of a step comes before its checkpoint, or a resumed run lacks it. */
  metrics(row: MetricsRow): void {
    this.#metrics.append(row);
    const scalars = Object.entries(row).flatMap(([key, value]) =>
      key !== "step" && typeof value === "number" ? [[tagOf(key), value] as const] : [],
    );
    this.#tensorboard.scalars(row.step, Object.fromEntries(scalars), this.#now() / 1000);
  }

  event(row: RunEvent): void {
    this.#events.append({ ...row, time: new Date(this.#now()).toISOString() });
  }

  /** Text written by the model at a step: `samples/step-N.json`. */
  samples(step: number, samples: Sample[]): void {
    writeWhole(join(this.dir, `samples/step-${step}.json`), `${JSON.stringify(samples, null, 1)}\n`);
  }

  /** Saves the checkpoint of `step` (see Checkpoints.save), with the rows up to it safely on disk before. */
  async checkpoint(step: number, write: (dir: string) => void | Promise<void>): Promise<Checkpoint> {
    this.#metrics.sync();
    this.#events.sync();
    return this.checkpoints.save(step, write);
  }

  /** Goes back to `step` (a roll-back): metrics, samples and checkpoints after it are dropped, events stay. */
  rewind(step: number): void {
    this.#metrics.cut(step);
    this.#tensorboard.cut(step);
    this.checkpoints.tidy(step);
    for (const name of readdirSync(join(this.dir, "samples"))) {
      if (Number(/^step-(\d+)\.json$/.exec(name)?.[1] ?? step) > step) rmSync(join(this.dir, "samples", name));
    }
  }

  [Symbol.dispose](): void {
    this.#lifetime.dispose();
  }
}

/**
 * Opens the folder of a run for its one writer; `using` closes it.
 * @throws MassifError `run.exists`, `run.missing`, `run.locked`, `run.config`, `run.config-changed`, `run.log`
 */
export function openRun(dir: string, options: RunOptions): Run {
  const configFile = join(dir, "config.json");
  const exists = ["config.json", "metrics.jsonl", "checkpoints"].some((name) => existsSync(join(dir, name)));
  if (exists && !options.resume) {
    throw new MassifError("run.exists", {
      found: `there is a run in ${dir}`,
      expected: "a folder without one",
      fix: `go on with it: --resume; choose another: --run DIR; or remove it: rm -r ${dir}`,
    });
  }
  if (!exists && options.resume === true) {
    throw new MassifError("run.missing", {
      found: `there is no run in ${dir}`,
      fix: "check --run, or leave out --resume",
    });
  }
  mkdirSync(dir, { recursive: true });
  using lifetime = new DisposableStack();
  lifetime.use(lock(join(dir, "lock")));
  const config: unknown = JSON.parse(JSON.stringify(options.config));
  if (exists) {
    const changed = configDifferences(readConfig(configFile), config).filter(
      (key) => !options.mayChange?.some((free) => key === free || key.startsWith(`${free}.`)),
    );
    if (changed.length) {
      throw new MassifError("run.config-changed", {
        found: `the config differs from the one of the run in ${dir}: ${changed.join(", ")}`,
        expected: "the same config, since a resumed run equals the uninterrupted one",
        fix: "set them back, or begin a new run with another --run",
      });
    }
  }
  writeWhole(configFile, `${JSON.stringify(config, null, 2)}\n`);
  return new Run(dir, options, exists, lifetime);
}

function readConfig(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new MassifError("run.config", {
      found: `${file} is not readable`,
      fix: "put it back, or begin a new run",
      cause,
    });
  }
}

/** TensorBoard groups tags by what stands before the slash. */
const tagOf = (key: string): string =>
  /^eval[A-Z]/.test(key) ? `eval/${key[4]!.toLowerCase()}${key.slice(5)}` : `train/${key}`;
