import { spawnSync } from "node:child_process";
import { resolve } from "node:path";
import { expect, test } from "vitest";

const root = resolve(import.meta.dirname, "..");

/** A checker's complaints; empty where it has none. */
function complaints(tool: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(resolve(root, "node_modules/.bin", tool), args, {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
  return status === 0 ? "" : `${stdout}${stderr}` || `exit code ${status}`;
}

test("tsc has nothing to say", () => {
  expect(complaints("tsc", "-p", "tsconfig.json")).toBe("");
  expect(complaints("tsc", "-p", "packages/studio")).toBe("");
});

test("biome has nothing to say", () => {
  expect(complaints("biome", "check", ".")).toBe("");
});
