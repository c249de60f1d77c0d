/**
 * The planner: breadth first over what an honest agent could do, with arguments it could know (told by the user or seen
 * in a result). What it finds proves that a task can be solved, in how many steps, and whether all shortest ways lead to
 * one end state. It sees no faults, and never makes a call that breaks a rule or changes what must stay.
 */
import { frameOf, type Task } from "./episode.ts";
import type { Frame, Made } from "./expression.ts";
import { canonical, diff, rowOf, type State } from "./state.ts";
import { type Args, call, PAGE, type Tool } from "./tool.ts";
import { leaves, type Value } from "./value.ts";
import { reached, strayChange, toTell } from "./verdict.ts";
import { forbidden } from "./world-environment.ts";

type Leaf = string | number | boolean;

/** One thing to do: call a tool, ask for a hidden fact, or ask the user to act. Confirmations come with the call. */
export type Action = { call: string; args: Args } | { ask: string } | { act: string };

export interface Plan {
  actions: Action[];
  /** End states that the shortest ways reach; more than one is ambiguous, unless the task is open. */
  ends: number;
  /** Some choices were left out: that none is shorter is proven by `isMinimal`. */
  narrowed: boolean;
  visited: number;
}

export interface Unsolved {
  why: string;
  visited: number;
}

interface Node {
  state: State;
  made: readonly Made[];
  told: ReadonlySet<Leaf>;
  heard: ReadonlySet<Leaf>;
  asked: ReadonlySet<string>;
  action: Action | undefined;
  parent: Node | undefined;
  /** Canonical difference from the start, kept because only writes change it. */
  key: string;
}

export interface Bounds {
  nodes: number;
  depth: number;
}

const BOUNDS: Bounds = { nodes: 20_000, depth: 14 };
const COMBINATIONS = 2048;
/** Nodes of the search over all arguments, where the narrow one found nothing. */
const WIDE = 3000;

/** First among arguments that the user's words suggest; where those do not do, among all. */
export function plan(task: Task, bounds: Bounds = BOUNDS): Plan | Unsolved {
  const narrow = search(task, bounds, true);
  return "why" in narrow && narrow.narrowed
    ? search(task, { ...bounds, nodes: Math.min(WIDE, bounds.nodes) }, false)
    : narrow;
}

/** Whether no plan is shorter, over all arguments; undefined where the bounds do not suffice to tell. */
export function isMinimal(task: Task, found: Plan, bounds: Bounds = BOUNDS): boolean | undefined {
  if (!found.narrowed || found.actions.length <= 1) return true;
  const nodes = Math.min(WIDE, bounds.nodes);
  const shorter = search(task, { nodes, depth: found.actions.length - 1 }, false);
  if (!("why" in shorter)) return false;
  return shorter.visited <= nodes ? true : undefined;
}

function search(task: Task, bounds: Bounds, narrow: boolean): Plan | (Unsolved & { narrowed: boolean }) {
  const cut = { narrowed: false };
  const fail = (why: string) => ({ why, visited, narrowed: cut.narrowed });
  let layer: Node[] = [
    {
      state: task.initial,
      made: [],
      told: new Set(task.known),
      heard: new Set(),
      asked: new Set(),
      action: undefined,
      parent: undefined,
      key: "",
    },
  ];
  const seen = new Set<string>();
  let visited = 0;
  for (let depth = 0; depth <= bounds.depth; depth++) {
    const ends = layer.filter((node) => solved(task, node));
    const [first] = ends;
    if (first)
      return { actions: trace(first), ends: new Set(ends.map((n) => n.key)).size, visited, narrowed: cut.narrowed };
    const next: Node[] = [];
    for (const node of layer) {
      for (const child of children(task, node, narrow, cut)) {
        const id = identity(child);
        if (seen.has(id)) continue;
        seen.add(id);
        if (++visited > bounds.nodes) return fail(`no plan among the first ${bounds.nodes} nodes (depth ${depth + 1})`);
        next.push(child);
      }
    }
    if (!next.length) return fail(`no plan: after ${depth} steps nothing new can be learned or done`);
    layer = next;
  }
  return fail(`no plan of up to ${bounds.depth} steps`);
}

/** Nodes are one where state, calls made and facts told are, in whatever order they came about. */
function identity(node: Node): string {
  const calls = node.made.map((m) => `${m.tool}${JSON.stringify(m.args)}`).sort();
  return `${node.key}|${[...node.asked].sort()}|${[...new Set(calls)]}`;
}

function trace(node: Node): Action[] {
  const actions: Action[] = [];
  for (let at: Node | undefined = node; at?.action; at = at.parent) actions.push(at.action);
  return actions.reverse();
}

