/**
 * Two sides in turn, round by round, on a machine that may be shared: which of two programs is faster, and by how much.
 *
 * Two threads on two cores suffer badly from any third busy process (a step takes up to seven times as long), so a figure
 * means something only beside its peer's of the same seconds. The sides alternate, the one that begins changes every
 * round, and only quiet rounds count: those in which other processes used less than 0.15 cores, by /proc/stat (Linux).
 * The peer is a Python process that stays alive; it gets our environment (threads, allocator) or, with
 * `--peer-env default`, the one that the user has.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { parseArgs } from "node:util";
import { torch } from "../packages/torch/src/index.ts";

/** Cores that others may use in a quiet round. */
const QUIET = 0.15;

const launcher = await import(new URL("../packages/massif/bin/launch.mjs", import.meta.url).href);

/** Options that every bench has. */
const common = {
  rounds: { type: "string", default: "9" },
  threads: { type: "string", default: String(availableParallelism()) },
  python: {
    type: "string",
    default: join(process.env.VIRTUAL_ENV ?? resolve(import.meta.dirname, "../.venv"), "bin/python"),
  },
  "peer-env": { type: "string", default: "same" },
  json: { type: "string" },
} as const;

type Own = Record<string, { type: "string"; default: string } | { type: "boolean" }>;

export interface Settings {
  rounds: number;
  threads: number;
  python: string;
  peerEnv: "same" | "default";
  /** A file that gets one JSON line a comparison. */
  json: string | undefined;
}

/**
 * The command line of a bench, in the environment that `massif` gives its own process: where that is not set yet, the
 * program starts again with it, and this call does not return.
 */
export async function begin<O extends Own>(own: O): Promise<Settings & { own: Record<keyof O, string> }> {
  const [, script, ...args] = process.argv as [string, string, ...string[]];
  if (!launcher.isReady(process.env)) {
    // What the user has is what `--peer-env default` gives back.
    const env = { ...launcher.environment(process.env), BENCH_USER_ENV: JSON.stringify(process.env) };
    process.exit(await launcher.handOver(process.execPath, [script, ...args], env));
  }
  const { values } = parseArgs({ args, options: { ...common, ...own } }) as { values: Record<string, string> };
  const threads = Number(values.threads);
  torch.setNumThreads(threads);
  return {
    rounds: Number(values.rounds),
    threads,
    python: values.python!,
    peerEnv: values["peer-env"] === "default" ? "default" : "same",
    json: values.json,
    own: values as Record<keyof O, string>,
  };
}

/** A Python peer: a JSON object a line in, one a line out. */
export class Peer implements Disposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #replies: AsyncIterator<string>;

  /** `script` lies in bench/peers. */
  constructor(script: string, { python, peerEnv }: Pick<Settings, "python" | "peerEnv">, ...args: string[]) {
    const user = process.env.BENCH_USER_ENV;
    const env = peerEnv === "default" && user ? (JSON.parse(user) as NodeJS.ProcessEnv) : process.env;
    this.#child = spawn(python, [join(import.meta.dirname, "peers", script), ...args], {
      stdio: ["pipe", "pipe", "inherit"],
      env,
    });
    this.#replies = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async ask<T>(job: object): Promise<T> {
    this.#child.stdin.write(`${JSON.stringify(job)}\n`);
    const { value, done } = await this.#replies.next();
    if (done) throw new Error("the Python peer has ended; what it said is above");
    return JSON.parse(value) as T;
  }

  [Symbol.dispose](): void {
    this.#child.stdin.end();
  }
}

/** Seconds since some start of CPU time: of one process, and of all. Clock ticks of 10 ms. */
function cpuSeconds(pid: number): number {
  const [user, system] = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .split(" ")
    .slice(11, 13);
  return (Number(user) + Number(system)) / 100;
}
function busySeconds(): number {
  const [user, nice, system, , , irq, softirq, steal] = readFileSync("/proc/stat", "utf8")
    .split("\n")[0]!
    .split(/\s+/)
    .slice(1)
    .map(Number);
  return (user! + nice! + system! + irq! + softirq! + steal!) / 100;
}

/** Starts to watch; the result tells how many cores were busy since with anything but the given processes. */
function watchOthers(pids: readonly number[]): () => number {
  const state = () => busySeconds() - pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0);
  const [busy, began] = [state(), performance.now()];
  return () => Math.max(0, (state() - busy) / ((performance.now() - began) / 1e3));
}

/** The kernel's high-water mark of a process's resident memory, in MiB; `forgetPeak` lowers it to what is in use now. */
const peakMiB = (pid: number) =>
  Math.round(Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024);
