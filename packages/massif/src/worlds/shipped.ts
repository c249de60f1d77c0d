/** The worlds that come with Massif, as files beside this one. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { MassifError, nearest } from "../common/index.ts";
import { readWorld, type World } from "./world.ts";

const folder = join(import.meta.dirname, "shipped");

/** Names of the shipped worlds, in alphabetical order. */
export const shippedWorlds = (): string[] =>
  readdirSync(folder)
    .filter((f) => f.endsWith(".json"))
    .map((f) => f.slice(0, -5))
    .sort();

/**
 * A world by the path of its file, or by the name of a shipped one.
 * @throws MassifError `world.file` where neither exists, and what `readWorld` throws.
 */
export function openWorld(nameOrPath: string): World {
  const names = shippedWorlds();
  if (existsSync(nameOrPath)) return readWorld(nameOrPath);
  if (names.includes(nameOrPath)) return readWorld(join(folder, `${nameOrPath}.json`));
  const like = nearest(nameOrPath, names);
  throw new MassifError("world.file", {
    found: `there is no file '${nameOrPath}', and no shipped world of that name`,
    expected: `a path, or one of ${names.join(", ")}`,
    ...(like && { fix: `did you mean '${like}'?` }),
  });
}
