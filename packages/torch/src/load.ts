import { constants } from "node:os";
import type { Addon } from "./addon.ts";
import { builtAddon, ensureAddon, planBuild, touchAddon } from "./build.ts";
import { searchTorch, torchMissing } from "./find.ts";

// On the process, not on this module: two copies of the add-on in one process abort, and a bundler or a test runner
// may well evaluate this module twice.
const LOADED = Symbol.for("@massif/torch addon");
const loaded = globalThis as { [LOADED]?: { exports: Addon; file: string } };

/**
 * The native add-on: finds libtorch, builds the add-on if it is not built yet (saying so on standard error), and loads
 * it, once a process. Throws `torch.missing`, `torch.version` or `torch.build`.
 */
export function loadAddon(): Addon {
  if (loaded[LOADED]) return loaded[LOADED].exports;
  const { install: torch, passedOver } = searchTorch();
  if (!torch) throw torchMissing(passedOver);
  const plan = planBuild(torch);
  const file = builtAddon(plan) ?? ensureAddon(plan, { onProgress: (line) => console.error(line) });
  touchAddon(file);
  const module = { exports: {} as Addon };
  process.dlopen(module, file, constants.dlopen.RTLD_NOW);
  loaded[LOADED] = { exports: module.exports, file };
  return module.exports;
}

/** The file of the add-on that this process has loaded. */
export function loadedAddon(): string | undefined {
  return loaded[LOADED]?.file;
}
