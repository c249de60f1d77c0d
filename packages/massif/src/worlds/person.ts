/**
 * A world whose user is a person. The world is the same: its tools, faults, rules and verdict; only what the simulated user
 * would decide (what to say, when to agree, when it is over) is the person's. What counts as told is what they wrote.
 */
import { type AssistantMessage, type Message, textOf } from "../chat/index.ts";
import { MassifError, Random } from "../common/index.ts";
import type { Split } from "./draw.ts";
import type { Environment, Origin, Start, Step } from "./environment.ts";
import { frameOf, type Splits, type Task, worded } from "./episode.ts";
import { says, tokens } from "./speech.ts";
import { call } from "./tool.ts";
import { leaves, text } from "./value.ts";
import type { Verdict } from "./verdict.ts";
import type { World } from "./world.ts";
import { type Progress, WorldEnvironment } from "./world-environment.ts";

/** What a user of the world knows, and no more: nothing of what tools would show, nor of the verdict. */
export interface Brief {
  task: string;
  /** What they want, in the words that the simulated user would begin with. */
  goal: string;
  /** What they know besides, and tell when they are asked. */
  facts: string[];
  /** What they can do themselves when they are asked to. */
  acts: string[];
}

/** The person, as far as the world hears of them. */
export interface Person {
  /** The first words. */
  open(brief: Brief): Promise<string>;
  /** What they say to a message; null ends the conversation. */
  answer(said: string): Promise<string | null>;
}

/** Says yes, first of all. */
const YES = /^\W*(yes|yeah|yep|ok|okay|sure|correct|right|agreed|confirmed?|please do|go ahead|do (it|so|that))\b/i;

export class PersonEnvironment implements Environment<Progress> {
  readonly #inner: WorldEnvironment;
  readonly #person: Person;

  constructor(world: World, person: Person, split: Split | Partial<Splits> = "train") {
    this.#inner = new WorldEnvironment(world, split);
    this.#person = person;
  }

  async reset(seed: number): Promise<Start> {
    const { messages, tools } = this.#inner.reset(seed);
    const { task, progress } = this.#inner.inside;
    const said = await this.#person.open(briefOf(task));
    this.#inner.restore({ ...progress, told: factsIn(task, said) });
    const opened = messages.map(
      (message): Message => (message.role === "user" ? { ...message, content: said } : message),
    );
    return { messages: opened, tools };
  }

  async step(action: AssistantMessage): Promise<Step> {
    const { task, progress } = this.#inner.inside;
    if (progress.done || action.tool_calls?.length) return this.#inner.step(action);
    const said = textOf(action.content);
    const reply = await this.#person.answer(said);
    // What they did themselves meanwhile is part of it.
    const now = { ...this.#inner.inside.progress, turns: progress.turns + 1 };
    if (reply === null) {
      this.#inner.restore({ ...now, said, done: true });
      return { observations: [], done: true };
    }
    const agreed =
      said.includes("?") && YES.test(reply) ? [...now.user.agreed, ...tokens(said), "\n"] : now.user.agreed;
    const done = now.turns >= task.world.file.limits.turns;
    this.#inner.restore({
      ...now,
      ...{ told: [...now.told, ...factsIn(task, reply)], user: { ...now.user, agreed, turn: now.user.turn + 1 }, done },
    });
    return { observations: [{ role: "user", content: reply }], done };
  }

  /** Does one of the brief's acts in the world. Returns what the user would say of it. Throws `environment.act`. */
  act(index: number): string {
    const { task, progress } = this.#inner.inside;
    const [name, act] = Object.entries(task.type.acts)[index] ?? [];
    const tool = act && task.world.userTools[act.tool];
    if (!name || !tool || progress.done || progress.user.acted.includes(name))
      throw new MassifError("environment.act", { found: `act ${index}, which is done or none of this task's` });
    const frame = frameOf(task, progress.state, [], progress.now);
    const args = Object.fromEntries(Object.entries(act.args).map(([arg, source]) => [arg, source.run(frame)]));
    const check = (state: Progress["state"]) => task.world.check({ ...frame, state }, progress.state);
    const answer = call(tool, args, { ...frame, vars: {} }, check);
    if (!answer.ok) return `It did not work: ${text((answer.result as { error: string }).error)}.`;
    const user = { ...progress.user, acted: [...progress.user.acted, name] };
    this.#inner.restore({ ...progress, state: answer.state, user });
    return worded(act.say, task.splits, Random.of(task.seed, "act", name)).run({ ...frame, state: answer.state });
  }

  score(): Verdict {
    return this.#inner.score();
  }
  snapshot(): Progress {
    return this.#inner.snapshot();
  }
  restore(snapshot: Progress): void {
    this.#inner.restore(snapshot);
  }
  hash(): string {
    return this.#inner.hash();
  }
  origin(): Origin {
    return this.#inner.origin();
  }
}

function briefOf(task: Task): Brief {
  const frame = frameOf(task, task.initial);
  const line = (say: Parameters<typeof worded>[0], ...of: string[]) =>
    worded(say, task.splits, Random.of(task.seed, ...of)).run(frame);
  return {
    task: task.type.name,
    goal: task.opening,
    facts: Object.entries(task.type.hidden).map(([fact, { say }]) => line(say, "reveal", fact)),
    acts: Object.entries(task.type.acts).map(
      ([name, { tool }]) => task.world.userTools[tool]?.spec.function?.description ?? name,
    ),
  };
}

/** Facts of the task that a text names, and whatever else in it has digits: an assistant may repeat what it was told. */
function factsIn(task: Task, said: string): (string | number | boolean)[] {
  const words = tokens(said);
  const facts = [...new Set(Object.values(task.vars).flatMap((value) => [...leaves(value)]))];
  return [...facts.filter((fact) => says(words, String(fact))), ...words.filter((word) => /\d/.test(word))];
}
