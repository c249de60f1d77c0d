/** How well a model does in worlds: episodes on tasks of its own seeds, counted by what the tasks ask for. */
import { z } from "zod";
import type { Ended, TemplateName, Trajectory } from "../chat/index.ts";
import { type Interval, wilson } from "../common/index.ts";
import { engineModel, openEngine } from "../engine/index.ts";
import type { LanguageModel } from "../llm/index.ts";
import type { Model } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { type Environment, openEnvironment, WorldEnvironment } from "../worlds/index.ts";
import { splitOf, taskSeed } from "./demonstrations.ts";
import { type EpisodesOptions, type EpisodeTask, runEpisodes } from "./episodes.ts";

export const RolloutConfig = z.strictObject({
  worlds: z.array(z.string()).default([]).describe("Shipped worlds by name, or files of worlds"),
  episodes: z.int().min(1).default(128).describe("Of each world"),
  split: z.string().default("heldout").describe("train, heldout, or names=…,wordings=…,pairs=…"),
  temperature: z.number().min(0).default(1).describe("0 takes the likeliest token"),
  maxSteps: z.int().positive().default(12).describe("Most messages of the model in an episode"),
  maxTokens: z.int().positive().default(64).describe("Most tokens of one of them"),
  concurrency: z.int().positive().default(256).describe("Episodes under way at once"),
});
export type RolloutConfig = z.output<typeof RolloutConfig>;

/** What a task wants: a change of the world, that one is refused, or an answer. A model that locks onto a shortcut does
 *  well in one of them and badly in another, while the mean stands still (small-rl.md, points 3 and 4). */
export type Kind = "act" | "refuse" | "answer";

export interface Count {
  n: number;
  wins: number;
}

export interface Score extends Count {
  world: string;
  split: string;
  kinds: Partial<Record<Kind, Count>>;
  /** Episodes by how they ended. */
  ended: Partial<Record<Ended, number>>;
}

/** Of the task that was begun last. */
export function kindOf(env: Environment): Kind {
  if (!(env instanceof WorldEnvironment)) return "answer";
  const { type } = env.inside.task;
  // Where no call may be made, what is asked for cannot be done: to say so is to refuse.
  return type.says === "refused" || type.calls === 0 ? "refuse" : type.require.length ? "act" : "answer";
}

/** Episodes on the first seeds of `purpose`: the same tasks at every call. */
export async function rollOut(
  model: LanguageModel,
  config: RolloutConfig,
  { seed, purpose = "evaluation" }: { seed: number; purpose?: string },
  options: Pick<EpisodesOptions, "tokenizer" | "template" | "signal" | "onEpisode"> = {},
): Promise<{ scores: Score[]; trajectories: Trajectory[] }> {
  const { temperature, maxTokens, maxSteps, concurrency, episodes } = config;
  const split = splitOf(config.split);
  const tasks: EpisodeTask[] = config.worlds.flatMap((world) => {
    const make = opener(world, split);
    return Array.from({ length: episodes }, (_, i) => ({ env: make(), seed: taskSeed(seed, purpose, world, i) }));
  });
  const sampling = { temperature, maxTokens, seed };
  const trajectories = await runEpisodes(model, tasks, { ...options, maxSteps, concurrency, sampling });
  const scores = config.worlds.map((world, w): Score => {
    const score: Score = { world, split: config.split, n: 0, wins: 0, kinds: {}, ended: {} };
    for (let i = w * episodes; i < (w + 1) * episodes; i++) {
      const { reward, ended = "done" } = trajectories[i]!;
      const kind = (score.kinds[kindOf(tasks[i]!.env)] ??= { n: 0, wins: 0 });
      const won = (reward?.total ?? 0) >= 1 ? 1 : 0;
      for (const count of [score, kind]) {
        count.n++;
        count.wins += won;
      }
      score.ended[ended] = (score.ended[ended] ?? 0) + 1;
    }
    return score;
  });
  return { scores, trajectories };
}

/** Makes environments of one world, which is read and compiled once. */
function opener(name: string, split: ReturnType<typeof splitOf>): () => Environment {
  const first = openEnvironment(name, split);
  return first instanceof WorldEnvironment
    ? () => new WorldEnvironment(first.world, split)
    : () => openEnvironment(name, split);
}

/** An engine over weights that stay the caller's. Unenforced, because what is measured is the model. */
export async function withPlayer<T>(
  model: Model,
  tokenizer: Tokenizer,
  { template, concurrency }: { template: TemplateName; concurrency: number },
  use: (player: LanguageModel) => Promise<T>,
): Promise<T> {
  using engine = openEngine({ model, tokenizer, maxRunning: concurrency, tokenBudget: 2048 });
  return await use(engineModel(engine, { template, enforce: false }));
}

export const successOf = ({ wins, n }: Count): Interval => wilson(wins, n);
