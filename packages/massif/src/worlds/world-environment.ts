/** A world as an environment: tools over its state, its user, its faults, its verdict. Nothing here is asynchronous. */
import { type AssistantMessage, type Message, textOf } from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import type { Split } from "./draw.ts";
import type { Environment, Origin, Start, Step } from "./environment.ts";
import { begin, frameOf, type Splits, splits, type Task } from "./episode.ts";
import type { Frame, Made } from "./expression.ts";
import { type Fault, strike } from "./faults.ts";
import { digest, type State } from "./state.ts";
import { call, PAGE, readArgs, type Tool } from "./tool.ts";
import { agreedTo, hear, newUser, type UserState } from "./user.ts";
import { leaves, type Value } from "./value.ts";
import { judge, type Verdict } from "./verdict.ts";
import type { World } from "./world.ts";

/** All that changes in an episode; a plain value, replaced and never changed. */
export interface Progress {
  seed: number;
  state: State;
  made: readonly Made[];
  heard: readonly (string | number | boolean)[];
  told: readonly (string | number | boolean)[];
  forbidden: readonly string[];
  invalid: number;
  pending: readonly Fault[];
  lost: string | null;
  user: UserState;
  turns: number;
  now: number;
  said: string | null;
  done: boolean;
}

export class WorldEnvironment implements Environment<Progress> {
  readonly world: World;
  readonly #splits: Splits;
  #task: Task | undefined;
  #progress: Progress | undefined;

  constructor(world: World, split: Split | Partial<Splits> = "train") {
    this.world = world;
    this.#splits = splits(split);
  }

  reset(seed: number): Start {
    const task = begin(this.world, seed, this.#splits);
    this.#task = task;
    this.#progress = {
      seed,
      state: task.initial,
      made: [],
      heard: [],
      told: task.known,
      forbidden: [],
      invalid: 0,
      pending: task.faults,
      lost: null,
      user: newUser(task),
      turns: 0,
      now: this.world.file.clock.start,
      said: null,
      done: false,
    };
    return { messages: opening(task), tools: task.shown.flatMap((name) => this.world.tools[name]?.spec ?? []) };
  }

  /** The task and how far it is: for oracles, planners and the harness, never for the agent. */
  get inside(): { task: Task; progress: Progress } {
    if (!this.#task || !this.#progress) throw over("the environment was never reset");
    return { task: this.#task, progress: this.#progress };
  }

  step(action: AssistantMessage): Step {
    const { task, progress } = this.inside;
    if (progress.done) throw over("the episode is over");
    const calls = action.tool_calls ?? [];
    let next: Progress = { ...progress, turns: progress.turns + 1 };
    const observations: Message[] = [];
    for (const { id, function: f } of calls) {
      const { result, after } = this.#call(task, next, f.name, f.arguments);
      next = after;
      observations.push({ role: "tool", tool_call_id: id, name: f.name, content: JSON.stringify(result) });
    }
    if (!calls.length) {
      const said = textOf(action.content);
      const reply = hear(task, next.user, said, next.state, next.now);
      next = { ...next, user: reply.user, state: reply.state, told: [...next.told, ...reply.told] };
      if (reply.say === null) next = { ...next, said, done: true };
      else observations.push({ role: "user", content: reply.say });
    }
    const { turns, errors } = this.world.file.limits;
    if (next.turns >= turns || next.invalid > errors) next = { ...next, done: true };
    this.#progress = next;
    return { observations, done: next.done };
  }

  #call(
    task: Task,
    at: Progress,
    name: string,
    source: string | Record<string, unknown>,
  ): { result: Value; after: Progress } {
    const invalid = (error: string, message?: string): { result: Value; after: Progress } => ({
      result: message === undefined ? { error } : { error, message },
      after: { ...at, invalid: at.invalid + 1 },
    });
    const tool = task.shown.includes(name) ? this.world.tools[name] : undefined;
    if (!tool) return invalid("unknown_tool");
    let given: unknown = source;
    if (typeof source === "string") {
      try {
        given = JSON.parse(source);
      } catch {
        return invalid("invalid_arguments", "arguments must be JSON");
      }
    }
    const read = readArgs(tool, given);
    if ("why" in read) return invalid("invalid_arguments", read.why);
    const { args } = read;
    const frame: Frame = { ...frameOf(task, at.state, at.made, at.now), vars: { ...args } };
    const why = forbidden(task.world, tool, args, frame, at.user);
    const check = (state: State) => this.world.check({ ...frame, state, vars: {} }, at.state);
    const struck = {
      tool,
      number: at.made.length,
      from: Number((tool.pages && args[PAGE]) ?? 0),
      renew: this.world.file.faults?.renew,
      before: at.state,
    };
    const { answer, weather } = strike(at, struck, () => call(tool, args, frame, check));
    // Old readings are not knowledge, and errors show nothing.
    const shown = answer.ok ? [...leaves(answer.result)] : [];
    return {
      result: answer.result,
      after: {
        ...at,
        ...weather,
        state: answer.state,
        made: [...at.made, { tool: tool.name, args, ok: answer.ok }],
        heard: shown.length ? [...new Set([...at.heard, ...shown])] : at.heard,
        forbidden: why ? [...at.forbidden, why] : at.forbidden,
        now: at.now + this.world.file.clock.step,
      },
    };
  }

  score(): Verdict {
    const { task, progress } = this.inside;
    return judge(task, progress, progress.now);
  }

  snapshot(): Progress {
    return structuredClone(this.inside.progress);
  }

  restore(snapshot: Progress): void {
    if (this.#task?.seed !== snapshot.seed) this.#task = begin(this.world, snapshot.seed, this.#splits);
    this.#progress = structuredClone(snapshot);
  }

  hash(): string {
    const { task, progress } = this.inside;
    return digest([this.world.digest, task.splits, { ...progress, state: this.#counted(progress.state) }]);
  }

  /** SHA-256 of the state alone, logs left out. */
  stateHash(state = this.inside.progress.state): string {
    return digest(this.#counted(state));
  }

  #counted(state: State): State {
    return Object.fromEntries(Object.entries(state).filter(([entity]) => !this.world.logs.has(entity)));
  }

  origin(): Origin {
    const { task } = this.inside;
    const { name, version, digest } = this.world;
    return { world: name, version, digest, seed: task.seed, split: task.splits, task: task.type.name };
  }
}

/** Why a call breaks a rule, or undefined. */
export function forbidden(
  world: World,
  tool: Tool,
  args: Record<string, Value>,
  frame: Frame,
  user: UserState | "agrees",
): string | undefined {
  for (const rule of world.rules) {
    if (!Object.hasOwn(rule.forbids, tool.name)) continue;
    if (rule.forbids[tool.name]?.run({ ...frame, vars: { ...args } }) === true) return `${rule.id}: ${rule.say}`;
    if (rule.confirm && user !== "agrees" && !agreedTo(user, args)) return `${rule.id}: ${rule.say}`;
  }
  return undefined;
}

function opening(task: Task): Message[] {
  const { system, rules } = task.world.file;
  return [
    { role: "system", content: [system, ...rules.map((r) => r.say)].join(" ") },
    { role: "user", content: task.opening },
  ];
}

const over = (found: string): MassifError =>
  new MassifError("environment.done", {
    found,
    expected: "step() between reset() and the end",
    fix: "call reset(seed)",
  });
