import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { examine, page } from "./doctor.ts";

let box: string;
beforeEach(() => {
  box = mkdtempSync(join(tmpdir(), "massif-doctor-"));
});
afterEach(() => rmSync(box, { recursive: true }));

/** A machine where LIBTORCH leads nowhere and PATH is empty, whatever else this one has. */
const poor = () => ({ PATH: "", LIBTORCH: "/nowhere", MASSIF_CACHE: box, OMP_WAIT_POLICY: "passive" });

test("the JSON report: every key, also where nothing was found", () => {
  const report = JSON.parse(JSON.stringify(examine(poor())));
  expect(report).toMatchObject({
    ok: false,
    torch: null,
    passedOver: [],
    addon: { file: null, loaded: false, compiler: null, cmake: null },
    runtime: null,
    python: null,
    node: { running: process.versions.node, pinned: "26.10.0", executable: process.execPath },
    environment: { LIBTORCH: "/nowhere", VIRTUAL_ENV: null, OMP_WAIT_POLICY: "passive" },
  });
  expect(Object.keys(report.cpu)).toEqual(["model", "cores", "available", "features"]);
  expect(Object.keys(report.cpu.features)).toContain(process.arch === "arm64" ? "bf16" : "amx_bf16");
  expect(report.problems.map(({ code, found }: { code: string; found: string }) => [code, found])).toEqual([
    ["torch.missing", "LIBTORCH=/nowhere does not lead to a libtorch"],
  ]);
});

test("the page says what is missing and what to do", () => {
  const text = page(examine(poor()));
  expect(text).toContain("torch     not found\n");
  expect(text).toContain("compiler none, cmake none");
  expect(text).toContain(
    "missing: LIBTORCH=/nowhere does not lead to a libtorch\n  to fix: one of\n    npm run setup ",
  );
});

test("the page of a machine that has everything", () => {
  const report = examine(poor());
  const text = page({
    ...report,
    ok: true,
    problems: [],
    torch: {
      root: "/opt/torch",
      includeDirs: ["/opt/torch/include"],
      libDir: "/opt/torch/lib",
      version: "2.13.0+cu128",
      cxx11Abi: true,
      cuda: true,
      source: "python",
    },
    addon: { file: "/c/massif_torch.node", loaded: true, compiler: "/c++", cmake: "/cmake", opsFlags: ["-O3"] },
    operators: "our own: AVX2; bfloat16 widened to float32 as it is read",
    cpu: { model: "Xeon", cores: 16, available: 8, features: { avx2: true, amx_bf16: false } },
    runtime: {
      torch: "2.13.0",
      cpu: "AVX512",
      parallel: "",
      cuda: true,
      mps: false,
      accelerator: "cuda",
      devices: 1,
      threads: 8,
    },
    node: { running: "26.10.0", pinned: "26.10.0", executable: "/node" },
    environment: { OMP_NUM_THREADS: "8", OMP_WAIT_POLICY: "passive", LD_PRELOAD: "libtcmalloc.so", CXX: null },
  });
  expect(text.split("\n")).toEqual([
    "torch     2.13.0+cu128, from python: /opt/torch",
    "add-on    loads: /c/massif_torch.node",
    "          compiler /c++, cmake /cmake, operators with -O3",
    "CPU       Xeon, 16 cores (8 for us)",
    "          avx2   (without amx_bf16)",
    "operators our own: AVX2; bfloat16 widened to float32 as it is read",
    "threads   8 for an operator, which sleep while they wait (OMP_WAIT_POLICY=passive, set by the launcher)",
    "memory    allocated by libtcmalloc.so",
    "ATen      kernels for AVX512",
    "CUDA      1 cuda device",
    "Node      26.10.0: /node",
    "Python    none; only npm run setup needs one, to fetch torch",
    "set       OMP_NUM_THREADS=8",
    "          OMP_WAIT_POLICY=passive",
    "          LD_PRELOAD=libtcmalloc.so",
    "",
    "nothing is missing",
  ]);
});
