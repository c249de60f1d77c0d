/** Many episodes at once: enough of them to keep an engine's batch full. */
import type { Trajectory } from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import type { LanguageModel, Sampling } from "../llm/index.ts";
import type { Environment } from "../worlds/index.ts";
import { type EpisodeEvent, type EpisodeOptions, runEpisode } from "./episode.ts";

export interface EpisodeTask {
  /** Its own: no other task may play in it. */
  env: Environment;
  seed: number;
  /** Over the options' sampling: members of a group have one task and different seeds of sampling. */
  sampling?: Sampling;
}

export interface EpisodesOptions extends Omit<EpisodeOptions, "onEvent"> {
  /** Episodes under way at once. Default 64. */
  concurrency?: number;
  onEvent?: (event: EpisodeEvent, index: number) => void;
  /** As each ends, in any order. */
  onEpisode?: (trajectory: Trajectory, index: number) => void;
}

/** The episodes of all tasks, in their order. The first error ends the others and is thrown. */
export async function runEpisodes(
  model: LanguageModel,
  tasks: readonly EpisodeTask[],
  { concurrency = 64, onEvent, onEpisode, ...options }: EpisodesOptions = {},
): Promise<Trajectory[]> {
  if (new Set(tasks.map(({ env }) => env)).size < tasks.length)
    throw new MassifError("agent.environment", {
      found: "two tasks that share one environment",
      expected: "an environment for each: they play at the same time",
    });
  const failed = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, failed.signal]) : failed.signal;
  const done: Trajectory[] = new Array(tasks.length);
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < tasks.length && !signal.aborted) {
      const index = next++;
      const { env, seed, sampling } = tasks[index]!;
      const episode = await runEpisode(model, env, seed, {
        ...options,
        sampling: { ...options.sampling, ...sampling },
        signal,
        ...(onEvent && { onEvent: (event) => onEvent(event, index) }),
      });
      done[index] = episode;
      onEpisode?.(episode, index);
    }
  };
  const first: { error?: unknown } = {};
  const workers = Array.from({ length: Math.min(concurrency, tasks.length) }, async () => {
    try {
      await work();
    } catch (error) {
      if (!failed.signal.aborted) first.error = error;
      failed.abort(error);
    }
  });
  await Promise.all(workers);
  if (failed.signal.aborted) throw first.error;
  options.signal?.throwIfAborted();
  return done;
}
