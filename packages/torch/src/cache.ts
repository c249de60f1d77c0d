import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";

/** Variables as in `process.env`: passed in, so that tests can bring their own. */
export type Env = Record<string, string | undefined>;

/** The repository this file is in, or undefined where the package is installed in somebody's node_modules. */
export const workspace: string | undefined = findWorkspace(import.meta.dirname);

function findWorkspace(from: string): string | undefined {
  for (let folder = from; dirname(folder) !== folder; folder = dirname(folder)) {
    const file = join(folder, "package.json");
    if (existsSync(file) && JSON.parse(readFileSync(file, "utf8")).name === "massif-workspace") return folder;
  }
  return undefined;
}

/** Where built add-ons are kept: MASSIF_CACHE, else `.cache/massif` of the repository, else the user's cache folder. */
export function cacheFolder(env: Env): string {
  if (env.MASSIF_CACHE) return resolve(env.MASSIF_CACHE);
  if (workspace) return join(workspace, ".cache/massif");
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "massif");
}

/** The first executable of these names on PATH (a name with a slash is taken as it is), or undefined. */
export function onPath(names: readonly string[], env: Env): string | undefined {
  for (const name of names) {
    if (name.includes("/")) {
      if (existsSync(name)) return name;
      continue;
    }
    for (const folder of (env.PATH ?? "").split(":")) {
      if (folder && existsSync(join(folder, name))) return join(folder, name);
    }
  }
  return undefined;
}
