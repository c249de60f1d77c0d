import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Checkpoints } from "./checkpoints.ts";

const folder = () => mkdtempSync(join(tmpdir(), "checkpoints-"));
const writing = (text: string) => (dir: string) => {
  mkdirSync(join(dir, "optimizer"));
  writeFileSync(join(dir, "model.safetensors"), text);
  writeFileSync(join(dir, "optimizer/state.bin"), "12345");
};

test("a checkpoint is a folder with a manifest of what it holds", async () => {
  const checkpoints = new Checkpoints(folder());
  expect(checkpoints.latest()).toBeUndefined();
  const { dir } = await checkpoints.save(10, writing("weights"));
  expect(JSON.parse(readFileSync(join(dir, "manifest.json"), "utf8"))).toEqual({
    step: 10,
    files: [
      { path: "model.safetensors", bytes: 7 },
      { path: "optimizer/state.bin", bytes: 5 },
    ],
  });
  expect(checkpoints.latest()).toEqual({ step: 10, dir: join(checkpoints.dir, "step-10") });
});

test("the last ones are kept, and multiples of keepEvery for ever", async () => {
  const checkpoints = new Checkpoints(folder(), { keep: 2, keepEvery: 100 });
  for (const step of [50, 100, 150, 200, 1000, 1010, 1020]) await checkpoints.save(step, writing("w"));
  expect(checkpoints.list().map((c) => c.step)).toEqual([100, 200, 1000, 1010, 1020]);
});

test("half-written and damaged ones are passed over, with a word", async () => {
  const said: string[] = [];
  const checkpoints = new Checkpoints(folder(), { keep: 9, warn: (text) => said.push(text) });
  for (const step of [1, 2, 3, 4]) await checkpoints.save(step, writing("weights"));
  truncateSync(join(checkpoints.dir, "step-4/model.safetensors"), 3);
  rmSync(join(checkpoints.dir, "step-3/optimizer"), { recursive: true });
  writeFileSync(join(checkpoints.dir, "step-2/manifest.json"), '{"step":2,');
  expect(checkpoints.latest()?.step).toBe(1);
  expect(said).toEqual([
    `passing over ${checkpoints.dir}/step-4: model.safetensors has 3 bytes, 7 were written`,
    `passing over ${checkpoints.dir}/step-3: optimizer/state.bin has no bytes, 5 were written`,
    `passing over ${checkpoints.dir}/step-2: no readable manifest.json`,
  ]);
});

test("killed in the middle of writing: the one before is the latest, and tidy removes the rest", () => {
  const dir = folder();
  const script = `
    import { writeFileSync } from "node:fs";
    import { Checkpoints } from ${JSON.stringify(join(import.meta.dirname, "checkpoints.ts"))};
    const checkpoints = new Checkpoints(${JSON.stringify(dir)});
    await checkpoints.save(1, (at) => writeFileSync(at + "/model", "whole"));
    await checkpoints.save(2, (at) => { writeFileSync(at + "/model", "ha"); process.kill(process.pid, "SIGKILL"); });`;
  expect(spawnSync(process.execPath, ["--input-type=module-typescript", "-e", script]).signal).toBe("SIGKILL");
  const checkpoints = new Checkpoints(dir);
  expect(readdirSync(dir)).toHaveLength(2);
  expect(checkpoints.latest()?.step).toBe(1);
  checkpoints.tidy();
  expect(readdirSync(dir)).toEqual(["step-1"]);
});

test("an error while writing leaves no trace", async () => {
  const checkpoints = new Checkpoints(folder());
  await checkpoints.save(1, writing("w"));
  const failing = checkpoints.save(2, (dir) => {
    writeFileSync(join(dir, "model"), "x");
    throw new Error("not today");
  });
  await expect(failing).rejects.toThrow("not today");
  expect(readdirSync(checkpoints.dir)).toEqual(["step-1"]);
});

test("a step written again after a roll-back replaces the first, and a kill between the two moves loses none", async () => {
  const checkpoints = new Checkpoints(folder());
  await checkpoints.save(5, writing("first"));
  await checkpoints.save(5, writing("second"));
  expect(readFileSync(join(checkpoints.dir, "step-5/model.safetensors"), "utf8")).toBe("second");
  execFileSync("mv", [join(checkpoints.dir, "step-5"), join(checkpoints.dir, ".old-step-5")]);
  checkpoints.tidy();
  expect(checkpoints.latest()?.step).toBe(5);
  expect(readdirSync(checkpoints.dir)).toEqual(["step-5"]);
});

test("tidy(step) drops the later ones", async () => {
  const checkpoints = new Checkpoints(folder(), { keep: 9 });
  for (const step of [1, 2, 3]) await checkpoints.save(step, writing("w"));
  checkpoints.tidy(2);
  expect(checkpoints.list().map((c) => c.step)).toEqual([1, 2]);
});

/** A file system of one MiB; needs the right to mount. */
function smallDisk(): string | undefined {
  const dir = mkdtempSync(join(tmpdir(), "disk-"));
  return spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", dir]).status === 0 ? dir : undefined;
}

test("a full disk is an error that says so, and costs nothing that was there", async ({ skip }) => {
  const disk = smallDisk();
  if (!disk) return skip("no right to mount a small disk");
  try {
    const checkpoints = new Checkpoints(join(disk, "checkpoints"));
    await checkpoints.save(1, writing("x".repeat(300_000)));
    await expect(checkpoints.save(2, writing("x".repeat(900_000)))).rejects.toMatchObject({
      code: "run.disk-full",
      message: [
        `no space left to write the checkpoint of step 2 in ${checkpoints.dir}`,
        "expected: room for one more; step 1 is whole",
        "to fix: make room, then go on with --resume",
      ].join("\n  "),
    });
    expect(readdirSync(checkpoints.dir)).toEqual(["step-1"]);
    await checkpoints.save(3, writing("x".repeat(300_000)));
    expect(checkpoints.latest()?.step).toBe(3);
  } finally {
    spawnSync("umount", [disk]);
  }
});
