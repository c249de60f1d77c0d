/** The start of an episode: everything that follows from world, seed and split, before anybody has spoken. */
import { Random } from "../common/index.ts";
import { exhausted, type Split } from "./draw.ts";
import { apply } from "./effect.ts";
import type { Frame } from "./expression.ts";
import { drawFaults, type Fault } from "./faults.ts";
import type { State } from "./state.ts";
import type { TaskType, Wordings } from "./task.ts";
import { leaves, type Value } from "./value.ts";
import type { World } from "./world.ts";

/** Which side of each split an episode is drawn from: words of the banks, wordings of the user, held-out draws (pairs). */
export interface Splits {
  names: Split;
  wordings: Split;
  pairs: Split;
}

export const splits = (split: Split | Partial<Splits> = "train"): Splits =>
  typeof split === "string"
    ? { names: split, wordings: split, pairs: split }
    : { names: "train", wordings: "train", pairs: "train", ...split };

/** One task: a goal, its facts, and the state it starts from. */
export interface Task {
  world: World;
  type: TaskType;
  seed: number;
  splits: Splits;
  vars: Readonly<Record<string, Value>>;
  initial: State;
  opening: string;
  /** What the user tells at once. */
  known: readonly (string | number | boolean)[];
  /** Tools in the order they are shown. */
  shown: readonly string[];
  faults: readonly Fault[];
  /** The rows that `allow` names. */
  allowed: readonly (Value | undefined)[];
}

const ATTEMPTS = 200;

/** @throws MassifError `world.draw` where no state and facts satisfy the task, `world.broken` from a state that breaks an invariant. */
export function begin(world: World, seed: number, split: Split | Partial<Splits> = "train"): Task {
  const side = splits(split);
  const type = weighted(world.tasks, Random.of(seed, "task"));
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const task = draw(world, type, seed, side, attempt);
    if (task) return task;
  }
  throw exhausted(`task '${type.name}' of world '${world.name}' (seed ${seed}, ${ATTEMPTS} attempts)`);
}

function weighted(tasks: readonly TaskType[], random: Random): TaskType {
  let left = random.int(tasks.reduce((sum, t) => sum + t.weight, 0));
  for (const task of tasks) {
    left -= task.weight;
    if (left < 0) return task;
  }
  throw new RangeError("a world without tasks");
}

function draw(world: World, type: TaskType, seed: number, side: Splits, attempt: number): Task | undefined {
  const drawing = { random: Random.of(seed, "state", attempt), split: side.names, used: new Set<string>() };
  const tables = Object.fromEntries(Object.keys(world.entities).map((e) => [e, {}]));
  const empty: Frame = { state: tables, initial: tables, history: [], now: world.file.clock.start, seed, vars: {} };
  let frame: Frame = { ...world.populate(empty, drawing), vars: {} };
  for (const [name, source] of type.draws) {
    const value = source.run(frame, drawing);
    if (value === undefined) return undefined;
    frame.vars[name] = value;
  }
  const state = apply(type.given, frame);
  frame = { ...frame, state, initial: state };
  for (const [name, { value }] of Object.entries(type.compute)) frame.vars[name] = value.run(frame);
  if (type.where && type.where.run(frame) !== true) return undefined;
  // A task without held-out draws is the same on both sides.
  if (type.holdout && (type.holdout.run(frame) === true) !== (side.pairs === "heldout")) return undefined;
  if (world.check(frame)) return undefined;
  const words = worded(type.say, side, Random.of(seed, "opening"));
  const opening = words.run(frame);
  return {
    world,
    type,
    seed,
    splits: side,
    // Quantifiers have left their own names behind.
    vars: Object.fromEntries(
      [...type.draws.map(([name]) => name), ...Object.keys(type.compute)].map((n) => [n, frame.vars[n] ?? null]),
    ),
    initial: state,
    opening,
    known: words.values(frame).flatMap((v) => [...leaves(v)]),
    shown: shown(world, type, Random.of(seed, "tools")),
    faults: drawFaults(world, Random.of(seed, "faults")),
    allowed: type.allow.map((a) => ("row" in a ? a.row.run(frame) : undefined)),
  };
}

/** One of the wordings of the split. */
export const worded = (say: Wordings, side: Splits, random: Random) => random.pick(say[side.wordings]);

/** The frame in which the task's own expressions are evaluated. */
export const frameOf = (
  task: Task,
  state: State,
  history: Frame["history"] = [],
  now = task.world.file.clock.start,
): Frame => ({
  state,
  initial: task.initial,
  history,
  now,
  seed: task.seed,
  vars: { ...task.vars },
});

function shown(world: World, type: TaskType, random: Random): string[] {
  const all = Object.keys(world.tools);
  if (!world.file.shown) return all;
  const [least, most] = world.file.shown;
  const count = least + random.int(Math.max(0, most - least) + 1);
  const others = random.shuffle(all.filter((t) => !type.uses.includes(t) && !type.hides.includes(t)));
  return random.shuffle([...type.uses, ...others.slice(0, Math.max(0, count - type.uses.length))]);
}
