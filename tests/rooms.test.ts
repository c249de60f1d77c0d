import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { parseSync } from "oxc-parser";
import { expect, test } from "vitest";

const src = resolve(import.meta.dirname, "../packages/massif/src");
/** Bottom to top: a room imports only the doors (`index.ts`) of rooms listed before it. docs/architecture.md says what each holds. */
const ROOMS = [
  "common",
  "tokenizer",
  "chat",
  "llm",
  "enforcer",
  "model",
  "optim",
  "train",
  "engine",
  "worlds",
  "agent",
  "rl",
  "story",
  "jobs",
  "corpus",
  "synthesis",
  "server",
  "eval",
  "plan",
  "cli",
];

const roomOf = (file: string): string => relative(src, file).split(sep)[0] ?? "";

/** Every specifier that a file imports or re-exports, types and literal `import()`s included. */
function specifiers(file: string): string[] {
  const text = readFileSync(file, "utf8");
  const { module, errors } = parseSync(file, text);
  if (errors.length) throw new Error(`${file}: ${errors[0]?.message}`);
  return [
    ...module.staticImports.map((i) => i.moduleRequest.value),
    ...module.staticExports.flatMap((e) => e.entries.flatMap((x) => x.moduleRequest?.value ?? [])),
    ...module.dynamicImports.map((d) => text.slice(d.moduleRequest.start + 1, d.moduleRequest.end - 1)),
  ];
}

test("each room imports only the doors of rooms below it", () => {
  const bad: string[] = [];
  const files = globSync(join(src, "*/**/*.ts"));
  expect(files.length).toBeGreaterThan(5);
  for (const file of files) {
    const room = roomOf(file);
    const say = (what: string) => bad.push(`${relative(src, file)}: ${what}`);
    if (!ROOMS.includes(room)) say(`${room} is not in the list of rooms`);
    for (const specifier of new Set(specifiers(file))) {
      if (specifier.startsWith("massif/")) say(`imports ${specifier}; use a relative path`);
      if (!specifier.startsWith(".")) continue;
      const target = join(dirname(file), specifier);
      const to = roomOf(target);
      if (to === room) continue;
      if (ROOMS.indexOf(to) < 0 || ROOMS.indexOf(to) > ROOMS.indexOf(room)) say(`may not import ${specifier}`);
      else if (relative(join(src, to), target) !== "index.ts" && room !== "cli") say(`${specifier} is not a door`);
    }
  }
  expect(bad).toEqual([]);
});

test("@massif/torch knows nothing of models", () => {
  const torch = resolve(src, "../../torch/src");
  const bad = globSync(join(torch, "**/*.ts")).filter((f) => specifiers(f).some((s) => /massif\/src|^massif/.test(s)));
  expect(bad).toEqual([]);
});
