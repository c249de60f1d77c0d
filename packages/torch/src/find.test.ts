import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Env } from "./cache.ts";
import { TorchError } from "./error.ts";
import { findTorch, searchTorch, torchMissing } from "./find.ts";

const so = process.platform === "darwin" ? "dylib" : "so";
let box: string;
beforeEach(() => {
  box = mkdtempSync(join(tmpdir(), "massif-find-"));
});
afterEach(() => rmSync(box, { recursive: true }));

function write(path: string, text = ""): void {
  mkdirSync(dirname(join(box, path)), { recursive: true });
  writeFileSync(join(box, path), text);
}

/** The files by which a libtorch is known. */
function libtorch(at: string, version: string, cuda = false): string {
  write(`${at}/lib/libtorch.${so}`);
  write(`${at}/lib/libtorch_cpu.${so}`);
  if (cuda) write(`${at}/lib/libtorch_cuda.${so}`);
  write(`${at}/include/ATen/ATen.h`);
  write(`${at}/build-version`, `${version}\n`);
  return join(box, at);
}

function venv(at: string, version: string, cuda = false): string {
  write(`${at}/pyvenv.cfg`, "home = /usr/bin\nversion = 3.11.7\n");
  const root = libtorch(`${at}/lib/python3.11/site-packages/torch`, "", cuda);
  writeFileSync(join(root, "version.py"), `__all__ = ['__version__']\n__version__ = '${version}'\ncuda = None\n`);
  return root;
}

/** A `python3` that answers as ours asks it to, and leaves a mark each time it is run. */
function python(torch: string | null): string {
  const said = { executable: "/opt/python3", version: "3.12", torch, path: [join(box, "site")] };
  mkdirSync(join(box, "site"), { recursive: true });
  write("bin/python3", `#!/bin/sh\necho ran >> '${box}/runs'\necho '${JSON.stringify(said)}'\n`);
  chmodSync(join(box, "bin/python3"), 0o755);
  return join(box, "bin");
}

/** Nothing of the real machine: no torch, no Python. */
const bare = (): Env => ({ PATH: join(box, "bin"), MASSIF_CACHE: join(box, "cache") });
const places = () => ({ project: join(box, "project"), system: join(box, "usr") });

describe("the order of tch-rs", () => {
  test("LIBTORCH_USE_PYTORCH, LIBTORCH, the system, the active venv, python3, .venv", () => {
    const own = venv("project/.venv", "2.13.0+cpu");
    const active = venv("active", "2.13.2");
    const system = libtorch("usr", "2.13.0");
    const named = libtorch("named", "2.13.1+cu128", true);
    const site = venv("site-venv", "2.13.0+cpu");
    python(site);

    const env: Env = { ...bare(), LIBTORCH_USE_PYTORCH: "1", LIBTORCH: named, VIRTUAL_ENV: join(box, "active") };
    const order: (string | undefined)[][] = [];
    const look = () => {
      const found = findTorch(env, places());
      order.push([found?.source, found?.root, found?.version]);
    };
    look();
    delete env.LIBTORCH_USE_PYTORCH;
    look();
    delete env.LIBTORCH;
    look();
    rmSync(system, { recursive: true });
    look();
    delete env.VIRTUAL_ENV;
    look();
    rmSync(join(box, "bin"), { recursive: true });
    look();
    rmSync(own, { recursive: true });
    look();
    expect(order).toEqual([
      ["LIBTORCH_USE_PYTORCH", active, "2.13.2"],
      ["LIBTORCH", named, "2.13.1+cu128"],
      ["system", system, "2.13.0"],
      ["VIRTUAL_ENV", active, "2.13.2"],
      ["python", site, "2.13.0+cpu"],
      [".venv", own, "2.13.0+cpu"],
      [undefined, undefined, undefined],
    ]);
  });

  test("what is found is described from its files", () => {
    const root = libtorch("named", "2.13.1+cu128", true);
    expect(findTorch({ ...bare(), LIBTORCH: root }, places())).toEqual({
      root,
      includeDirs: [join(root, "include"), join(root, "include/torch/csrc/api/include")],
      libDir: join(root, "lib"),
      version: "2.13.1+cu128",
      cxx11Abi: true,
      cuda: true,
      source: "LIBTORCH",
    });
  });

  test("LIBTORCH_INCLUDE and LIBTORCH_LIB move the two halves; the version then comes from the header", () => {
    write("headers/include/ATen/ATen.h");
    write(
      "headers/include/torch/headeronly/version.h",
      "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n#define TORCH_VERSION_PATCH 4\n",
    );
    write(`libraries/lib/libtorch_cpu.${so}`);
    const env = { ...bare(), LIBTORCH_INCLUDE: join(box, "headers"), LIBTORCH_LIB: join(box, "libraries") };
    expect(findTorch(env, places())).toMatchObject({
      includeDirs: [join(box, "headers/include"), join(box, "headers/include/torch/csrc/api/include")],
      libDir: join(box, "libraries/lib"),
      version: "2.13.4",
    });
  });
});

