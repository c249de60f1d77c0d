/** Held-out episodes, the same for every checkpoint: success with Wilson's interval, sides and kinds apart. */

import type { TemplateName, Trajectory } from "../chat/index.ts";
import { type Interval, Random, wilson } from "../common/index.ts";
import type { LanguageModel } from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Side } from "./guard.ts";
import { type Answer, type Arena, playOne } from "./rollouts.ts";
import { meanOf, shareOf } from "./statistics.ts";

export interface WorldScore {
  world: string;
  n: number;
  success: Interval;
  act: Interval;
  refuse: Interval;
  kinds: Record<string, Interval>;
  length: number;
  truncated: number;
  shortcut: number;
}

export interface Evaluation {
  worlds: WorldScore[];
  /** The first episodes of each world, to look at. */
  shown: Trajectory[];
}

/** Episodes to look at, of each world. */
const SHOWN = 3;

/** Plays `episodes` held-out tasks of each arena at temperature 1. The same seed gives the same tasks. */
export async function evaluate(
  model: LanguageModel,
  arenas: readonly Arena[],
  { episodes, ...options }: { episodes: number; seed: number; tokenizer: Tokenizer; template: TemplateName },
): Promise<Evaluation> {
  const evaluation: Evaluation = { worlds: [], shown: [] };
  for (const arena of arenas) {
    const played = await Promise.all(
      Array.from({ length: episodes }, (_, i) => {
        const random = Random.of(options.seed, "evaluation", arena.name, i);
        const task = random.uint32() >>> 1;
        return playOne(model, arena, task, { ...options, sampling: { temperature: 1, seed: random.uint32() } });
      }),
    );
    evaluation.worlds.push(scoreOf(arena.name, played));
    evaluation.shown.push(...played.slice(0, SHOWN).map(({ answer }) => answer.trajectory));
  }
  return evaluation;
}

function scoreOf(world: string, played: readonly { answer: Answer; side: Side }[]): WorldScore {
  const of = (some: typeof played): Interval =>
    wilson(
      some.reduce((wins, { answer }) => wins + answer.outcome, 0),
      some.length,
    );
  const answers = played.map(({ answer }) => answer);
  const kindOf = ({ answer }: (typeof played)[number]): string => String(answer.trajectory.task?.goal);
  const kinds = [...new Set(played.map(kindOf))].sort();
  return {
    world,
    n: played.length,
    success: of(played),
    act: of(played.filter(({ side }) => side === "act")),
    refuse: of(played.filter(({ side }) => side === "refuse")),
    kinds: Object.fromEntries(kinds.map((kind) => [kind, of(played.filter((one) => kindOf(one) === kind))])),
    length: meanOf(answers.map(({ length }) => length)),
    truncated: shareOf(answers, ({ truncated }) => truncated),
    shortcut: shareOf(answers, ({ shortcut }) => shortcut),
  };
}

/** Success over all worlds, each weighing the same. */
export const successOf = ({ worlds }: Evaluation): number => meanOf(worlds.map(({ success }) => success.value));
