import { globSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { serve } from "../packages/massif/src/cli/serve.ts";

const root = resolve(import.meta.dirname, "..");
const files = globSync("deploy/**/*.yaml", { cwd: root });

test("every gateway in deploy/ is started with options that massif serve has, with keys where others can reach it", () => {
  const known = new Set(serve.help.match(/--[a-z-]+/g));
  const commands = files.flatMap((file) =>
    [...readFileSync(join(root, file), "utf8").matchAll(/(?:command|args): (\["serve".*\])$/gm)].map(
      ([, list]) => [file, JSON.parse(list!) as string[]] as const,
    ),
  );
  expect(commands.map(([file]) => file).sort()).toEqual([
    "deploy/compose/gateway.yaml",
    "deploy/compose/tensorrt-llm.yaml",
    "deploy/kubernetes/gateway.yaml",
  ]);
  for (const [file, command] of commands) {
    for (const option of command.filter((word) => word.startsWith("--")))
      expect([file, known.has(option)]).toEqual([file, true]);
    expect(command).toContain("--api-key-file");
  }
});

test("docs/deploy.md names every file, and no other", () => {
  const named = readFileSync(join(root, "docs/deploy.md"), "utf8").match(/(?<=\]\(\.\.\/)deploy\/\S+?\.yaml/g)!;
  const engines = files.filter((file) => !file.endsWith("gateway.yaml"));
  expect([...new Set(named)].sort()).toEqual(engines.sort());
});

test("the image knows every package of the workspace before it installs, and takes no second Node", () => {
  const image = readFileSync(join(root, "deploy/gateway.Dockerfile"), "utf8");
  for (const file of globSync("packages/*/package.json", { cwd: root }))
    expect(image).toContain(`COPY ${file} ${file.replace("package.json", "")}\n`);
  expect(image).toMatch(/npm ci .*--omit=optional/);
});
