/** What is on this machine, for `massif doctor`. Loads the add-on only if it is built; never builds or installs. */
import { existsSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import type { MachineInfo } from "./addon.ts";
import { buildTools, builtAddon, cpuFeatures, opsFlags, planBuild, requireTools } from "./build.ts";
import type { Env } from "./cache.ts";
import { TorchError } from "./error.ts";
import { searchTorch, type TorchInstall, torchMissing } from "./find.ts";
import { operatorPath } from "./fused.ts";
import { loadAddon } from "./load.ts";
import { activePython, askPython } from "./python.ts";

/** Something that keeps torch from working, and the way out. */
export interface TorchProblem {
  code: string;
  found: string;
  fix: string;
}

export interface TorchReport {
  torch: TorchInstall | null;
  /** Torches that were found and not used: wrong version. */
  passedOver: string[];
  addon: { file: string | null; loaded: boolean; compiler: string | null; cmake: string | null; opsFlags: string[] };
  cpu: { model: string; cores: number; available: number; features: Record<string, boolean> };
  /** Which operators run, and why these; null where the add-on does not load. */
  operators: string | null;
  /** What the loaded add-on says of itself; null where it is not built or does not load. */
  runtime: (MachineInfo & { threads: number }) | null;
  /** Whether there is an NVIDIA card with its driver, whatever torch was built for. */
  nvidia: boolean;
  python: { executable: string; version: string; torch: string | null } | null;
  problems: TorchProblem[];
}

/** The CPU features that torch's kernels and ours choose by. */
const FEATURES =
  process.arch === "arm64"
    ? ["asimd", "asimddp", "bf16", "i8mm", "sve"]
    : ["avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"];

export function torchReport(env: Env = process.env): TorchReport {
  const problems: TorchProblem[] = [];
  const attempt = <T>(work: () => T): T | undefined => {
    try {
      return work();
    } catch (error) {
      report(error);
      return undefined;
    }
  };
  const report = (error: unknown) => {
    if (error instanceof TorchError) {
      problems.push({ code: error.code, found: error.trouble.found, fix: error.trouble.fix ?? REBUILD });
    } else {
      problems.push({
        code: "torch.load",
        found: error instanceof Error ? error.message : String(error),
        fix: REBUILD,
      });
    }
  };

  const search = attempt(() => searchTorch(env));
  const torch = search?.install;
  if (search && !torch) report(torchMissing(search.passedOver));
  const plan = torch && planBuild(torch, env);
  const file = plan && builtAddon(plan);
  if (plan && !file) attempt(() => requireTools(plan));
  const addon = file && attempt(loadAddon);
  const { model, features } = cpuFeatures();
  const tools = buildTools(env);
  const command = activePython(env);
  const python = command && askPython(command, env);
  return {
    torch: torch ?? null,
    passedOver: search?.passedOver ?? [],
    addon: {
      file: file ?? null,
      loaded: Boolean(addon),
      compiler: tools.compiler ?? null,
      cmake: tools.cmake ?? null,
      opsFlags: opsFlags(env),
    },
    cpu: {
      model,
      cores: cpus().length,
      available: availableParallelism(),
      features: Object.fromEntries(FEATURES.map((name) => [name, features.includes(name)])),
    },
    operators: addon ? operatorPath() : null,
    runtime: addon ? { ...addon.info(), threads: addon.threads() } : null,
    nvidia: existsSync("/dev/nvidiactl"),
    python: python ? { ...python, torch: python.torch ?? null } : null,
    problems,
  };
}

const REBUILD =
  "remove the cache folder (.cache/massif, or MASSIF_CACHE) and run npm run setup; the add-on is built anew";
