/** Re-running trajectories: from the seed, every message must come again, and the verdict must be a success. */
import { isDeepStrictEqual } from "node:util";
import { type Message, nativeId, type Trajectory, TrajectorySchema, trajectoryId } from "../chat/index.ts";
import { readSplit, versionOf } from "./play.ts";
import { whyNot } from "./verdict.ts";
import type { World } from "./world.ts";
import { WorldEnvironment } from "./world-environment.ts";

/** Where a row failed, in the order the gates are tried. */
export type Gate = "row" | "world" | "start" | "structure" | "replay" | "outcome" | "record";

export type Replayed = { accepted: true } | { accepted: false; gate: Gate; why: string };

const no = (gate: Gate, why: string): Replayed => ({ accepted: false, gate, why });

/** Replays rows against worlds found by name. One environment a world and split is kept and reset. */
export class Replayer {
  readonly #resolve: (name: string) => World | undefined;
  readonly #environments = new Map<string, WorldEnvironment>();

  constructor(resolve: (name: string) => World | undefined) {
    this.#resolve = resolve;
  }

  /** Accepted, or the first reason not. Never throws for what is in the row. */
  verify(source: unknown): Replayed {
    const parsed = TrajectorySchema.safeParse(source);
    if (!parsed.success) {
      const [issue] = parsed.error.issues;
      return no("row", `${issue?.path.join(".")}: ${issue?.message}`);
    }
    const row = parsed.data;
    if (row.id !== trajectoryId(row)) return no("row", "its id is not the hash of its content");
    const { task } = row;
    if (!task) return no("world", "it names no task, so it cannot be run again");
    const split = readSplit(task.split ?? "train");
    if (!split) return no("world", `no split '${task.split}'`);
    if (typeof task.seed !== "number" || !Number.isSafeInteger(task.seed))
      return no("world", "its seed is not an integer");
    const key = `${task.world} ${task.split}`;
    let env = this.#environments.get(key);
    if (!env) {
      const world = this.#resolve(task.world);
      if (!world) return no("world", `no world '${task.world}' here`);
      env = new WorldEnvironment(world, split);
      this.#environments.set(key, env);
    }
    if (task.version !== versionOf(env.world))
      return no("world", `made in version ${task.version} of ${task.world}, here is ${versionOf(env.world)}`);
    return replay(row, env, task.seed);
  }
}

function replay(row: Trajectory, env: WorldEnvironment, seed: number): Replayed {
  const { messages, tools } = env.reset(seed);
  const initialHash = row.verification && env.stateHash();
  const start = env.inside.progress.state;
  if (!sameJson(tools, row.tools)) return no("start", "the tools shown are not those of the seed");
  for (const [i, message] of messages.entries())
    if (!sameMessage(message, row.messages[i])) return no("start", `message ${i} is not that of the seed`);
  let at = messages.length;
  let calls = 0;
  let done = false;
  while (at < row.messages.length) {
    const action = row.messages[at];
    if (action?.role !== "assistant")
      return no("structure", `message ${at} should be the assistant's, is ${action?.role}`);
    if (done) return no("structure", `message ${at} comes after the end`);
    for (const { id, function: f } of action.tool_calls ?? []) {
      const wanted = nativeId(f.name, calls++);
      if (id !== wanted) return no("structure", `message ${at} calls with id '${id}', expected '${wanted}'`);
      if (typeof f.arguments !== "string")
        return no("structure", `message ${at} holds arguments that are no JSON text`);
    }
    const step = env.step(action);
    done = step.done;
    for (const observation of step.observations) {
      at++;
      const found = row.messages[at];
      if (!found)
        return no(
          "structure",
          `message ${at} is missing: ${observation.role === "tool" ? "a call went unanswered" : "the user spoke"}`,
        );
      if (!sameMessage(observation, found)) return no("replay", `message ${at} is not what came of it`);
    }
    at++;
  }
  if (!done) return no("structure", "it stops before the end");
  const verdict = env.score();
  const why = whyNot(verdict);
  if (why !== undefined) return no("outcome", why);
  if (row.reward && row.reward.total !== verdict.reward)
    return no("record", `reward ${row.reward.total} recorded, ${verdict.reward} earned`);
  if (row.verification?.initialHash && row.verification.initialHash !== initialHash)
    return no("record", "another initial hash");
  if (
    row.verification &&
    row.verification.finalHash !== (env.inside.progress.state === start ? initialHash : env.stateHash())
  )
    return no("record", "another final hash");
  return { accepted: true };
}

/** Equal in what is said and to whom; keys that are undefined count as absent. */
function sameMessage(a: Message, b: Message | undefined): boolean {
  if (!b || a.role !== b.role || a.content !== b.content || a.name !== b.name) return false;
  return a.role !== "tool" || (b.role === "tool" && a.tool_call_id === b.tool_call_id);
}

/** Equal as JSON, key order aside. */
const sameJson = (a: unknown, b: unknown): boolean => isDeepStrictEqual(a, b);
