import { spawn } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type BuildPlan, builtAddon, ensureAddon, opsFlags, planBuild } from "./build.ts";
import { type Env, workspace } from "./cache.ts";
import { TorchError } from "./error.ts";
import type { TorchInstall } from "./find.ts";

// A small project in the place of ours: it links no torch, and leaves a mark each time that it is configured.
const CMAKE = `
cmake_minimum_required(VERSION 3.18)
project(small CXX)
file(APPEND "$ENV{MARKS}" "configured\\n")
add_library(massif_torch MODULE small.cc)
set_target_properties(massif_torch PROPERTIES PREFIX "" SUFFIX ".node")
`;

let box: string;
let env: Env;
beforeEach(() => {
  box = mkdtempSync(join(tmpdir(), "massif-build-"));
  mkdirSync(join(box, "native"));
  writeFileSync(join(box, "native/CMakeLists.txt"), CMAKE);
  source("int answer() { return 1; }\n");
  env = { PATH: process.env.PATH, MASSIF_CACHE: join(box, "cache"), MARKS: join(box, "marks") };
});
afterEach(() => rmSync(box, { recursive: true }));

const torch: TorchInstall = {
  root: "/opt/torch",
  includeDirs: ["/opt/torch/include"],
  libDir: "/opt/torch/lib",
  version: "2.13.0",
  cxx11Abi: true,
  cuda: false,
  source: "LIBTORCH",
};
const source = (text: string) => writeFileSync(join(box, "native/small.cc"), text);
const plan = (more: Partial<TorchInstall> = {}): BuildPlan =>
  planBuild({ ...torch, ...more }, env, join(box, "native"));
const marks = () => readFileSync(join(box, "marks"), "utf8").split("\n").length - 1;
const entries = () => readdirSync(join(box, "cache/addon")).filter((name) => /^[0-9a-f]{16}-/.test(name));

describe("the cache", () => {
  test("builds once; another source, torch or CPU is another entry; the last three stay", () => {
    expect(builtAddon(plan())).toBeUndefined();
    const first = ensureAddon(plan());
    expect(existsSync(first)).toBe(true);
    expect(ensureAddon(plan())).toBe(first);
    expect(builtAddon(plan())).toBe(first);
    expect(marks()).toBe(1);

    expect(builtAddon(plan({ version: "2.13.1" }))).toBeUndefined();
    expect(builtAddon(plan({ root: "/elsewhere" }))).toBeUndefined();
    env.MASSIF_MARCH = "x86-64-v3";
    expect(builtAddon(plan())).toBeUndefined();
    delete env.MASSIF_MARCH;

    const files = [first];
    for (const n of [2, 3, 4]) {
      source(`int answer() { return ${n}; }\n`);
      expect(builtAddon(plan())).toBeUndefined();
      files.push(ensureAddon(plan()));
    }
    expect(new Set(files).size).toBe(4);
    expect(files.map((file) => existsSync(file))).toEqual([false, true, true, true]);

    source("int answer() { return 2; }\n"); // back again: what was built then still serves
    expect(ensureAddon(plan())).toBe(files[1]);
  });

  test("a header counts, a stray file does not", () => {
    const first = ensureAddon(plan());
    writeFileSync(join(box, "native/notes.txt"), "x");
    expect(builtAddon(plan())).toBe(first);
    writeFileSync(join(box, "native/small.h"), "#define X\n");
    expect(builtAddon(plan())).toBeUndefined();
  });

  test("a machine without a compiler runs what was built with one", () => {
    const built = ensureAddon(plan());
    env.PATH = "";
    expect(builtAddon(plan())).toBe(built);
  });

  test("a build that was killed half-way starts afresh", () => {
    ensureAddon(plan());
    const [objects] = readdirSync(join(box, "cache/addon")).filter((name) => name.startsWith("objects-"));
    appendFileSync(join(box, "cache/addon", objects!, "unfinished"), "");
    appendFileSync(join(box, "cache/addon", objects!, "CMakeCache.txt"), "\0 cut off");
    source("int answer() { return 5; }\n");
    expect(existsSync(ensureAddon(plan()))).toBe(true);
  });
});

describe("errors", () => {
  test("a missing cmake and compiler are named", () => {
    env.PATH = "";
    const error = failure(() => ensureAddon(plan()));
    expect(error.code).toBe("torch.build");
    expect(error.trouble.found).toBe(
      "the native add-on for torch 2.13.0 is not built yet, and cmake and a C++ compiler cannot be found on PATH",
    );
    expect(error.trouble.expected).toBe("cmake 3.18 or newer and a C++20 compiler");
    expect(error.trouble.fix).toMatch(
      process.platform === "darwin" ? /brew install cmake/ : /apt-get install cmake g\+\+/,
    );
  });

  test("a CXX that is not there is not replaced by another", () => {
    env.CXX = "no-such-compiler";
    expect(failure(() => ensureAddon(plan())).message).toContain("CXX=no-such-compiler cannot be found");
  });

  test("the compiler's own words are in the message; nothing is left in the cache; mended, it builds", () => {
    source("int answer() { return missing_name; }\n");
    const error = failure(() => ensureAddon(plan()));
    expect(error.code).toBe("torch.build");
    expect(error.message).toMatch(/small\.cc:1:\d+: error: .*missing_name/);
    expect(entries()).toEqual([]);
    source("int answer() { return 1; }\n");
    expect(existsSync(ensureAddon(plan()))).toBe(true);
  });
});

test("three processes at once: one builds, the others wait for it", async () => {
  const script = join(box, "ensure.ts");
  const module = join(import.meta.dirname, "build.ts");
  writeFileSync(
    script,
    `import { ensureAddon, planBuild } from ${JSON.stringify(module)};
     console.log(ensureAddon(planBuild(${JSON.stringify(torch)}, process.env, ${JSON.stringify(join(box, "native"))})));`,
  );
  const paths = await Promise.all([1, 2, 3].map(() => output(join(workspace!, "node_modules/.bin/node"), [script])));
  expect(new Set(paths).size).toBe(1);
  expect(existsSync(paths[0]!.trim())).toBe(true);
  expect(marks()).toBe(1);
  expect(entries()).toHaveLength(1);
});

test("own operators are compiled for this CPU, or for the one that MASSIF_MARCH names", () => {
  expect(opsFlags({})[1]).toBe(process.arch === "arm64" ? "-mcpu=native" : "-march=native");
  expect(opsFlags({ MASSIF_MARCH: "x86-64-v3" })).toEqual(["-O3", "-march=x86-64-v3", "-fno-math-errno"]);
});

function output(command: string, args: string[]): Promise<string> {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    child.stdout.on("data", (chunk) => {
      text += chunk;
    });
    child.on("error", fail);
    child.on("close", (code) => (code === 0 ? done(text) : fail(new Error(`exit code ${code}`))));
  });
}

function failure(work: () => unknown): TorchError {
  try {
    work();
  } catch (error) {
    if (error instanceof TorchError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}
