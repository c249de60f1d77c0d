import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";

// bin/launch.mjs is plain JavaScript for any Node, so it is tested from the outside, as a launcher of a small program.
const launcher = resolve(import.meta.dirname, "../../bin/launch.mjs");
let box: string;
beforeEach(() => {
  box = mkdtempSync(join(tmpdir(), "massif-launch-"));
});
afterEach(() => rmSync(box, { recursive: true }));

function launch(program: string, env: Record<string, string> = {}) {
  writeFileSync(join(box, "program.mjs"), program);
  writeFileSync(
    join(box, "launcher.mjs"),
    `import { environment, handOver } from ${JSON.stringify(launcher)};
     process.exitCode = await handOver(process.execPath, [${JSON.stringify(join(box, "program.mjs"))}], environment(process.env));`,
  );
  const clean = { PATH: process.env.PATH ?? "", ...env };
  return spawn(process.execPath, [join(box, "launcher.mjs")], { env: clean, stdio: ["ignore", "pipe", "inherit"] });
}

async function textOf(child: ReturnType<typeof launch>): Promise<string> {
  let text = "";
  for await (const chunk of child.stdout) text += chunk;
  return text.trim();
}

test("the environment is there before Node starts, and what is set already stays", async () => {
  const show =
    "console.log([process.env.OMP_WAIT_POLICY, process.env.GLIBC_TUNABLES?.includes('hugetlb=1')].join(' '))";
  const linux = process.platform === "linux";
  expect(await textOf(launch(show))).toBe(linux ? "passive true" : "passive ");
  expect(await textOf(launch(show, { OMP_WAIT_POLICY: "active", GLIBC_TUNABLES: "glibc.malloc.check=0" }))).toBe(
    "active false",
  );
});

test("the exit code is the program's", async () => {
  expect(await once(launch("process.exitCode = 7"), "exit")).toEqual([7, null]);
});

test("a program that a signal ends gives 128 + its number", async () => {
  expect(await once(launch("process.kill(process.pid, 'SIGKILL'); setInterval(() => {}, 1000)"), "exit")).toEqual([
    137,
    null,
  ]);
});

test.for(["SIGTERM", "SIGINT", "SIGHUP"] as const)("%s reaches the program, which ends as it likes", async (signal) => {
  const child = launch(
    `process.on('${signal}', () => { console.log('saved'); process.exit(3); });
     setInterval(() => {}, 1000);
     console.log('ready');`,
  );
  const ended = once(child, "exit");
  let text = "";
  for await (const chunk of child.stdout) {
    text += chunk;
    if (text === "ready\n") child.kill(signal);
  }
  expect(text).toBe("ready\nsaved\n");
  expect(await ended).toEqual([3, null]);
});
