/** Players that know the plan: the oracle, which reacts to faults as one should, and its sloppy relative. */
import { type Message, textOf } from "../chat/index.ts";
import { MassifError, Random } from "../common/index.ts";
import { frameOf, type Task } from "./episode.ts";
import { type Action, type Plan, plan, type Unsolved } from "./planner.ts";
import { type Player, say, type Turn, use } from "./play.ts";
import { PAGE, type Tool } from "./tool.ts";
import { agreedTo } from "./user.ts";
import { leaves, type Value } from "./value.ts";
import type { World } from "./world.ts";
import type { WorldEnvironment } from "./world-environment.ts";

export interface Script {
  actions: readonly Action[];
  answer: string;
  /** False: calls that need the user's yes are made without. */
  confirms: boolean;
}

/** The script that solves the task. @throws MassifError `world.unsolved` where the planner finds none. */
export function script(task: Task): Script {
  const found = planned(task);
  if ("why" in found)
    throw new MassifError("world.unsolved", {
      found: `task '${task.type.name}', seed ${task.seed}: ${found.why}`,
      fix: "massif world check tells more",
    });
  const answer = Random.of(task.seed, "answer").pick(task.type.answer);
  return { actions: found.actions, answer: answer.run(frameOf(task, task.initial)), confirms: true };
}

/** Plans of the latest tasks: an oracle and half of the exploits ask for the same one. */
const plans = new WeakMap<World, Map<string, Plan | Unsolved>>();

function planned(task: Task): Plan | Unsolved {
  const known = plans.get(task.world) ?? new Map<string, Plan | Unsolved>();
  plans.set(task.world, known);
  const key = JSON.stringify([task.seed, task.splits]);
  const found = known.get(key) ?? plan(task);
  if (known.size > 10_000) known.clear();
  known.set(key, found);
  return found;
}

export const oracle: Player = {
  name: "oracle",
  start: (env) => perform(env, script(env.inside.task)),
};

type Call = { call: string; args: Record<string, Value> };

/** Carries a script out, and reacts to faults: repeat, renew, look before repeating a write, go on with a cut page. */
export function perform(env: WorldEnvironment, { actions, answer, confirms }: Script): Turn {
  const { world } = env;
  const queue: Action[] = [...actions];
  /** What is being done now, ahead of the queue. */
  let current: Call | undefined;
  const reads: Call[] = [];
  const start = (action: Call) => {
    current = action;
    return use({ name: action.call, args: withoutNull(action.args) });
  };
  return (messages) => {
    if (current) {
      const again = react(env, current, messages, reads);
      if (again.length) queue.unshift(...again);
      else if (!world.tools[current.call]?.writes) reads.push(current);
      current = undefined;
    }
    const action = queue[0];
    if (!action) return say(answer);
    if ("ask" in action) {
      queue.shift();
      return say(ask(env, env.inside.task.type.hidden[action.ask]?.ask, action.ask));
    }
    if ("act" in action) {
      queue.shift();
      return say(ask(env, env.inside.task.type.acts[action.act]?.ask, action.act));
    }
    const { progress } = env.inside;
    const needs = world.rules.some((r) => r.confirm && Object.hasOwn(r.forbids, action.call));
    if (confirms && needs && !agreedTo(progress.user, action.args)) {
      const named = [...leaves(action.args)].join(", ");
      return say(`Shall I go ahead with ${action.call.replaceAll("_", " ")} (${named})?`);
    }
    queue.shift();
    return start(action);
  };
}

function ask(
  env: WorldEnvironment,
  wordings: { run(frame: ReturnType<typeof frameOf>): string }[] | undefined,
  key: string,
): string {
  const { task, progress } = env.inside;
  return Random.of(task.seed, "ask", key)
    .pick(wordings ?? [])
    .run(frameOf(task, progress.state, progress.made, progress.now));
}