describe("another version", () => {
  test("of the active Python is passed over, and said", () => {
    const old = venv("active", "2.12.1+cpu");
    const own = venv("project/.venv", "2.13.0+cpu");
    const search = searchTorch({ ...bare(), VIRTUAL_ENV: join(box, "active") }, places());
    expect(search.install?.root).toBe(own);
    expect(search.passedOver).toEqual([`torch 2.12.1+cpu (VIRTUAL_ENV, ${old})`]);
  });

  test("named by LIBTORCH is an error; LIBTORCH_BYPASS_VERSION_CHECK takes it", () => {
    const root = libtorch("named", "2.12.0");
    const env: Env = { ...bare(), LIBTORCH: root };
    const error = thrown(() => findTorch(env, places()));
    expect(error.code).toBe("torch.version");
    expect(error.trouble.found).toBe(`LIBTORCH leads to torch 2.12.0 in ${root}`);
    expect(error.trouble.expected).toBe("torch 2.13.x");
    env.LIBTORCH_BYPASS_VERSION_CHECK = "1";
    expect(findTorch(env, places())?.version).toBe("2.12.0");
  });

  test("2.130 is not 2.13", () => {
    libtorch("usr", "2.130.0");
    expect(findTorch(bare(), places())).toBeUndefined();
  });
});

describe("errors name the ways out", () => {
  test("nothing anywhere", () => {
    const error = torchMissing(searchTorch(bare(), places()).passedOver);
    expect(error.message.split("\n").map((line) => line.trim().split("  ")[0])).toEqual([
      "no libtorch on this machine",
      "expected: torch 2.13.x",
      "to fix: one of",
      "npm run setup",
      "pip install torch==2.13.0",
      "LIBTORCH=/path/to/libtorch",
      "LIBTORCH_BYPASS_VERSION_CHECK=1",
    ]);
  });

  test("LIBTORCH that leads nowhere is not passed over", () => {
    venv("project/.venv", "2.13.0");
    const error = thrown(() => findTorch({ ...bare(), LIBTORCH: "/nowhere" }, places()));
    expect([error.code, error.trouble.found]).toEqual([
      "torch.missing",
      "LIBTORCH=/nowhere does not lead to a libtorch",
    ]);
  });

  test("LIBTORCH_USE_PYTORCH with a Python without torch", () => {
    const bin = python(null);
    const error = thrown(() => findTorch({ ...bare(), LIBTORCH_USE_PYTORCH: "1" }, places()));
    expect(error.trouble.found).toBe(
      `LIBTORCH_USE_PYTORCH is set, but the active Python (${bin}/python3) has no torch`,
    );
  });
});

test("Python is asked once, and again when its packages change", async () => {
  const { readFileSync, utimesSync } = await import("node:fs");
  const runs = () => readFileSync(join(box, "runs"), "utf8").split("\n").length - 1;
  python(venv("elsewhere", "2.13.0"));
  for (let i = 0; i < 3; i++) expect(findTorch(bare(), places())?.source).toBe("python");
  expect(runs()).toBe(1);
  utimesSync(join(box, "site"), new Date(1e12), new Date(1e12)); // as `pip install` does
  findTorch(bare(), places());
  expect(runs()).toBe(2);
});

function thrown(work: () => unknown): TorchError {
  try {
    work();
  } catch (error) {
    if (error instanceof TorchError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}
