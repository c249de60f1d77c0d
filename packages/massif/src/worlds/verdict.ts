/**
 * The verdict on an episode: required predicates hold, nothing changed outside the allowed paths, what had to be told
 * was told (and known from a source), the evidence was gathered, and no forbidden call was ever made, even if undone.
 */
import type { Trajectory } from "../chat/index.ts";
import { frameOf, type Task } from "./episode.ts";
import type { Frame, Made } from "./expression.ts";
import { says, saysAny, tokens } from "./speech.ts";
import { diff, type State } from "./state.ts";
import { allows } from "./task.ts";
import { leaves, type Value } from "./value.ts";

type Leaf = string | number | boolean;

/** One reason for or against, in the order of judging. */
export interface Check {
  name: "ended" | "calls" | "policy" | "change" | "require" | "evidence" | "tell" | "speech";
  ok: boolean;
  why?: string;
}

export interface Verdict {
  success: boolean;
  /** 1 or 0: partial credit is a diagnosis, never a reward. */
  reward: number;
  /** The share of checks that hold. */
  progress: number;
  checks: Check[];
}

/** The first reason why not; undefined for a success. */
export function whyNot({ checks }: Verdict): string | undefined {
  const failed = checks.find(({ ok }) => !ok);
  return failed && `${failed.name}: ${failed.why ?? "does not hold"}`;
}

/** A verdict in a record; `evaluator` is the version of what judged. */
export function rewardOf(verdict: Verdict, evaluator: string): NonNullable<Trajectory["reward"]> {
  const why = whyNot(verdict);
  return {
    total: verdict.reward,
    ...(why !== undefined && { why }),
    components: { outcome: { value: verdict.reward, weight: 1, kind: "verifiable", evaluator } },
  };
}

/** What an episode came to. */
export interface Outcome {
  state: State;
  made: readonly Made[];
  /** Values that tools have shown. */
  heard: readonly Leaf[];
  /** Facts the user has told. */
  told: readonly Leaf[];
  /** The last words to the user; null where the episode was cut. */
  said: string | null;
  /** Why calls were forbidden, in order. */
  forbidden: readonly string[];
  /** Calls that were no calls: unknown tools, wrong arguments. */
  invalid: number;
}

/** @returns the first change the task does not allow, as text, or undefined. */
export function strayChange(task: Task, state: State): string | undefined {
  if (state === task.initial) return undefined;
  const stray = diff(task.initial, state, task.world.logs).find((c) => !allows(task.type, task.allowed, c));
  return stray && `${stray.entity} ${stray.key}${stray.field ? `.${stray.field}` : ""} changed`;
}

/** Predicates and evidence: what a planner can reach by calls alone. */
export function reached(task: Task, frame: Frame): { require: boolean; evidence: boolean } {
  return {
    require: task.type.require.every((p) => p.run(frame) === true),
    evidence: task.type.evidence.every((p) => p.run(frame) === true),
  };
}

/** Values that must be told, each with whether it could be known from `sources`. */
export function toTell(
  task: Task,
  frame: Frame,
  sources: ReadonlySet<Leaf>,
): { value: Leaf; known: boolean; among: Leaf[] }[] {
  return task.type.tell.flatMap(({ value, among, of }) => {
    const from = of === undefined ? undefined : task.type.compute[of]?.from.flatMap((f) => [...leaves(f.run(frame))]);
    const others = among ? [...leaves(among.run(frame))] : [];
    return [...leaves(value.run(frame))].map((leaf) => ({
      value: leaf,
      known: sources.has(leaf) || (from?.every((v) => sources.has(v)) ?? false),
      among: others,
    }));
  });
}

export function judge(task: Task, outcome: Outcome, now: number): Verdict {
  const frame = frameOf(task, outcome.state, outcome.made, now);
  const { require, evidence } = reached(task, frame);
  const checks: Check[] = [];
  const check = (name: Check["name"], ok: boolean, why: string | undefined): void => {
    checks.push(ok || !why ? { name, ok } : { name, ok, why });
  };
  const { limits, faults } = task.world.file;
  check("ended", outcome.said !== null, "the episode was cut before an answer");
  const calls = outcome.made.filter((m) => m.ok && m.tool !== faults?.renew).length;
  const most = task.type.calls ?? Number.POSITIVE_INFINITY;
  const tooMany =
    outcome.invalid > limits.errors ? `${outcome.invalid} invalid calls` : `${calls} calls, ${most} at most`;
  check("calls", calls <= most && outcome.invalid <= limits.errors, tooMany);
  check("policy", !outcome.forbidden.length, outcome.forbidden[0]);
  const stray = strayChange(task, outcome.state);
  check("change", !stray, stray);
  check("require", require, "the end state is not what was asked for");
  check("evidence", evidence, "the evidence was not gathered");
  const untold = tellProblem(task, outcome, frame);
  check("tell", !untold, untold);
  const { says: wanted } = task.type;
  check("speech", !wanted || speaks(task, wanted, outcome.said ?? ""), `does not say '${wanted}'`);
  const held = checks.filter((c) => c.ok).length;
  const success = held === checks.length;
  return { success, reward: success ? 1 : 0, progress: held / checks.length, checks };
}

/** Whether a reply is of the kind of speech that the world calls `name`. */
function speaks(task: Task, name: string, said: string): boolean {
  const kind = task.world.file.speech[name];
  const words = tokens(said);
  return kind !== undefined && saysAny(words, kind.any) && !saysAny(words, kind.none);
}

function tellProblem(task: Task, outcome: Outcome, frame: Frame): string | undefined {
  const sources = new Set<Leaf>([...outcome.heard, ...outcome.told]);
  const facts = toTell(task, frame, sources);
  const words = tokens(outcome.said ?? "");
  const own = outcome.made.filter((m) => m.ok).flatMap((m) => [...leaves(m.args as Value)]);
  const grounded = new Set([...facts.map((f) => f.value), ...outcome.told, ...own].flatMap((v) => tokens(String(v))));
  for (const { value, known, among } of facts) {
    if (!says(words, String(value))) return `does not tell ${value}`;
    if (!known) return `tells ${value} without having looked`;
    const other = among.find(
      (a) => !facts.some((f) => f.value === a) && !outcome.told.includes(a) && says(words, String(a)),
    );
    if (other !== undefined) return `also says ${other}`;
  }
  // Numbers and ids that come from nowhere: a list of guesses must not pass for an answer.
  const stray = words.find((w) => /\d/.test(w) && !grounded.has(w));
  return stray && `says ${stray}, which nothing supports`;
}
