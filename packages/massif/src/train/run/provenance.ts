/** Where a run was made: enough to say under which machine and code its numbers came about. */
import { execFileSync } from "node:child_process";
import { arch, availableParallelism, cpus, platform, totalmem } from "node:os";

export interface Provenance {
  cpu: string;
  cores: number;
  /** GiB, to one decimal. */
  memory: number;
  system: string;
  node: string;
  /** Short commit of Massif, with `+` when its files were changed; absent outside a git checkout. */
  commit?: string;
}

export function provenance(): Provenance {
  return {
    cpu: cpus()[0]?.model.trim() || "unknown",
    cores: availableParallelism(),
    memory: Math.round((totalmem() / 2 ** 30) * 10) / 10,
    system: `${platform()} ${arch()}`,
    node: process.versions.node,
    ...commit(),
  };
}

function commit(): { commit?: string } {
  const git = (...args: string[]) =>
    execFileSync("git", args, {
      cwd: import.meta.dirname,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }).trim();
  try {
    return { commit: git("rev-parse", "--short", "HEAD") + (git("status", "--porcelain", "-uno") ? "+" : "") };
  } catch {
    return {};
  }
}
