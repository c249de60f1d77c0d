/** What the row of a step says: of its groups, and of its update. */
import type { Kind } from "../agent/index.ts";
import type { UpdateReport } from "./learner.ts";
import { totalOf } from "./rewards.ts";
import type { Group } from "./rollouts.ts";
import { meanOf, passAtK, passHatK, shareOf } from "./statistics.ts";

/** Of groups of `n` answers; `rewards` has the components of every answer of all of them. */
export function measuresOf(groups: readonly Group[], rewards: readonly Record<string, number>[], n: number) {
  const answers = groups.flatMap((group) => group.answers);
  const wins = groups.map((group) => group.answers.reduce((sum, { outcome }) => sum + outcome, 0));
  const components = [...new Set(rewards.flatMap(Object.keys))];
  const sides = successByKind(groups);
  return {
    reward: meanOf(rewards.map(totalOf)),
    ...Object.fromEntries(components.map((name) => [`reward/${name}`, meanOf(rewards.map((r) => r[name] ?? 0))])),
    success: meanOf(answers.map(({ outcome }) => outcome)),
    ...Object.fromEntries(Object.entries(sides).map(([kind, success]) => [`success/${kind}`, success])),
    passAtK: meanOf(wins.map((c) => passAtK(c, n, n))),
    passHatK: meanOf(wins.map((c) => passHatK(c, n, n))),
    shortcut: shareOf(answers, ({ shortcut }) => shortcut),
    truncated: shareOf(answers, ({ truncated }) => truncated),
    length: meanOf(answers.map(({ length }) => length)),
    episodes: answers.length,
  };
}

export function successByKind(groups: readonly Group[]): Partial<Record<Kind, number>> {
  const kinds = [...new Set(groups.map(({ kind }) => kind))].sort();
  const of = (kind: Kind) => groups.filter((group) => group.kind === kind).flatMap(({ answers }) => answers);
  return Object.fromEntries(kinds.map((kind) => [kind, meanOf(of(kind).map(({ outcome }) => outcome))]));
}

/** Steps between rows with every head's logit and every expert's load. */
const DETAIL_EVERY = 5;

/** Side losses as `ptxLoss`, `criticLoss`; matrices now and then. */
export function flat(
  update: UpdateReport | undefined,
  step: number,
): Partial<Omit<UpdateReport, "sideLosses" | "matrices">> {
  if (!update) return {};
  const { sideLosses, matrices, ...rest } = update;
  const losses = Object.entries(sideLosses).map(([name, loss]) => [`${name}Loss`, loss]);
  return { ...rest, ...Object.fromEntries(losses), ...(step % DETAIL_EVERY === 0 && matrices) };
}
