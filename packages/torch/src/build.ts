/**
 * Builds the native add-on on first use, with plain cmake, into a cache folder:
 *   addon/KEY/massif_torch.node   what is loaded; KEY covers the torch, the sources, the CPU's features, the compiler
 *   addon/objects-KEY/            cmake's folder; KEY leaves the sources out, so an edit compiles one file again
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { arch, availableParallelism, cpus, platform } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { cacheFolder, type Env, onPath } from "./cache.ts";
import { TorchError } from "./error.ts";
import type { TorchInstall } from "./find.ts";
import { withLock } from "./lock.ts";

/** What a build depends on. Tests bring a small project of their own as `native`. */
export interface BuildPlan {
  torch: TorchInstall;
  /** The folder with CMakeLists.txt and the sources. */
  native: string;
  env: Env;
  /** Where entries are kept. */
  folder: string;
  /** The C++ compiler and cmake, as absolute paths; undefined where PATH has none. */
  compiler: string | undefined;
  cmake: string | undefined;
}

const ADDON = "massif_torch.node";
const KEPT = 3;

export function planBuild(torch: TorchInstall, env: Env = process.env, native = NATIVE): BuildPlan {
  return { torch, native, env, folder: join(cacheFolder(env), "addon"), ...buildTools(env) };
}

/** The C++ compiler (CXX, else the usual names) and cmake on PATH. */
export function buildTools(env: Env): { compiler: string | undefined; cmake: string | undefined } {
  const compiler = onPath(env.CXX ? [env.CXX.split(" ")[0] ?? ""] : ["c++", "g++", "clang++"], env);
  return { compiler, cmake: onPath(["cmake"], env) };
}

const NATIVE = resolve(import.meta.dirname, "../native");

/** The built add-on for these sources, or undefined if there is none yet. Takes about two milliseconds. */
export function builtAddon(plan: BuildPlan): string | undefined {
  let entry = entryName(plan);
  if (!plan.compiler) {
    // A machine that only runs: any compiler's add-on will do.
    const [rest] = entry.split("-");
    entry = readdirIfThere(plan.folder).find((name) => name.startsWith(`${rest}-`)) ?? entry;
  }
  const file = join(plan.folder, entry, ADDON);
  return existsSync(file) ? file : undefined;
}

export interface BuildOptions {
  /** Called with a line at the beginning and the end of a build; make's own lines go to standard error meanwhile. */
  onProgress?: (line: string) => void;
}

/**
 * The add-on's path; builds it if these sources have not been built yet. Only one process builds at a time, the others
 * wait. Throws `torch.build` where a tool is missing or the compiler refuses, with its last lines.
 */
export function ensureAddon(plan: BuildPlan, { onProgress }: BuildOptions = {}): string {
  const built = builtAddon(plan);
  if (built) return built;
  const { cmake, compiler } = requireTools(plan);
  mkdirSync(plan.folder, { recursive: true });
  return withLock(
    join(plan.folder, "lock"),
    () => onProgress?.("waiting for another process that builds the add-on"),
    () => {
      for (;;) {
        const before = builtAddon(plan);
        if (before) return before;
        const entry = entryName(plan);
        const file = compile(plan, cmake, compiler, onProgress);
        // A source that was edited meanwhile makes the result nobody's: what was compiled is known only if nothing moved.
        if (entry === entryName(plan)) return publish(plan, entry, file);
      }
    },
  );
}

/** The tools that a build needs; throws `torch.build` naming those that are missing. */
export function requireTools({ cmake, compiler, torch, env }: BuildPlan): { cmake: string; compiler: string } {
  if (cmake && compiler) return { cmake, compiler };
  const missing = [cmake ? "" : "cmake", compiler ? "" : env.CXX ? `CXX=${env.CXX}` : "a C++ compiler"].filter(Boolean);
  throw new TorchError("torch.build", {
    found: `the native add-on for torch ${torch.version} is not built yet, and ${missing.join(" and ")} cannot be found on PATH`,
    expected: "cmake 3.18 or newer and a C++20 compiler",
    fix:
      platform() === "darwin"
        ? "xcode-select --install; brew install cmake"
        : "apt-get install cmake g++   (or: pip install cmake, and your system's compiler)",
  });
}

