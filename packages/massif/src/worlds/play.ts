/** Playing a world without a model: a player sees the conversation and says the next message. */
import {
  type AssistantMessage,
  type Message,
  nativeId,
  type ToolSpec,
  type Trajectory,
  trajectory,
} from "../chat/index.ts";
import type { Split } from "./draw.ts";
import type { Environment, Origin } from "./environment.ts";
import { type Splits, splits } from "./episode.ts";
import { diff } from "./state.ts";
import { rewardOf, type Verdict } from "./verdict.ts";
import type { WorldEnvironment } from "./world-environment.ts";

/** Gives the next message of one episode, from everything said so far. */
export type Turn = (messages: readonly Message[]) => AssistantMessage;

/** Someone who plays episodes of environments `E`. Oracles look inside; exploits need not. */
export interface Player<E extends Environment = WorldEnvironment> {
  name: string;
  /** Called after the reset. */
  start(env: E, tools: readonly ToolSpec[]): Turn;
}

/** What a message does: calls (ids are given by `play`) or words. */
export const say = (content: string): AssistantMessage => ({ role: "assistant", content }) as AssistantMessage;
export const use = (...calls: { name: string; args: object }[]): AssistantMessage =>
  ({
    role: "assistant",
    content: null,
    tool_calls: calls.map(({ name, args }) => ({
      type: "function",
      function: { name, arguments: JSON.stringify(args) },
    })),
  }) as AssistantMessage;

export interface Played {
  messages: Message[];
  tools: ToolSpec[];
  verdict: Verdict;
}

/** One episode, from reset to verdict. Calls get K2's ids in order. */
export async function play<E extends Environment>(env: E, seed: number, player: Player<E>): Promise<Played> {
  const { messages, tools } = await env.reset(seed);
  const turn = player.start(env, tools);
  let calls = 0;
  for (;;) {
    const said = turn(messages);
    const action: AssistantMessage = said.tool_calls
      ? { ...said, tool_calls: said.tool_calls.map((c) => ({ ...c, id: nativeId(c.function.name, calls++) })) }
      : said;
    const { observations, done } = await env.step(action);
    messages.push(action, ...observations);
    if (done) return { messages, tools, verdict: await env.score() };
  }
}

/** `train`, `heldout`, or `names=train,wordings=heldout,pairs=train`. */
export function showSplit(split: Splits): string {
  const { names, wordings, pairs } = split;
  return names === wordings && wordings === pairs ? names : `names=${names},wordings=${wordings},pairs=${pairs}`;
}

/** The reverse of `showSplit`; undefined for anything else. */
export function readSplit(text: string): Splits | undefined {
  const side = (word: string | undefined): word is Split => word === "train" || word === "heldout";
  if (side(text)) return splits(text);
  const parts = /^names=(\w+),wordings=(\w+),pairs=(\w+)$/.exec(text);
  const [, names, wordings, pairs] = parts ?? [];
  return side(names) && side(wordings) && side(pairs) ? { names, wordings, pairs } : undefined;
}

/** The version that a row names: the world's own, and the digest of its file. */
export const versionOf = ({ version, digest }: Pick<Origin, "version" | "digest">): string =>
  `${version}+${digest.slice(0, 16)}`;

/** The record of an episode that was just played to its end in `env`. */
export function record(env: WorldEnvironment, { messages, tools, verdict }: Played): Trajectory {
  const { seed, split, world, task } = env.origin();
  const { inside } = env;
  const held = Object.fromEntries(verdict.checks.map((c) => [c.name, c.ok]));
  return trajectory({
    messages,
    tools,
    task: {
      world,
      version: versionOf(env.origin()),
      seed,
      split: showSplit(split),
      goal: task,
      policies: env.world.rules.map((r) => r.id),
    },
    verification: {
      initialHash: env.stateHash(inside.task.initial),
      finalHash: env.stateHash(),
      diff: diff(inside.task.initial, inside.progress.state, env.world.logs).map(
        ({ entity, key, field, before, after }) => ({
          path: [entity, key, ...(field ? [field] : [])].join("/"),
          before,
          after,
        }),
      ),
      goals: { require: held.require ?? null, evidence: held.evidence ?? null, speech: held.speech ?? null },
      told: { tell: held.tell ?? null },
      unchanged: held.change ?? null,
      allowed: held.policy ?? null,
      replayed: true,
    },
    reward: rewardOf(verdict, versionOf(env.origin())),
  });
}
