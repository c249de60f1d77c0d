import { execFile, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, onTestFinished, test } from "vitest";

const main = join(import.meta.dirname, "main.ts");

test("shows the runs of a folder until it is told to end; needs no torch", async () => {
  const base = mkdtempSync(join(tmpdir(), "massif-studio-cli-"));
  onTestFinished(() => rmSync(base, { recursive: true }));
  mkdirSync(join(base, "runs/one"), { recursive: true });
  writeFileSync(join(base, "runs/one/metrics.jsonl"), '{"step":7,"loss":1}\n');
  const child = spawn(process.execPath, [main, "studio", join(base, "runs"), "--port", "0"], { cwd: base });
  onTestFinished(() => void child.kill("SIGKILL"));
  let said = "";
  for await (const piece of child.stdout) if ((said += piece).includes("\n")) break;
  const url = /^runs: (http:\/\/127\.0\.0\.1:\d+)\/runs$/m.exec(said)![1]!;
  const page = await fetch(`${url}/runs`);
  expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
  expect(await (await fetch(`${url}/api/runs`)).json()).toMatchObject({
    runs: [{ id: "runs/one", step: 7 }],
    chat: false,
  });
  if (process.platform === "linux") expect(readFileSync(`/proc/${child.pid}/maps`, "utf8")).not.toMatch(/libtorch/);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
});

test("a folder that is not there is a wrong call, with a way out", async () => {
  const run = promisify(execFile)(process.execPath, [main, "studio", "/nowhere/at/all"]);
  await expect(run).rejects.toMatchObject({
    code: 2,
    stderr: expect.stringContaining("there is no folder /nowhere/at/all"),
  });
});
