/**
 * Mutants: gold trajectories made wrong in ways that cheap checks miss, each claiming success. Some are edits of the
 * record; others are played, so that every result in them is true and only the outcome is not.
 */
import { type AssistantMessage, type Message, type Trajectory, trajectory } from "../chat/index.ts";
import type { Random } from "../common/index.ts";
import { frameOf } from "./episode.ts";
import { play, record, say, use } from "./play.ts";
import type { State } from "./state.ts";
import { call, type Tool } from "./tool.ts";
import type { Value } from "./value.ts";
import type { WorldEnvironment } from "./world-environment.ts";

/** Gives a wrong version of a gold row, or undefined where the mutation has nothing to hold on to. */
export type Mutation = (gold: Trajectory, env: WorldEnvironment, random: Random) => Promise<Trajectory | undefined>;

type Acts = AssistantMessage[];

const acts = (row: Trajectory): Acts => row.messages.filter((m) => m.role === "assistant");
const callOf = (message: AssistantMessage) => message.tool_calls?.[0]?.function;
const argsOf = (message: AssistantMessage): Record<string, Value> =>
  JSON.parse(String(callOf(message)?.arguments ?? "{}"));
const isWrite =
  (env: WorldEnvironment) =>
  (m: AssistantMessage): boolean =>
    env.world.tools[callOf(m)?.name ?? ""]?.writes ?? false;

/** The record with other content, under an id of its own, all its claims kept. */
function edited(gold: Trajectory, messages: Message[]): Trajectory {
  const { schema: _, id: __, ...content } = structuredClone(gold);
  return trajectory({ ...content, messages });
}

/** Plays these messages instead; the record then claims what the gold one did, with the true final hash. */
async function played(gold: Trajectory, env: WorldEnvironment, said: Acts): Promise<Trajectory | undefined> {
  let i = 0;
  const result = await play(env, gold.task?.seed as number, {
    name: "mutant",
    start: () => () => said[i++] ?? say("Done."),
  });
  const { schema: _, id: __, ...content } = record(env, result);
  return trajectory({ ...content, ...(gold.reward && { reward: gold.reward }) });
}

/** An edit of one tool result or call, found by `pick`. */
const edit =
  (change: (messages: Message[], random: Random) => boolean): Mutation =>
  async (gold, _env, random) => {
    const messages = structuredClone(gold.messages);
    return change(messages, random) ? edited(gold, messages) : undefined;
  };

const withCalls = (messages: Message[]) =>
  messages.filter((m): m is AssistantMessage => m.role === "assistant" && m.tool_calls !== undefined);
const results = (messages: Message[]) => messages.filter((m) => m.role === "tool");

/** A call that is carried out in the last state of `env` and changes it. */
function anyWrite(
  env: WorldEnvironment,
  state: State,
  random: Random,
): { name: string; args: Record<string, Value>; state: State } | undefined {
  const { task } = env.inside;
  const tools = task.shown.map((n) => env.world.tools[n]).filter((t): t is Tool => t?.writes === true);
  for (let attempt = 0; attempt < 60 && tools.length; attempt++) {
    const tool = random.pick(tools);
    const args: Record<string, Value> = {};
    for (const [name, field] of Object.entries(tool.params)) {
      const type = field.type.kind === "maybe" ? field.type.of : field.type;
      const keys = type.kind === "row" ? Object.keys(state[type.entity] ?? {}) : [];
      if (field.enum) args[name] = random.pick(field.enum);
      else if (type.kind === "row") args[name] = keys.length ? random.pick(keys) : "none";
      else if (type.kind === "integer") args[name] = Math.max(1, field.min) + random.int(3);
      else args[name] = type.kind === "boolean" ? random.int(2) === 1 : "something";
    }
    const frame = { ...frameOf(task, state, [], 0), vars: {} };
    const check = (s: State) => env.world.check({ ...frame, state: s }, state);
    const answer = call(tool, args, frame, check);
    if (answer.ok && answer.state !== state) return { name: tool.name, args, state: answer.state };
  }
  return undefined;
}

