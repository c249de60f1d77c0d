import { existsSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { type TorchReport, torchReport } from "@massif/torch/report";
import { type Command, parse } from "./command.ts";

const HELP = `
usage: massif doctor [--json]

Shows what Massif found on this machine (torch, the native add-on, CPU, accelerator, Node, Python, environment) and
what to do about what is missing. Builds and installs nothing.

  --json   one JSON object on standard output

Exit code 1 if something that is needed is missing.

example: massif doctor --json | jq .torch.version
`;

/** What `massif doctor --json` prints. */
export interface DoctorReport extends TorchReport {
  /** Nothing that is needed is missing. */
  ok: boolean;
  /** Versions: the one that runs, and the one that npm brings. */
  node: { running: string; pinned: string | null; executable: string };
  /** Variables that change what is found, threads and memory; null where they are not set. */
  environment: Record<string, string | null>;
}

const VARIABLES = [
  "LIBTORCH_USE_PYTORCH",
  "LIBTORCH",
  "LIBTORCH_INCLUDE",
  "LIBTORCH_LIB",
  "LIBTORCH_BYPASS_VERSION_CHECK",
  "VIRTUAL_ENV",
  "MASSIF_CACHE",
  "MASSIF_MARCH",
  "MASSIF_OPS",
  "CXX",
  "OMP_NUM_THREADS",
  "OMP_WAIT_POLICY",
  "GLIBC_TUNABLES",
  "LD_PRELOAD",
];

export const doctor: Command = {
  summary: "what is on this machine, and what to do about what is missing",
  help: HELP,
  async run(args) {
    const { values } = parse(args, { json: { type: "boolean" } }, false);
    const report = examine(process.env);
    console.log(values.json ? JSON.stringify(report, null, 2) : page(report));
    return report.ok ? 0 : 1;
  },
};

/** Looks at the machine as these variables make it appear. */
export function examine(env: NodeJS.ProcessEnv): DoctorReport {
  const torch = torchReport(env);
  const node = { running: process.versions.node, pinned: pinnedVersion(), executable: process.execPath };
  const environment = Object.fromEntries(VARIABLES.map((name) => [name, env[name] ?? null]));
  return { ok: torch.problems.length === 0, ...torch, node, environment };
}

function pinnedVersion(): string | null {
  const file = resolve(import.meta.dirname, "../../../../package.json");
  if (!existsSync(file)) return null;
  const { optionalDependencies = {} } = JSON.parse(readFileSync(file, "utf8"));
  return Object.entries<string>(optionalDependencies).find(([name]) => name.startsWith("node-"))?.[1] ?? null;
}

/** The report for people. */
export function page(report: DoctorReport): string {
  const { torch, addon, cpu, runtime, node, python, environment, problems, passedOver } = report;
  const have = Object.entries(cpu.features).filter(([, present]) => present);
  const lacking = Object.entries(cpu.features).filter(([, present]) => !present);
  const names = (features: [string, boolean][]) => features.map(([name]) => name).join(" ");
  const set = Object.entries(environment).filter(([, value]) => value !== null);
  const rows: [string, string | undefined][] = [
    ["torch", torch ? `${torch.version}, from ${torch.source}: ${torch.root}` : "not found"],
    ...passedOver.map((found): [string, string] => ["", `passed over: ${found}`]),
    [
      "add-on",
      addon.file
        ? `${addon.loaded ? "loads" : "does not load"}: ${addon.file}`
        : "not built yet; the first use builds it (or npm run setup)",
    ],
    [
      "",
      `compiler ${addon.compiler ?? "none"}, cmake ${addon.cmake ?? "none"}, operators with ${addon.opsFlags.join(" ")}`,
    ],
    ["CPU", `${cpu.model}, ${cpu.cores} cores${cpu.available === cpu.cores ? "" : ` (${cpu.available} for us)`}`],
    ["", `${names(have) || "no feature that matters here"}${lacking.length ? `   (without ${names(lacking)})` : ""}`],
    ["operators", report.operators ?? undefined],
    ["threads", runtime ? `${runtime.threads} for an operator, ${waiting(environment)}` : undefined],
    ["memory", runtime ? memory(environment) : undefined],
    ["ATen", runtime ? `kernels for ${runtime.cpu}` : undefined],
    ["CUDA", torch ? accelerator(report) : undefined],
    [
      "Node",
      `${node.running}${node.pinned && node.pinned !== node.running ? `, not the pinned ${node.pinned}` : ""}: ${node.executable}`,
    ],
    [
      "Python",
      python ? `${python.version}: ${python.executable}` : "none; only npm run setup needs one, to fetch torch",
    ],
    ...set.map(([name, value], i): [string, string] => [i ? "" : "set", `${name}=${value}`]),
  ];
  const lines = rows.filter(([, text]) => text).map(([name, text]) => `${name.padEnd(10)}${text}`);
  const troubles = problems.flatMap(({ found, fix }) => ["", `missing: ${found}`, `  to fix: ${fix}`]);
  return [...lines, ...(troubles.length ? troubles : ["", "nothing is missing"])].join("\n");
}

type Environment = DoctorReport["environment"];

const waiting = ({ OMP_WAIT_POLICY: policy }: Environment): string =>
  policy?.toLowerCase() === "passive"
    ? "which sleep while they wait (OMP_WAIT_POLICY=passive, set by the launcher)"
    : "which spin while they wait: on shared cores the worst cases become many times as long (massif and npm start set OMP_WAIT_POLICY=passive)";

function memory({ LD_PRELOAD: preload, GLIBC_TUNABLES: tunables }: Environment): string {
  if (preload) return `allocated by ${preload}`;
  if (tunables?.includes("mmap_threshold"))
    return "freed buffers are kept, on huge pages: a step takes no page faults (GLIBC_TUNABLES, set by the launcher)";
  return process.platform === "linux"
    ? "glibc gives big buffers back at every step and faults them in again (massif and npm start set GLIBC_TUNABLES)"
    : "the system's allocator";
}

function accelerator({ torch, runtime, nvidia }: DoctorReport): string {
  if (runtime?.accelerator)
    return `${runtime.devices} ${runtime.accelerator} device${runtime.devices === 1 ? "" : "s"}`;
  if (torch?.cuda) return `this torch has it${runtime ? ", but there is no device that it can use" : ""}`;
  const card = nvidia ? "; there is an NVIDIA card: install pip's CUDA build of the same version to use it" : "";
  return `this torch is built without it${card}`;
}
