/**
 * Finds libtorch. Environment names and their order are those of tch-rs, so what people have set for it works here:
 * LIBTORCH_USE_PYTORCH, LIBTORCH (with LIBTORCH_INCLUDE, LIBTORCH_LIB), the system's, then the active Python's torch,
 * then that of the project's own `.venv`.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Env, workspace } from "./cache.ts";
import { TorchError } from "./error.ts";
import { activePython, askPython } from "./python.ts";

/** The torch that the binding is written for. The C++ interface has no promise beyond a minor version. */
export const SUPPORTED_TORCH = "2.13";

export type TorchSource = "LIBTORCH_USE_PYTORCH" | "LIBTORCH" | "system" | "VIRTUAL_ENV" | "python" | ".venv";

export interface TorchInstall {
  /** The folder that holds `include` and `lib`: an unpacked libtorch, or a Python's `site-packages/torch`. */
  root: string;
  includeDirs: string[];
  libDir: string;
  /** As torch says it: `2.13.0+cpu`. */
  version: string;
  cxx11Abi: boolean;
  /** Whether it was built with CUDA; not whether there is a device. */
  cuda: boolean;
  source: TorchSource;
}

export interface TorchSearch {
  install: TorchInstall | undefined;
  /** What was found and passed over, and why: one line each. */
  passedOver: string[];
}

/** Where to look beyond the environment; tests bring folders of their own. */
export interface TorchPlaces {
  /** Holds `.venv`. */
  project?: string;
  /** `lib/libtorch.so` below it is the system's. */
  system?: string;
}

/** The libtorch to use, or undefined. Throws `torch.version` or `torch.missing` where the environment names a wrong one. */
export function findTorch(env: Env = process.env, places: TorchPlaces = {}): TorchInstall | undefined {
  return searchTorch(env, places).install;
}

/** As `findTorch`, telling also what was passed over. */
export function searchTorch(env: Env = process.env, places: TorchPlaces = {}): TorchSearch {
  const { project = workspace ?? process.cwd(), system = "/usr" } = places;
  const passedOver: string[] = [];
  const install = named(env) ?? offered();
  return { install, passedOver };

  function offered(): TorchInstall | undefined {
    return (
      suits(existsSync(join(system, "lib", library("torch"))) ? inspect(system, "system", env) : undefined) ??
      suits(fromPython(env, env.VIRTUAL_ENV ? "VIRTUAL_ENV" : "python")) ??
      suits(fromVenv(join(project, ".venv"), ".venv", env))
    );
  }
  function suits(candidate: TorchInstall | undefined): TorchInstall | undefined {
    if (!candidate || isSupported(candidate, env)) return candidate;
    passedOver.push(`torch ${candidate.version} (${candidate.source}, ${candidate.root})`);
    return undefined;
  }
}

/** The error for a machine without a usable libtorch: what was passed over, and the ways out. */
export function torchMissing(passedOver: string[]): TorchError {
  return new TorchError("torch.missing", {
    found: passedOver.length ? `no usable libtorch, only ${passedOver.join(", ")}` : "no libtorch on this machine",
    expected: `torch ${SUPPORTED_TORCH}.x`,
    fix: WAYS_OUT,
  });
}

const WAYS_OUT = [
  "one of",
  "  npm run setup                                   (a .venv with torch, in the repository)",
  `  pip install torch==${SUPPORTED_TORCH}.0                       (into the active Python)`,
  "  LIBTORCH=/path/to/libtorch                      (an unpacked libtorch)",
  "  LIBTORCH_BYPASS_VERSION_CHECK=1                 (use another version; it may not compile)",
].join("\n  ");