export const mutations: Readonly<Record<string, Mutation>> = {
  "dropped write": async (gold, env) => {
    const all = acts(gold);
    const at = all.findLastIndex(isWrite(env));
    return at < 0 ? undefined : played(gold, env, all.toSpliced(at, 1));
  },
  "swapped ids": async (gold, env) => {
    const all = acts(gold);
    const at = all.findIndex(
      (m) => callOf(m) && Object.values(argsOf(m)).filter((v) => typeof v === "string").length > 1,
    );
    const message = all[at];
    if (!message) return undefined;
    const args = argsOf(message);
    const names = Object.keys(args).filter((n) => typeof args[n] === "string");
    const [a = "", b = ""] = names;
    return played(
      gold,
      env,
      all.with(at, use({ name: callOf(message)?.name ?? "", args: { ...args, [a]: args[b], [b]: args[a] } })),
    );
  },
  "swapped call ids": edit((messages) => {
    const [a, b] = results(messages);
    if (!a || !b) return false;
    [a.tool_call_id, b.tool_call_id] = [b.tool_call_id, a.tool_call_id];
    return true;
  }),
  "extra write": async (gold, env, random) => {
    await played(gold, env, acts(gold));
    const extra = anyWrite(env, env.inside.progress.state, random);
    if (!extra) return undefined;
    const mutant = await played(gold, env, acts(gold).toSpliced(-1, 0, use(extra)));
    // A fault may have kept it from being done; then nothing is wrong.
    return mutant?.verification?.finalHash === gold.verification?.finalHash ? undefined : mutant;
  },
  "forbidden call undone": async (gold, env, random) => {
    env.reset(gold.task?.seed as number);
    const { task } = env.inside;
    const start = env.stateHash();
    for (let attempt = 0; attempt < 20; attempt++) {
      const there = anyWrite(env, task.initial, random);
      if (!there) return undefined;
      const names = Object.keys(there.args).filter((n) => typeof there.args[n] === "string");
      const [a = "", b = ""] = names;
      const back = { name: there.name, args: { ...there.args, [a]: there.args[b] ?? "", [b]: there.args[a] ?? "" } };
      env.reset(task.seed);
      env.step(use(there, back));
      if (env.inside.progress.forbidden.length && env.stateHash() === start)
        return played(gold, env, [use(there, back), ...acts(gold)]);
    }
    return undefined;
  },
  "wrong number told": edit((messages) => {
    const last = messages.at(-1);
    if (last?.role !== "assistant" || typeof last.content !== "string" || !/\d/.test(last.content)) return false;
    last.content = last.content.replace(/\d+/, (n) => String(Number(n) + 1));
    return true;
  }),
  "wrong word told": async (gold, env) => {
    env.reset(gold.task?.seed as number);
    const { task } = env.inside;
    const value = task.type.tell[0]?.value.run(frameOf(task, task.initial));
    const last = acts(gold).at(-1)?.content;
    if (typeof value !== "string" || typeof last !== "string" || !last.includes(value)) return undefined;
    return played(gold, env, [...acts(gold).slice(0, -1), say(last.replaceAll(value, `${value}s`))]);
  },
  "skipped confirmation": async (gold, env) => {
    const all = acts(gold);
    const asks = all.findIndex((m) => !m.tool_calls && typeof m.content === "string" && /^Shall I/.test(m.content));
    return asks < 0 ? undefined : played(gold, env, all.toSpliced(asks, 1));
  },
  "invented tool": edit((messages, random) => {
    const calls = withCalls(messages);
    if (!calls.length) return false;
    for (const made of random.pick(calls).tool_calls ?? []) {
      const answer = messages.find((m) => m.role === "tool" && m.tool_call_id === made.id);
      made.id = made.id?.replace(made.function.name, "do_it_all");
      made.function.name = "do_it_all";
      if (answer?.role === "tool") [answer.tool_call_id, answer.name] = [made.id, "do_it_all"];
    }
    return true;
  }),
  "coerced argument type": edit((messages) => {
    for (const { tool_calls } of withCalls(messages))
      for (const { function: f } of tool_calls ?? []) {
        const before = String(f.arguments);
        f.arguments = before.replace(/:(\d+)/, ':"$1"');
        if (f.arguments !== before) return true;
      }
    return false;
  }),
  "unanswered call": edit((messages, random) => {
    const all = results(messages);
    if (!all.length) return false;
    messages.splice(messages.indexOf(random.pick(all)), 1);
    return true;
  }),
  "reordered results": edit((messages) => {
    const [a, b] = results(messages).filter((m, i, all) => i === 0 || m.content !== all[0]?.content);
    if (!a || !b) return false;
    [a.content, b.content] = [b.content, a.content];
    return true;
  }),
  "truncated result": edit((messages, random) => {
    const all = results(messages).filter((m) => typeof m.content === "string" && m.content.length > 2);
    if (!all.length) return false;
    const one = random.pick(all);
    one.content = String(one.content).slice(0, -2);
    return true;
  }),
  "faked success": async (gold, env) => {
    const all = acts(gold);
    const at = all.findLastIndex(isWrite(env));
    const message = all[at];
    if (!message) return undefined;
    const args = Object.fromEntries(
      Object.entries(argsOf(message)).map(([k, v]) => [k, typeof v === "string" ? "nobody" : v]),
    );
    const failed = await played(gold, env, all.with(at, use({ name: callOf(message)?.name ?? "", args })));
    if (!failed) return undefined;
    const messages = structuredClone(failed.messages);
    const answer = messages.findLast((m) => m.role === "tool" && String(m.content).includes('"error"'));
    if (!answer) return undefined;
    answer.content = '{"ok":true}';
    return edited(failed, messages);
  },
  "claimed without doing": async (gold, env) => {
    const all = acts(gold);
    const some = all.filter((m) => m.tool_calls);
    return some.length
      ? played(
          gold,
          env,
          all.filter((m) => !m.tool_calls),
        )
      : undefined;
  },
};
