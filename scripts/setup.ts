/**
 * Torch and the native add-on for this repository, each only if it is missing. Says what it does, how long that may
 * take, and how long it took; says nothing where there is nothing to do (unless --report).
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { builtAddon, ensureAddon, planBuild } from "../packages/torch/src/build.ts";
import { cacheFolder, onPath } from "../packages/torch/src/cache.ts";
import { TorchError } from "../packages/torch/src/error.ts";
import { SUPPORTED_TORCH, searchTorch, type TorchInstall, torchMissing } from "../packages/torch/src/find.ts";
import { withLock } from "../packages/torch/src/lock.ts";

const root = resolve(import.meta.dirname, "..");
const venv = join(root, ".venv");
const unfinished = join(venv, "massif-unfinished");
const TORCH = `torch==${SUPPORTED_TORCH}.0`;
const say = (line: string) => console.error(line);

function setup(): void {
  const torch = (existsSync(unfinished) ? undefined : searchTorch().install) ?? locked(installTorch);
  const plan = planBuild(torch);
  const addon = builtAddon(plan) ?? ensureAddon(plan, { onProgress: say });
  if (!process.argv.includes("--report")) return;
  say(`torch ${torch.version} (${torch.source}): ${torch.root}`);
  say(`native add-on: ${addon}`);
  say("ready: npm start, npm test, node_modules/.bin/massif --help");
}

function locked<T>(work: () => T): T {
  mkdirSync(cacheFolder(process.env), { recursive: true });
  return withLock(join(cacheFolder(process.env), "setup.lock"), () => say("waiting for another set-up"), work);
}

/** A venv of our own with torch in it. */
function installTorch(): TorchInstall {
  if (existsSync(unfinished)) rmSync(venv, { recursive: true }); // interrupted: a half torch looks like a whole one
  const { install, passedOver } = searchTorch();
  if (install) return install; // another set-up was quicker
  for (const found of passedOver) say(`torch: not used, as this needs ${SUPPORTED_TORCH}.x: ${found}`);
  const began = performance.now();
  if (!existsSync(join(venv, "bin/python"))) makeVenv();
  writeFileSync(unfinished, "");
  pipInstall(join(venv, "bin/python"));
  rmSync(unfinished);
  say(`torch: done in ${((performance.now() - began) / 1000).toFixed(0)} s`);
  const search = searchTorch();
  if (!search.install) throw torchMissing(search.passedOver);
  return search.install;
}

function makeVenv(): void {
  const python = ["python3.11", "python3.12", "python3.13", "python3.10", "python3"].find((name) => suits(name));
  if (!python) {
    throw new TorchError("torch.python", {
      found: "no torch, and no Python to install it with",
      expected: "python3 from 3.10 to 3.13 on PATH, with its venv module",
      fix: "apt-get install python3 python3-venv   (or LIBTORCH=/path/to/libtorch, if you have one)",
    });
  }
  say(`torch: a Python environment in .venv, with ${python} … (about 5 s)`);
  rmSync(venv, { recursive: true, force: true });
  const { status } = spawnSync(python, ["-m", "venv", venv], { stdio: ["ignore", 2, 2] });
  if (status === 0) return;
  rmSync(venv, { recursive: true, force: true });
  throw new TorchError("torch.python", {
    found: `${python} -m venv .venv failed; its message is above`,
    fix: "apt-get install python3-venv, or make sure that the repository's folder can be written",
  });
}

function suits(python: string): boolean {
  if (!onPath([python], process.env)) return false;
  const test = "import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))";
  return spawnSync(python, ["-c", test], { stdio: "ignore" }).status === 0;
}

/**
 * PyPI's torch for Linux brings CUDA, some gigabytes. Without an NVIDIA card we ask for the build for CPUs, where pip
 * looks anyway; pip's own PIP_EXTRA_INDEX_URL adds PyTorch's index to that, for who wants to reach beyond PyPI.
 */
function pipInstall(python: string): void {
  const attempts: [what: string, args: string[]][] = [
    [
      `${TORCH} … (the download is some gigabytes with CUDA; PIP_EXTRA_INDEX_URL with PyTorch's CPU index saves them)`,
      [TORCH],
    ],
  ];
  if (process.platform === "linux" && !existsSync("/dev/nvidiactl"))
    attempts.unshift([`${TORCH} for CPUs … (200 MB to fetch, 750 MB on disk: about a minute)`, [`${TORCH}+cpu`]]);
  const pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"];
  if (!process.stderr.isTTY) pip.push("--quiet"); // quiet leaves the progress bar out too
  for (const [i, [what, args]] of attempts.entries()) {
    say(`torch: ${what}`);
    // That an index does not have it is told in a second or two, and is no news; only the last complaints matter.
    const complaints = i === attempts.length - 1 ? 2 : "ignore";
    if (spawnSync(python, [...pip, ...args], { stdio: ["ignore", 2, complaints] }).status === 0) return;
  }
  throw new TorchError("torch.pip", {
    found: `pip could not install ${TORCH}; its message is above`,
    fix: [
      "check the network (pip's index, proxy), then start again; or use a torch that is elsewhere:",
      `  python3 -m venv VENV && VENV/bin/pip install ${TORCH}, then VIRTUAL_ENV=VENV npm start`,
      "  LIBTORCH=/path/to/libtorch npm start",
    ].join("\n  "),
  });
}

try {
  setup();
} catch (error) {
  if (!(error instanceof TorchError)) throw error;
  say(error.message);
  process.exitCode = 1;
}
