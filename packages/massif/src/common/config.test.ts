import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { z } from "zod";
import { configDifferences, describeConfig, loadConfig } from "./config.ts";
import { MassifError } from "./errors.ts";

const schema = z.strictObject({
  steps: z.int().min(1).default(400).describe("Optimizer steps."),
  data: z.strictObject({
    files: z.array(z.string()).describe("Files, folders or globs of text."),
    mix: z.record(z.string(), z.strictObject({ weight: z.number().default(1) })).optional(),
  }),
  optimizer: z
    .object({
      learningRate: z.number().positive().default(0.02).describe("Peak rate of Muon."),
      schedule: z
        .discriminatedUnion("kind", [
          z.strictObject({
            kind: z.literal("wsd"),
            decay: z.number().default(0.2).describe("Share of the run that decays."),
          }),
          z.strictObject({ kind: z.literal("constant") }),
        ])
        .default({ kind: "constant" })
        .describe("Learning rate over time."),
    })
    .prefault({})
    .describe("MuonClip."),
  dtype: z.enum(["float32", "bfloat16"]).default("float32").describe("Compute type."),
  stop: z.union([z.number(), z.literal("never")]).optional(),
});
const minimal = { data: { files: ["a.txt"] } };

function refusal(source: object | string, sets: string[] = []): [string, ...string[]] {
  try {
    loadConfig(schema, source, sets);
  } catch (error) {
    if (error instanceof MassifError) return [error.code, ...error.message.split("\n  ")];
    throw error;
  }
  throw new Error("accepted");
}

test("defaults complete what is given, at every depth", () => {
  expect(loadConfig(schema, minimal)).toEqual({
    steps: 400,
    data: { files: ["a.txt"] },
    optimizer: { learningRate: 0.02, schedule: { kind: "constant" } },
    dtype: "float32",
  });
});

test("--set takes JSON, or text where it is no JSON, through sections and lists, and leaves its source alone", () => {
  const sets = ["steps=10", "optimizer.learningRate=1e-3", "data.files.0=b.txt", 'optimizer.schedule={"kind":"wsd"}'];
  const config = loadConfig(schema, minimal, [...sets, "data.mix.web.weight=2", "dtype=bfloat16"]);
  expect(config).toEqual({
    steps: 10,
    data: { files: ["b.txt"], mix: { web: { weight: 2 } } },
    optimizer: { learningRate: 0.001, schedule: { kind: "wsd", decay: 0.2 } },
    dtype: "bfloat16",
  });
  expect(minimal).toEqual({ data: { files: ["a.txt"] } });
});

test("an unknown key is named with its path and the nearest known one, also where z.object would drop it", () => {
  expect(refusal(minimal, ["optimizer.learnigRate=1"])).toEqual([
    "config.unknown-key",
    "unknown key optimizer.learnigRate",
    "expected: one of learningRate, schedule",
    "to fix: did you mean optimizer.learningRate?",
  ]);
  expect(refusal(minimal, ["learningRate=1"])[3]).toBe("to fix: did you mean optimizer.learningRate?");
  expect(refusal(minimal, ["optimizer.schedule.kind=wsd", "optimizer.schedule.deacy=1"]).slice(1)).toEqual([
    "unknown key optimizer.schedule.deacy",
    "expected: one of kind, decay",
    "to fix: did you mean optimizer.schedule.decay?",
  ]);
  expect(refusal(minimal, ["data.mix.web.wieght=1"])[1]).toBe("unknown key data.mix.web.wieght");
  expect(refusal({ ...minimal, zzzzzzzzzz: 1 })[3]).toBe("to fix: remove it");
});

test("a wrong value is named with its path, what was found and what was expected", () => {
  expect(refusal(minimal, ["steps=many"])).toEqual([
    "config.invalid",
    'steps is "many"',
    "expected: integer (Optimizer steps.)",
    "to fix: correct it in the file, or with --set steps=VALUE",
  ]);
  expect(refusal(minimal, ["steps=0"]).slice(1, 3)).toEqual(["steps is 0", "expected: >=1 (Optimizer steps.)"]);
  expect(refusal({ data: {} }).slice(1, 3)).toEqual([
    "data.files is missing",
    "expected: list of string (Files, folders or globs of text.)",
  ]);
  expect(refusal({ data: { files: ["a", 3] } }).slice(1, 3)).toEqual(["data.files.1 is 3", "expected: string"]);
  expect(refusal(minimal, ["dtype=fp8"]).slice(1, 3)).toEqual([
    'dtype is "fp8"',
    'expected: one of "float32"|"bfloat16" (Compute type.)',
  ]);
  expect(refusal(minimal, ["stop=true"]).slice(1, 3)).toEqual(["stop is true", 'expected: number | "never"']);
  expect(refusal(minimal, ["steps=a", "dtype=b"])[1]).toBe('steps is "a"; dtype is "b"');
});

test("a malformed --set is refused", () => {
  expect(refusal(minimal, ["steps"]).slice(0, 2)).toEqual(["config.set", "--set steps"]);
  expect(refusal(minimal, ["__proto__.x=1"])[0]).toBe("config.set");
  expect(refusal({ ...minimal, steps: 3 }, ["steps.x=1"])[1]).toBe("--set steps.x=1, but steps is 3");
});

test("a file goes on from the one it extends", () => {
  const dir = mkdtempSync(join(tmpdir(), "config-"));
  mkdirSync(join(dir, "recipe"));
  writeFileSync(join(dir, "base.json"), JSON.stringify({ ...minimal, steps: 7, optimizer: { learningRate: 0.5 } }));
  const file = join(dir, "recipe/config.json");
  writeFileSync(file, JSON.stringify({ extends: "../base.json", optimizer: { schedule: { kind: "wsd" } }, steps: 8 }));
  expect(loadConfig(schema, file, ["dtype=bfloat16"])).toEqual({
    steps: 8,
    data: { files: ["a.txt"] },
    optimizer: { learningRate: 0.5, schedule: { kind: "wsd", decay: 0.2 } },
    dtype: "bfloat16",
  });
  writeFileSync(join(dir, "base.json"), JSON.stringify({ extends: "recipe/config.json" }));
  expect(refusal(file).slice(0, 2)).toEqual(["config.file", `${file} extends itself`]);
  writeFileSync(file, "{ steps: 1 }");
  expect(refusal(file)[0]).toBe("config.json");
  expect(refusal(join(dir, "none.json"))[0]).toBe("config.file");
});

test("describeConfig prints the tree: key, default, sentence", () => {
  expect(describeConfig(schema).split("\n")).toEqual([
    "steps              400                   Optimizer steps.",
    "data",
    "  files            (list of string)      Files, folders or globs of text.",
    "  mix              (object)",
    "    <name>.weight  1",
    "optimizer                                MuonClip.",
    "  learningRate     0.02                  Peak rate of Muon.",
    '  schedule         {"kind":"constant"}   Learning rate over time.',
    '    kind           ("wsd" | "constant")',
    "    decay          0.2                   Share of the run that decays.",
    'dtype              "float32"             Compute type. "float32" | "bfloat16"',
    'stop               (number | "never")',
  ]);
});

test("configDifferences names the keys that differ", () => {
  const a = { steps: 1, optimizer: { lr: 1, kind: "x" }, files: ["a"] };
  expect(configDifferences(a, { steps: 1, optimizer: { kind: "x", lr: 2 }, files: ["a", "b"], seed: 1 })).toEqual([
    "optimizer.lr",
    "files",
    "seed",
  ]);
  expect(configDifferences(a, structuredClone(a))).toEqual([]);
});