function compile(plan: BuildPlan, cmake: string, compiler: string, onProgress: BuildOptions["onProgress"]): string {
  const { torch, native, env } = plan;
  const objects = join(plan.folder, `objects-${digest(configuration(plan), compiler, native)}`);
  const log = join(plan.folder, "build.log");
  const unfinished = join(objects, "unfinished");
  if (existsSync(unfinished)) rmSync(objects, { recursive: true }); // killed half-way: an object may be cut off
  mkdirSync(objects, { recursive: true });
  writeFileSync(unfinished, "");
  const began = performance.now();
  onProgress?.(`building the native add-on for torch ${torch.version} (once; about a minute on two cores)`);
  const output = openSync(log, "w");
  const run = (args: string[], stdout: number) => spawnSync(cmake, args, { env, stdio: ["ignore", stdout, output] });
  const settings = {
    CMAKE_BUILD_TYPE: "Release",
    ...(env.CXX ? {} : { CMAKE_CXX_COMPILER: compiler }), // cmake reads CXX by itself, with its arguments
    NODE_API_INCLUDE: nodeApiInclude(),
    TORCH_INCLUDE: torch.includeDirs.join(";"),
    TORCH_LIB: torch.libDir,
    TORCH_CXX11_ABI: torch.cxx11Abi ? "1" : "0",
    OPS_FLAGS: opsFlags(env).join(" "),
  };
  const defines = Object.entries(settings).map(([name, value]) => `-D${name}=${value}`);
  let result = run(["-S", native, "-B", objects, ...defines], output);
  const configured = result.status === 0;
  if (configured) {
    // make says what it compiles and how far it is: shown as it comes. What the compiler has to say is kept for the log.
    result = run(["--build", objects, "--parallel", String(availableParallelism())], onProgress ? 2 : output);
  }
  closeSync(output);
  if (result.status === null) throw result.error ?? new Error(`cmake was ended by ${result.signal}`);
  rmSync(configured ? unfinished : objects, { recursive: true });
  const file = join(objects, ADDON);
  if (result.status !== 0 || !existsSync(file)) {
    throw new TorchError("torch.build", {
      found: `the native add-on does not build (whole log: ${log})\n${tellingLines(readFileSync(log, "utf8"))}`,
      expected: "cmake 3.18 or newer and a C++20 compiler (g++ 11, clang 14)",
      fix: "massif doctor shows the compiler and the torch that were used; CXX names another compiler",
    });
  }
  onProgress?.(`built the native add-on in ${((performance.now() - began) / 1000).toFixed(0)} s`);
  return file;
}

/** The compiler's errors with what follows them, or the log's last lines where it has none. */
function tellingLines(log: string): string {
  const lines = log.trimEnd().split("\n");
  const first = lines.findIndex((line) => /\berror\b|CMake Error|undefined reference/i.test(line));
  return (first < 0 ? lines.slice(-20) : lines.slice(first, first + 20)).join("\n");
}

/** Makes a built file an entry, in one step: a reader sees the whole of it or nothing. Old entries go. */
function publish({ folder }: BuildPlan, entry: string, file: string): string {
  const fresh = join(folder, `new-${process.pid}`);
  mkdirSync(fresh, { recursive: true });
  cpSync(file, join(fresh, ADDON));
  rmSync(join(folder, entry), { recursive: true, force: true });
  renameSync(fresh, join(folder, entry));
  prune(folder, /^[0-9a-f]{16}-[0-9a-f]{16}$/);
  prune(folder, /^objects-/);
  return join(folder, entry, ADDON);
}

function prune(folder: string, kind: RegExp): void {
  const age = (name: string) => statSync(join(folder, name)).mtimeMs;
  const entries = readdirSync(folder).filter((name) => kind.test(name));
  for (const old of entries.sort((a, b) => age(b) - age(a)).slice(KEPT)) rmSync(join(folder, old), { recursive: true });
}

/** Marks an entry as used now, so that it outlives those that nobody uses. */
export function touchAddon(file: string): void {
  const now = new Date();
  try {
    utimesSync(dirname(file), now, now);
  } catch {
    // A cache on a read-only disk.
  }
}

/** `16 hex digits of all but the compiler` - `16 of the compiler`. */
function entryName(plan: BuildPlan): string {
  const { compiler, native } = plan;
  const files = readdirSync(native, { recursive: true, encoding: "utf8" });
  const sources = files.filter((name) => /\.(cc|h)$|^CMakeLists\.txt$/.test(name)).sort();
  const contents = sources.map((name) => [name, readFileSync(join(native, name), "base64")]);
  return `${digest(configuration(plan), contents)}-${digest(compiler ? compilerStamp(compiler) : "")}`;
}

function configuration({ torch, env }: BuildPlan): unknown {
  const { root, libDir, includeDirs, version, cxx11Abi } = torch;
  return [root, libDir, includeDirs, version, cxx11Abi, opsFlags(env), cpuFeatures(), platform(), arch()];
}

/** An upgraded compiler is another file: asking it for its version would take a process. */
function compilerStamp(compiler: string): unknown {
  const file = realpathSync(compiler);
  const { size, mtimeMs } = statSync(file);
  return [basename(compiler), file, size, mtimeMs];
}

/** Our operators are made for the CPU they run on; MASSIF_MARCH names another (`x86-64-v3`). */
export function opsFlags(env: Env): string[] {
  // -fno-math-errno and not -ffast-math: linked in, that one sets flush-to-zero for the thread that loads it.
  const native = arch() === "arm64" ? "-mcpu=native" : "-march=native";
  return ["-O3", env.MASSIF_MARCH ? `-march=${env.MASSIF_MARCH}` : native, "-fno-math-errno"];
}

/** The first CPU's model and features, from which `-march=native` chooses. */
export function cpuFeatures(): { model: string; features: string[] } {
  if (platform() !== "linux") return { model: cpus()[0]?.model ?? "unknown", features: [] };
  // The first page is the first CPU; the kernel makes the rest, slow with many, only when it is read.
  const page = Buffer.alloc(8192);
  const file = openSync("/proc/cpuinfo", "r");
  const text = page.toString("latin1", 0, readSync(file, page));
  closeSync(file);
  const field = (name: RegExp) => name.exec(text)?.[1]?.trim();
  const model = field(/^model name\s*:(.*)$/m) ?? field(/^CPU part\s*:(.*)$/m) ?? cpus()[0]?.model ?? "unknown";
  return { model, features: (field(/^(?:flags|Features)\s*:(.*)$/m) ?? "").split(" ") };
}

function nodeApiInclude(): string {
  return join(dirname(createRequire(import.meta.url).resolve("node-api-headers/package.json")), "include");
}

function digest(...parts: unknown[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 16);
}

function readdirIfThere(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
