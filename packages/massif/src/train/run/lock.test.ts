import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { MassifError } from "../../common/index.ts";
import { lock } from "./lock.ts";

const folder = () => mkdtempSync(join(tmpdir(), "lock-"));

function refusal(file: string): MassifError {
  try {
    lock(file)[Symbol.dispose]();
  } catch (error) {
    if (error instanceof MassifError) return error;
    throw error;
  }
  throw new Error("the lock was given twice");
}

test("one holder at a time, and nothing left behind", () => {
  const dir = folder();
  const file = join(dir, "lock");
  {
    using _held = lock(file);
    expect(JSON.parse(readFileSync(file, "utf8")).pid).toBe(process.pid);
    expect(refusal(file).message).toContain(`process ${process.pid} is writing to this run`);
    expect(readdirSync(dir)).toEqual(["lock"]);
  }
  expect(readdirSync(dir)).toEqual([]);
});

test("the lock of a dead process is taken over, also when a later process has its id", () => {
  const dir = folder();
  const file = join(dir, "lock");
  const dead = spawnSync(process.execPath, ["-e", ""]).pid;
  writeFileSync(file, JSON.stringify({ pid: dead, host: hostname() }));
  lock(file)[Symbol.dispose]();
  writeFileSync(file, JSON.stringify({ pid: process.pid, host: hostname(), began: "1" }));
  lock(file)[Symbol.dispose]();
  writeFileSync(file, "");
  lock(file)[Symbol.dispose]();
  expect(readdirSync(dir)).toEqual([]);
});

test("a lock of another machine stays, and the error says how to remove it", () => {
  const file = join(folder(), "lock");
  writeFileSync(file, JSON.stringify({ pid: 7, host: "elsewhere" }));
  expect(refusal(file).message.split("\n")).toEqual([
    `process 7 on elsewhere is writing to this run (${file})`,
    "  expected: one writer at a time",
    `  to fix: if it is gone, delete ${file}`,
  ]);
});
