import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cacheFolder, type Env, onPath } from "./cache.ts";

/** What one Python interpreter says of itself. */
export interface Python {
  executable: string;
  /** `3.11`. */
  version: string;
  /** Its torch package's folder, if it has one. */
  torch: string | undefined;
}

// Looks torch up without importing it (0.05 s instead of 2). The current folder is left out: a folder that is called
// `torch`, such as ours, would answer as a namespace package.
const ASK = `
import importlib.util, json, sys
sys.path = [p for p in sys.path if p]
spec = importlib.util.find_spec("torch")
torch = spec.origin and spec.submodule_search_locations[0] if spec else None
print(json.dumps({"executable": sys.executable, "version": "%d.%d" % sys.version_info[:2], "torch": torch, "path": sys.path}))
`;

interface Memo {
  key: unknown[];
  /** Folders and files with the modification times they had; a `pip install` or `pyenv global` changes one of them. */
  watched: [path: string, mtime: number][];
  python: Python;
}

/** The active Python: that of VIRTUAL_ENV, else `python3`, else `python` on PATH. */
export function activePython(env: Env): string | undefined {
  if (env.VIRTUAL_ENV) return onPath([join(env.VIRTUAL_ENV, "bin/python")], env);
  return onPath(["python3", "python"], env);
}

/** Asks an interpreter; the answer is kept in the cache folder until something it depends on changes. */
export function askPython(command: string, env: Env): Python | undefined {
  const file = join(cacheFolder(env), "python.json");
  const key = [command, env.PYTHONPATH, env.PYTHONHOME, env.PYENV_VERSION, process.cwd()].map((part) => part ?? null);
  const known = readMemo(file);
  const same = known && JSON.stringify(known.key) === JSON.stringify(key);
  if (same && known.watched.every(([path, mtime]) => modified(path) === mtime)) return known.python;

  const child = spawnSync(command, ["-c", ASK], { env, encoding: "utf8", timeout: 20_000 });
  if (child.status !== 0) return undefined;
  const { path, ...said } = JSON.parse(child.stdout);
  const python: Python = { ...said, torch: said.torch ?? undefined };
  const pyenv = join(dirname(dirname(command)), "version"); // what a pyenv shim reads
  const watched = [command, pyenv, ...path].map((p: string): [string, number] => [p, modified(p)]);
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, JSON.stringify({ key, watched, python } satisfies Memo));
  } catch {
    // A cache that cannot be written only costs time.
  }
  return python;
}

function readMemo(file: string): Memo | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

function modified(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}