/** What must be done because of how the last call went, before the script goes on. */
function react(env: WorldEnvironment, made: Call, messages: readonly Message[], reads: readonly Call[]): Call[] {
  const tool: Tool | undefined = env.world.tools[made.call];
  const last = messages.at(-1);
  const result = last?.role === "tool" ? (JSON.parse(textOf(last.content)) as Value) : null;
  if (!tool || result === null || typeof result !== "object" || Array.isArray(result)) return [];
  if (result.stale === true || result.error === "unavailable") return [made];
  const renew = env.world.file.faults?.renew;
  if (result.error === "permission_lost" && renew) return [{ call: renew, args: {} }, made];
  if (result.error === "timeout") {
    if (!tool.writes) return [made];
    // Whether a timed-out write was done can be seen only by looking again; the oracle looks, though it knows.
    const look = reads.slice(-1);
    return env.inside.progress.made.at(-1)?.ok ? look : [...look, made];
  }
  const { items, next } = result;
  if (tool.pages && Array.isArray(items) && typeof next === "number" && items.length < tool.pages.size)
    return [{ call: made.call, args: { ...made.args, [PAGE]: next } }];
  return [];
}

const withoutNull = (args: Record<string, Value>): object =>
  Object.fromEntries(Object.entries(args).filter(([, v]) => v !== null));

export type Slip = "skip" | "swap" | "amount" | "flip" | "nowrite" | "tell" | "unconfirmed";
const SLIPS: readonly Slip[] = ["skip", "swap", "amount", "flip", "nowrite", "tell", "unconfirmed"];

/**
 * An oracle that errs in a share of episodes, in one of the given ways, seeded by the episode. The same demonstrations
 * with `skip` alone are the "sloppy clerk" of notes/small-rl.md, whose habit reinforcement learning has to change.
 */
export function noisy(rate: number, slips: readonly Slip[] = SLIPS): Player {
  return {
    name: `noisy oracle ${rate}`,
    start: (env) => {
      const { task } = env.inside;
      const random = Random.of(task.seed, "noisy");
      const right = script(task);
      return perform(env, random.float() < rate ? err(env, right, random.pick(slips), random) : right);
    },
  };
}

function err(env: WorldEnvironment, right: Script, slip: Slip, random: Random): Script {
  const writes = (a: Action): boolean => "call" in a && (env.world.tools[a.call]?.writes ?? false);
  const at = right.actions.findIndex(writes);
  const change = (edit: (args: [string, Value][]) => [string, Value][]): Script => ({
    ...right,
    actions: right.actions.map((a, i) =>
      i === at && "call" in a ? { ...a, args: Object.fromEntries(edit(Object.entries(a.args))) } : a,
    ),
  });
  if (slip === "skip") {
    const reads = right.actions.filter((a) => !writes(a));
    const dropped = reads.length ? random.pick(reads) : undefined;
    return { ...right, actions: right.actions.filter((a) => a !== dropped) };
  }
  if (slip === "swap") {
    return change((args) => {
      const strings = args.filter(([, v]) => typeof v === "string");
      return args.map(([name, v]) => [
        name,
        typeof v === "string" ? (strings[strings.length - 1 - strings.findIndex(([n]) => n === name)]?.[1] ?? v) : v,
      ]);
    });
  }
  if (slip === "amount")
    return change((args) => args.map(([name, v]) => [name, typeof v === "number" ? v + 1 + random.int(3) : v]));
  if (slip === "nowrite") return { ...right, actions: right.actions.filter((a) => !writes(a)) };
  if (slip === "tell") return { ...right, answer: right.answer.replace(/\d+/, (n) => String(Number(n) + 1)) };
  if (slip === "unconfirmed") return { ...right, confirms: false };
  const other = Object.entries(env.world.file.speech).find(([name]) => name !== env.inside.task.type.says);
  return { ...right, actions: right.actions.filter((a) => !writes(a)), answer: sentence(other?.[1].any[0] ?? "No") };
}

/** "refused" → "Refused." */
export const sentence = (words: string): string => `${words.charAt(0).toUpperCase()}${words.slice(1)}.`;
