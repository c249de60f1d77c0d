/** Faults: drawn with the task, struck at a set call, each with a reaction that still reaches the goal. */
import type { Random } from "../common/index.ts";
import type { FaultKind } from "./schema.ts";
import type { Answer, Tool } from "./tool.ts";
import type { Value } from "./value.ts";
import type { World } from "./world.ts";

/** Strikes at the first call from number `at` (from 0) that its kind can strike. */
export interface Fault {
  kind: FaultKind;
  at: number;
  /** For time-outs of a write: whether the write was done all the same. For stale reads: how far off the numbers are. */
  draw: number;
}

/** What is still to come, and which tool has lost its permission. */
export interface Weather {
  pending: readonly Fault[];
  lost: string | null;
}

export function drawFaults(world: World, random: Random): Fault[] {
  const { faults } = world.file;
  if (!faults || random.int(100) >= faults.chance) return [];
  const count = 1 + random.int(faults.most);
  return Array.from({ length: count }, () => ({
    kind: random.pick(faults.kinds),
    at: random.int(3),
    draw: 1 + random.int(4),
  })).sort((a, b) => a.at - b.at);
}

const strikes = (fault: Fault, tool: Tool, renew: string | undefined): boolean => {
  if (tool.name === renew) return false;
  if (fault.kind === "stale") return !tool.writes && !tool.pages;
  return fault.kind === "partial" || fault.kind === "duplicate" ? tool.pages !== undefined : true;
};

/** A call as faults see it. */
export interface Struck {
  tool: Tool;
  /** Calls made before it. */
  number: number;
  /** The first item of its page. */
  from: number;
  renew: string | undefined;
  before: Answer["state"];
}

/** One call under this weather. `carryOut` does it; a fault may keep it from being done, or spoil what is answered. */
export function strike(
  weather: Weather,
  { tool, number, from, renew, before }: Struck,
  carryOut: () => Answer,
): { answer: Answer; weather: Weather } {
  const refuse = (error: string): Answer => ({ state: before, ok: false, result: { error } });
  if (tool.name === renew && weather.lost !== null) return { answer: carryOut(), weather: { ...weather, lost: null } };
  if (weather.lost === tool.name) return { answer: refuse("permission_lost"), weather };
  const fault = weather.pending.find((f) => f.at <= number && strikes(f, tool, renew));
  if (!fault) return { answer: carryOut(), weather };
  const after: Weather = { ...weather, pending: weather.pending.filter((f) => f !== fault) };
  if (fault.kind === "transient") return { answer: refuse("unavailable"), weather: after };
  if (fault.kind === "permission") return { answer: refuse("permission_lost"), weather: { ...after, lost: tool.name } };
  if (fault.kind === "timeout" && (!tool.writes || fault.draw % 2))
    return { answer: refuse("timeout"), weather: after };
  const done = carryOut();
  // A call that fails by itself shows no fault; it waits for the next.
  if (!done.ok) return { answer: done, weather };
  if (fault.kind === "timeout") return { answer: { ...done, result: { error: "timeout" } }, weather: after };
  const { result } = done;
  if (fault.kind === "stale")
    return { answer: { ...done, ok: false, result: { stale: true, data: off(result, fault.draw) } }, weather: after };
  return { answer: { ...done, result: spoil(result, fault.kind, from) }, weather: after };
}

/** An older reading: every number is off. */
function off(value: Value, by: number): Value {
  if (typeof value === "number") return value + by;
  if (Array.isArray(value)) return value.map((v) => off(v, by));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, off(v, by)]));
}

/** A page cut after its first item (with where to go on), or its first item twice. */
function spoil(result: Value, kind: FaultKind, from: number): Value {
  const { items } = result as { items: Value[] };
  if (kind === "duplicate") return { ...(result as object), items: items.slice(0, 1).concat(items) };
  if (items.length < 2) return result;
  return { items: items.slice(0, 1), next: from + 1 };
}
