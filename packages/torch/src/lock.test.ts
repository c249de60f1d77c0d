import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { withLock } from "./lock.ts";

let box: string;
let file: string;
beforeEach(() => {
  box = mkdtempSync(join(tmpdir(), "massif-lock-"));
  file = join(box, "lock");
});
afterEach(() => rmSync(box, { recursive: true }));

const quiet = () => {};

test("held inside, gone afterwards, also after an error", () => {
  expect(withLock(file, quiet, () => JSON.parse(readFileSync(file, "utf8")).pid)).toBe(process.pid);
  expect(existsSync(file)).toBe(false);
  expect(() =>
    withLock(file, quiet, () => {
      throw new Error("inside");
    }),
  ).toThrow("inside");
  expect(existsSync(file)).toBe(false);
});

test("the lock of a process that has ended is taken over without waiting", () => {
  const { pid } = spawnSync("true");
  writeFileSync(file, JSON.stringify({ pid, host: hostname() }));
  let waits = 0;
  expect(
    withLock(
      file,
      () => waits++,
      () => "mine",
    ),
  ).toBe("mine");
  expect(waits).toBe(0);
  expect(readdirSync(box)).toEqual([]);
});
