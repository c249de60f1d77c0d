// What has to be true before Node starts: which Node, and an environment that only a new process can read.
// Plain JavaScript without dependencies: it runs on any Node from 18.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";

const NEEDED_NODE = 26;

// Torch allocates and frees the same big buffers at every step. By default glibc gives each back to the system and takes
// tens of thousands of page faults a step to get them again; here they are kept, on huge pages. Above
// 256 MiB a buffer still has its own mapping, so that weights and checkpoints do go back.
const GLIBC_TUNABLES = [
  "glibc.malloc.mmap_threshold=268435456",
  "glibc.malloc.trim_threshold=4294967296",
  "glibc.malloc.top_pad=67108864",
  "glibc.malloc.hugetlb=1",
].join(":");

/** `env` with what torch wants for its threads and its memory; what is set already stays. */
export function environment(env) {
  return {
    // OpenMP threads that spin while they wait take the cores from all others: worst cases become 50 times as long.
    OMP_WAIT_POLICY: "passive",
    ...(process.platform === "linux" ? { GLIBC_TUNABLES } : {}),
    ...env,
  };
}

/** Whether this process is already what `handOver` would start. */
export function isReady(env) {
  return Number.parseInt(process.versions.node, 10) >= NEEDED_NODE && env.OMP_WAIT_POLICY !== undefined;
}

/** The Node that npm installed beside the nearest package, else this one if it is new enough, else undefined. */
export function pinnedNode(from) {
  for (let folder = from; ; folder = dirname(folder)) {
    const node = join(folder, "node_modules/.bin/node");
    if (existsSync(node)) return node;
    if (dirname(folder) === folder) break;
  }
  return Number.parseInt(process.versions.node, 10) >= NEEDED_NODE ? process.execPath : undefined;
}

/** Runs a program to its end with this one's input and output, passing signals on; its exit code (128 + n for signal n). */
export function handOver(command, args, env) {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { stdio: "inherit", env });
    const pass = (signal) => {
      // A terminal's Ctrl-C goes to the child as well as to us. Twice would mean "at once".
      if (signal !== "SIGINT" || !process.stdin.isTTY) child.kill(signal);
    };
    const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR2"];
    for (const signal of signals) process.on(signal, pass);
    const end = (finish) => {
      for (const signal of signals) process.off(signal, pass);
      finish();
    };
    child.on("error", (error) => end(() => fail(error)));
    child.on("exit", (code, signal) => end(() => done(code ?? 128 + constants.signals[signal])));
  });
}
