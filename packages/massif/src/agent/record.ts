/** The record of an episode that was just played in an environment. */
import { type Ended, type Message, type ToolSpec, type Trajectory, trajectory } from "../chat/index.ts";
import {
  type Environment,
  record,
  rewardOf,
  showSplit,
  type Verdict,
  versionOf,
  WorldEnvironment,
} from "../worlds/index.ts";

export interface Made {
  messages: Message[];
  tools: ToolSpec[];
  verdict: Verdict;
  ended: Ended;
  tokens?: Trajectory["tokens"];
}

type Generators = NonNullable<NonNullable<Trajectory["provenance"]>["generators"]>;

/** A world's record can be run again from its seed; any other names its task and its reward. */
export function recordOf(env: Environment, { tokens, ended, ...played }: Made, generators: Generators): Trajectory {
  const { schema: _, id: __, ...content } = env instanceof WorldEnvironment ? record(env, played) : plain(env, played);
  return trajectory({ ...content, provenance: { generators }, ended, ...(tokens && { tokens }) });
}

function plain(env: Environment, { messages, tools, verdict }: Omit<Made, "ended" | "tokens">): Trajectory {
  const origin = env.origin();
  const evaluator = versionOf(origin);
  return trajectory({
    messages,
    tools,
    task: {
      world: origin.world,
      version: evaluator,
      seed: origin.seed,
      split: showSplit(origin.split),
      goal: origin.task,
    },
    reward: rewardOf(verdict, evaluator),
  });
}