/** What the environment names is used or is an error; it is never passed over. */
function named(env: Env): TorchInstall | undefined {
  let install: TorchInstall | undefined;
  if (env.LIBTORCH_USE_PYTORCH && env.LIBTORCH_USE_PYTORCH !== "0") {
    install = fromPython(env, "LIBTORCH_USE_PYTORCH");
    if (!install) {
      throw new TorchError("torch.missing", {
        found: `LIBTORCH_USE_PYTORCH is set, but the active Python (${activePython(env) ?? "none"}) has no torch`,
        fix: WAYS_OUT,
      });
    }
  } else if (env.LIBTORCH || env.LIBTORCH_INCLUDE || env.LIBTORCH_LIB) {
    install = inspect(resolve(env.LIBTORCH ?? env.LIBTORCH_LIB ?? env.LIBTORCH_INCLUDE ?? ""), "LIBTORCH", env);
    if (!install) {
      const set = (["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB"] as const).filter((name) => env[name]);
      throw new TorchError("torch.missing", {
        found: `${set.map((name) => `${name}=${env[name]}`).join(" ")} does not lead to a libtorch`,
        expected: `lib/${library("torch_cpu")} and include/ATen/ATen.h below it`,
        fix: WAYS_OUT,
      });
    }
  }
  if (install && !isSupported(install, env)) {
    throw new TorchError("torch.version", {
      found: `${install.source} leads to torch ${install.version} in ${install.root}`,
      expected: `torch ${SUPPORTED_TORCH}.x`,
      fix: WAYS_OUT,
    });
  }
  return install;
}

function isSupported({ version }: TorchInstall, env: Env): boolean {
  return version.startsWith(`${SUPPORTED_TORCH}.`) || Boolean(env.LIBTORCH_BYPASS_VERSION_CHECK);
}

function fromPython(env: Env, source: TorchSource): TorchInstall | undefined {
  const venv = env.VIRTUAL_ENV && fromVenv(env.VIRTUAL_ENV, source, env); // the common case, without a process
  if (venv) return venv;
  const command = activePython(env);
  const root = command && askPython(command, env)?.torch;
  return root ? inspect(root, source, env) : undefined;
}

function fromVenv(venv: string, source: TorchSource, env: Env): TorchInstall | undefined {
  const config = join(venv, "pyvenv.cfg");
  if (!existsSync(config)) return undefined;
  const version = /^version(?:_info)? *= *(\d+\.\d+)/m.exec(readFileSync(config, "utf8"))?.[1];
  return inspect(join(venv, `lib/python${version}/site-packages/torch`), source, env);
}

/** Reads an installation from its files; undefined where it is not one. */
function inspect(root: string, source: TorchSource, env: Env): TorchInstall | undefined {
  // LIBTORCH_INCLUDE and LIBTORCH_LIB hold `include` and `lib`, for distributions that keep them apart.
  const own = source === "LIBTORCH" ? env : {};
  const include = join(resolve(own.LIBTORCH_INCLUDE ?? root), "include");
  const libDir = join(resolve(own.LIBTORCH_LIB ?? root), "lib");
  const header = read(join(include, "torch/headeronly/version.h"));
  if (!existsSync(join(libDir, library("torch_cpu"))) || !existsSync(join(include, "ATen/ATen.h"))) return undefined;
  const version =
    /^__version__ = '(.+)'/m.exec(read(join(root, "version.py")))?.[1] ||
    read(join(root, "build-version")).trim() ||
    ["MAJOR", "MINOR", "PATCH"].map((part) => new RegExp(`VERSION_${part} (\\d+)`).exec(header)?.[1] ?? "?").join(".");
  return {
    root,
    includeDirs: [include, join(include, "torch/csrc/api/include")],
    libDir,
    version,
    cxx11Abi: (env.LIBTORCH_CXX11_ABI ?? "1") !== "0",
    cuda: existsSync(join(libDir, library("torch_cuda"))),
    source,
  };
}

function read(file: string): string {
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}

/** `torch_cpu` → `libtorch_cpu.so`. */
function library(name: string): string {
  return `lib${name}.${process.platform === "darwin" ? "dylib" : "so"}`;
}