const forgetPeak = (pid: number) => writeFileSync(`/proc/${pid}/clear_refs`, "5");

/** Does some repetitions of the work and returns the seconds that each took. */
export type Side = () => number[] | Promise<number[]>;

export interface Comparison {
  name: string;
  ours: Side;
  theirs: Side;
  /** The other process at work. */
  peer: { readonly pid: number };
  /** And more of them. */
  pids?: readonly number[];
  /** What one repetition gets done, e.g. 2,048 tokens. */
  amount: number;
  unit: string;
  /** More figures for the JSON line, asked for at the end. */
  more?: () => Record<string, unknown>;
}

/** A quartile of numbers, between neighbours where it falls there. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)]!;
  return low + (sorted[Math.ceil(at)]! - low) * (at % 1);
}
export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** Those with few others about; at least the quietest quarter. */
function quietest<T extends { others: number }>(rounds: readonly T[]): T[] {
  const sorted = rounds.toSorted((a, b) => a.others - b.others);
  const quiet = sorted.filter(({ others }) => others < QUIET).length;
  return sorted.slice(0, Math.max(quiet, Math.ceil(rounds.length / 4)));
}

export const TABLE = [
  "| work | ours | peer | ratio (quartiles) | peak MiB, ours / peer | quiet rounds |",
  "| --- | --- | --- | --- | --- | --- |",
].join("\n");

/** Compares two sides, prints a row of `TABLE`, and appends a JSON line where one is wanted. The first round warms up. */
export async function alternate(
  settings: Settings,
  { name, ours, theirs, peer, pids: others = [], amount, unit, more }: Comparison,
) {
  const pids = [...new Set([process.pid, peer.pid, ...others])];
  await ours();
  await theirs();
  for (const pid of pids) forgetPeak(pid);
  const rounds: { ours: number; theirs: number; others: number }[] = [];
  for (let i = 0; i < settings.rounds; i++) {
    const others = watchOthers(pids);
    let [mine, other]: [number[], number[]] = [[], []];
    if (i % 2) other = await theirs();
    mine = await ours();
    if (i % 2 === 0) other = await theirs();
    rounds.push({ ours: median(mine), theirs: median(other), others: others() });
  }
  const kept = quietest(rounds);
  const quiet = rounds.filter(({ others }) => others < QUIET).length;
  const [mine, other] = [median(kept.map((r) => r.ours)), median(kept.map((r) => r.theirs))];
  const ratios = kept.map((r) => r.theirs / r.ours);
  const [low, ratio, high] = [0.25, 0.5, 0.75].map((q) => quantile(ratios, q).toFixed(2));
  const [ourPeak, theirPeak] = [process.pid, peer.pid].map(peakMiB);
  const rate = (seconds: number) => Math.round(amount / seconds).toLocaleString("en");
  const of = quiet ? `${quiet} of ${rounds.length}` : `none of ${rounds.length}: the ${kept.length} quietest`;
  console.log(
    `| ${name} | ${rate(mine)} ${unit} | ${rate(other)} | **${ratio}** (${low}–${high}) | ${ourPeak} / ${theirPeak} | ${of} |`,
  );
  if (!settings.json) return;
  const result = {
    name,
    unit,
    ours: amount / mine,
    peer: amount / other,
    ratio: median(ratios),
    quartiles: [quantile(ratios, 0.25), quantile(ratios, 0.75)],
    peakMiB: { ours: ourPeak, peer: theirPeak },
    quietRounds: quiet,
    ...machine(settings),
    ...more?.(),
    rounds,
  };
  appendFileSync(settings.json, `${JSON.stringify(result)}\n`);
}

/** What a figure depends on. */
export function machine({ threads, peerEnv }: Settings) {
  const allocator = process.env.LD_PRELOAD ?? (process.env.GLIBC_TUNABLES ? "glibc, launcher's tunables" : "glibc");
  return {
    date: new Date().toISOString(),
    cpu: cpus()[0]!.model,
    capability: torch.info().cpu,
    threads,
    torch: torch.info().torch,
    node: process.versions.node,
    allocator,
    peerEnv: peerEnv === "same" ? "the same environment" : "the user's environment",
    load: loadavg()[0]!,
  };
}

/** What a figure depends on, in a line above the table. */
export function introduce(settings: Settings): void {
  const { date, cpu, capability, threads, torch, node, allocator, peerEnv } = machine(settings);
  console.log(
    `${date.slice(0, 16)}, ${cpu} (${capability}), ${threads} threads, torch ${torch}, Node ${node}; ${allocator}; peer: ${peerEnv}\n\n${TABLE}`,
  );
}
