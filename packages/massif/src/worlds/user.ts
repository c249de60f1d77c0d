/**
 * The simulated user: an automaton over the goal. It tells a hidden fact only when asked for it, acts with its own tools
 * when asked to, says yes only to what it wanted, and never contradicts itself. Wording follows from the seed.
 */
import { Random } from "../common/index.ts";
import { frameOf, type Task, worded } from "./episode.ts";
import { saysAny, tokens } from "./speech.ts";
import type { State } from "./state.ts";
import { interactive } from "./task.ts";
import { call } from "./tool.ts";
import { leaves, text, type Value } from "./value.ts";

/** What the user remembers. */
export interface UserState {
  revealed: readonly string[];
  acted: readonly string[];
  /** Words of the questions the user said yes to. */
  agreed: readonly string[];
  patience: number;
  /** Times spoken. */
  turn: number;
}

export interface Reply {
  /** Null: the conversation is over. */
  say: string | null;
  user: UserState;
  state: State;
  /** Facts newly told. */
  told: (string | number | boolean)[];
}

export const newUser = (task: Task): UserState => ({
  revealed: [],
  acted: [],
  agreed: [],
  patience: task.world.file.limits.patience,
  turn: 0,
});

const CONFIRM = ["confirm", "shall i", "should i", "may i", "do you want", "go ahead", "proceed"];
const YES = ["Yes, please.", "Yes.", "Yes, go ahead.", "Correct, do it."];
const NO = ["No, that is not what I asked for.", "No, I meant something else."];
const NOTHING = ["I have told you all I know.", "I have nothing to add."];

/** Whether anything but an answer can be said to this user. */
export const listens = (task: Task): boolean => interactive(task.type) || task.world.rules.some((r) => r.confirm);

export function hear(task: Task, user: UserState, said: string, state: State, now: number): Reply {
  const words = tokens(said);
  const random = Random.of(task.seed, "user", user.turn);
  const next: UserState = { ...user, turn: user.turn + 1 };
  const end: Reply = { say: null, user: next, state, told: [] };
  if (!listens(task)) return end;
  const lines: string[] = [];
  const told: Reply["told"] = [];
  const question = said.includes("?");
  const confirming = question && saysAny(words, CONFIRM);
  const frame = frameOf(task, state, [], now);
  let after = state;
  if (question) {
    for (const [fact, reveal] of Object.entries(task.type.hidden)) {
      // "Shall I change the address to …?" asks for a yes, not for the address again.
      if (!saysAny(words, reveal.asked) || (confirming && user.revealed.includes(fact))) continue;
      // Asked twice, the user tells it again in the same words.
      const line = worded(reveal.say, task.splits, Random.of(task.seed, "reveal", fact));
      lines.push(line.run(frame));
      told.push(...line.values(frame).flatMap((v) => [...leaves(v)]));
      if (!next.revealed.includes(fact)) next.revealed = [...next.revealed, fact];
    }
  }
  for (const [name, act] of Object.entries(task.type.acts)) {
    if (!saysAny(words, act.asked) || next.acted.includes(name)) continue;
    const tool = task.world.userTools[act.tool];
    if (!tool) continue;
    const args = Object.fromEntries(
      Object.entries(act.args).map(([a, source]) => [a, source.run({ ...frame, state: after })]),
    );
    const check = (s: State) => task.world.check({ ...frame, state: s }, after);
    const answer = call(tool, args, { ...frame, state: after, vars: {} }, check);
    if (!answer.ok) {
      lines.push(`It did not work: ${text((answer.result as { error: Value }).error)}.`);
      continue;
    }
    after = answer.state;
    next.acted = [...next.acted, name];
    lines.push(worded(act.say, task.splits, Random.of(task.seed, "act", name)).run({ ...frame, state: after }));
  }
  if (lines.length) return { say: lines.join(" "), user: next, state: after, told };
  if (!question) return end;
  if (confirming) {
    if (strange(task, words, next)) return { ...end, say: random.pick(NO) };
    next.agreed = [...next.agreed, ...words, "\n"];
    return { ...end, say: random.pick(YES) };
  }
  next.patience--;
  return next.patience < 0 ? end : { ...end, say: random.pick(NOTHING) };
}

/** Whether the question names a row that is no part of what this user wants. */
function strange(task: Task, words: readonly string[], user: UserState): boolean {
  const mine = new Set(Object.values(task.vars).flatMap((v) => [...leaves(v)].flatMap((l) => tokens(String(l)))));
  const hidden = Object.keys(task.type.hidden).filter((f) => !user.revealed.includes(f));
  if (hidden.length) return true;
  const ids = Object.values(task.initial).flatMap((table) => Object.keys(table).flatMap((k) => tokens(k)));
  return words.some((w) => /\d/.test(w) && ids.includes(w) && !mine.has(w));
}

/** Whether the user agreed to a question that named every one of these values. */
export function agreedTo(user: UserState, args: Record<string, Value>): boolean {
  const questions = user.agreed
    .join(" ")
    .split("\n")
    .map((q) => q.trim().split(" "));
  const named = Object.values(args).flatMap((v) => [...leaves(v)].map(String));
  return questions.some((q) => q[0] !== "" && named.every((n) => tokens(n).every((t) => q.includes(t))));
}
