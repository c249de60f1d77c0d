/** The worlds that come with Massif, as files beside this one. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { MassifError, nearest } from "../common/index.ts";
import type { Split, Splits } from "./environment.ts";
import { puzzles } from "./puzzles.ts";
import { type Quiz, SingleTurn } from "./single-turn.ts";
import { styleRubric } from "./style-rubric.ts";
import { readWorld, type World } from "./world.ts";
import { WorldEnvironment } from "./world-environment.ts";

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

/** Single-turn tasks that are code. */
export const quizzes: readonly Quiz[] = [puzzles, styleRubric];

/** An environment by the name of a shipped world or quiz, or by the path of a world's file. Throws as `openWorld`. */
export function openEnvironment(
  nameOrPath: string,
  split: Split | Partial<Splits> = "train",
): WorldEnvironment | SingleTurn {
  const quiz = quizzes.find((q) => q.name === nameOrPath);
  return quiz ? new SingleTurn(quiz, split) : new WorldEnvironment(openWorld(nameOrPath), split);
}