function solved(task: Task, node: Node): boolean {
  // A hidden fact that turns up elsewhere by chance is no knowledge of what the user wants.
  if (Object.keys(task.type.hidden).some((fact) => !node.asked.has(fact))) return false;
  const frame = frameOf(task, node.state, node.made, clock(task, node));
  const { require, evidence } = reached(task, frame);
  if (!require || !evidence || node.made.length > (task.type.calls ?? Number.POSITIVE_INFINITY)) return false;
  const sources = new Set([...node.told, ...node.heard]);
  return toTell(task, frame, sources).every((t) => t.known);
}

const clock = (task: Task, node: Node): number =>
  task.world.file.clock.start + node.made.length * task.world.file.clock.step;

function* children(task: Task, node: Node, narrow: boolean, cut: { narrowed: boolean }): Generator<Node> {
  const frame = frameOf(task, node.state, node.made, clock(task, node));
  for (const [fact, reveal] of Object.entries(task.type.hidden)) {
    if (node.asked.has(fact)) continue;
    const told = reveal.say[task.splits.wordings][0]?.values(frame).flatMap((v) => [...leaves(v)]) ?? [];
    yield {
      ...node,
      told: new Set([...node.told, ...told]),
      asked: new Set([...node.asked, fact]),
      action: { ask: fact },
      parent: node,
    };
  }
  for (const [name, act] of Object.entries(task.type.acts)) {
    const tool = task.world.userTools[act.tool];
    if (node.asked.has(name) || !tool) continue;
    const args = Object.fromEntries(Object.entries(act.args).map(([a, source]) => [a, source.run(frame)]));
    const child = after(task, node, frame, tool, args);
    if (child) yield { ...child, made: node.made, asked: new Set([...node.asked, name]), action: { act: name } };
  }
  for (const name of task.shown) {
    const tool = task.world.tools[name];
    if (!tool || name === task.world.file.faults?.renew) continue;
    for (const args of choices(tool, node, narrow, cut)) {
      const why = forbidden(task.world, tool, args, { ...frame, vars: {} }, "agrees");
      const child = why ? undefined : after(task, node, frame, tool, args);
      if (child) yield child;
    }
  }
}

/** The node after a call, unless it fails, changes what must stay, or brings nothing. */
function after(task: Task, node: Node, frame: Frame, tool: Tool, args: Args): Node | undefined {
  const check = (state: State) => task.world.check({ ...frame, state, vars: {} }, node.state);
  const { state, ok, result } = call(tool, args, { ...frame, vars: {} }, check);
  if (!ok) return undefined;
  const changed = state !== node.state;
  if (changed && strayChange(task, state)) return undefined;
  const heard = new Set(node.heard);
  for (const leaf of leaves(result)) if (typeof leaf !== "boolean") heard.add(leaf);
  // A search by a word that finds nothing is no evidence; a list that is empty may be.
  const empty =
    Array.isArray(result) &&
    !result.length &&
    Object.values(tool.params).some((p) => p.type.kind === "string" && !p.enum);
  if (!changed && heard.size === node.heard.size && (empty || !task.world.calledFor.has(tool.name))) return undefined;
  const key = changed ? canonical(diff(task.initial, state, task.world.logs)) : node.key;
  const made = [...node.made, { tool: tool.name, args, ok: true }];
  return { ...node, state, heard, made, key, action: { call: tool.name, args }, parent: node };
}

/**
 * All arguments that can be put together from what is known, up to a bound. `narrow` leaves out words the user never
 * said where a word is free or one of a set, and notes in `cut` that it did.
 */
function choices(tool: Tool, node: Node, narrow: boolean, cut: { narrowed: boolean }): Args[] {
  let all: Args[] = [{}];
  for (const [name, field] of Object.entries(tool.params)) {
    const type = field.type.kind === "maybe" ? field.type.of : field.type;
    // The number of a page is known from a page alone.
    const paging = tool.pages && name === PAGE;
    const known = paging ? [...node.heard] : [...new Set([...node.told, ...node.heard])];
    let values: Value[];
    if (field.enum) values = [...field.enum];
    else if (type.kind === "boolean") values = [true, false];
    else if (type.kind === "integer")
      values = known.filter((v) => typeof v === "number" && v >= field.min && v <= field.max);
    else if (type.kind === "row") values = known.filter((v) => rowOf(node.state, type.entity, v) !== undefined);
    else values = known.filter((v) => typeof v === "string");
    if (narrow && (field.enum || type.kind === "string")) {
      const said = values.filter((v) => node.told.has(v as Leaf));
      if (said.length && said.length < values.length) {
        values = said;
        cut.narrowed = true;
      }
    }
    if (field.type.kind === "maybe") values.unshift(null);
    all = all.flatMap((args) => values.map((value) => ({ ...args, [name]: value })));
    if (all.length > COMBINATIONS) {
      all = all.slice(0, COMBINATIONS);
      cut.narrowed = true;
    }
  }
  return all;
}
