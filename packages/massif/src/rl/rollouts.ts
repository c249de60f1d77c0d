/**
 * Groups of K answers to each task, by the one agent loop over the engine in this process. Partial rollouts (K1.5,
 * arXiv 2501.12599 §2.6.2): when an iteration's tokens are spent, no message is begun any more; episodes under way wait
 * and go on in the next iteration, under its weights. Their turns say by which weights they were written.
 */
import { type EpisodeEvent, type Kind, kindOf, runEpisode } from "../agent/index.ts";
import type { TemplateName, Trajectory } from "../chat/index.ts";
import { Random } from "../common/index.ts";
import type { ChatRequest, LanguageModel, ModelEvent } from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import {
  openEnvironment,
  openWorld,
  quizzes,
  type SingleTurn,
  type Split,
  type World,
  WorldEnvironment,
} from "../worlds/index.ts";
import type { DrawnTask, TaskSource } from "./curriculum.ts";

type Playable = WorldEnvironment | SingleTurn;

/** A world that tasks come from. */
export interface Arena extends TaskSource {
  /** Most tokens that the model writes in an episode. */
  maxTokens: number;
  open(): Playable;
}

/** Throws what opening a world throws. */
export function openArena(
  { world: name, weight, maxTokens }: { world: string; weight: number; maxTokens: number },
  split: Split,
): Arena {
  const world: World | undefined = quizzes.some((q) => q.name === name) ? undefined : openWorld(name);
  const open = (): Playable => (world ? new WorldEnvironment(world, split) : openEnvironment(name, split));
  const env = open();
  const typeOf = (seed: number): string => {
    env.reset(seed);
    return env.origin().task;
  };
  return { name: world?.name ?? name, weight, maxTokens, open, typeOf };
}

export interface Answer {
  trajectory: Trajectory;
  /** 1 or 0, by the verifier. */
  outcome: number;
  /** Tokens that the model wrote. */
  length: number;
  /** Cut: by its budget of tokens, or by the model's context. */
  truncated: boolean;
  /** Words to the user without the evidence for them, or a call that was forbidden. */
  shortcut: boolean;
  /** Of each token that the model wrote, where its engine tells them: of each layer the experts that it came from. */
  experts: (number[][] | undefined)[];
  /** By a critic that is trusted: share of comparisons won, less ½. */
  rank?: number;
}

export interface Group {
  task: DrawnTask;
  kind: Kind;
  answers: Answer[];
}

export interface RolloutOptions {
  tokenizer: Tokenizer;
  template: TemplateName;
  groupSize: number;
  seed: number;
}

/** Lets messages begin while it is open. */
class Gate implements LanguageModel {
  readonly #model: LanguageModel;
  #open = true;
  #waiting: (() => void)[] = [];
  /** Tokens written since it was opened. */
  spent = 0;
  most = Number.POSITIVE_INFINITY;
  /** Called when a message waits. */
  paused: () => void = () => {};

  constructor(model: LanguageModel) {
    this.#model = model;
  }

  get name(): string {
    return this.#model.name;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  open(tokens: number): void {
    this.#open = true;
    this.spent = 0;
    this.most = tokens;
    for (const go of this.#waiting.splice(0)) go();
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    if (!this.#open)
      await new Promise<void>((go) => {
        this.#waiting.push(go);
        this.paused();
      });
    for await (const event of this.#model.stream(request)) {
      if (event.type === "tokens") this.spent += event.tokens.length;
      yield event;
    }
    if (this.spent >= this.most) this.#open = false;
  }
}

interface Pending {
  group: Group;
  left: number;
  /** Among all groups ever begun. */
  number: number;
}

export class Rollouts {
  readonly #arenas: readonly Arena[];
  readonly #options: RolloutOptions;
  readonly #gate: Gate;
  readonly #pending = new Set<Pending>();
  #finished: Pending[] = [];
  #begun = 0;
  #under = 0;
  #failed: { error: unknown } | undefined;
  #settled: () => void = () => {};

  constructor(model: LanguageModel, arenas: readonly Arena[], options: RolloutOptions) {
    this.#gate = new Gate(model);
    this.#arenas = arenas;
    this.#options = options;
  }

  /** Groups begun that wait for the next iteration. */
  get pending(): number {
    return this.#pending.size;
  }

  /** Tokens written in the last iteration. */
  get tokens(): number {
    return this.#gate.spent;
  }

  /** Begins the tasks, goes on with what waits, and gives the groups that are finished: all of them, or those of the first
   *  `tokens` tokens. `iteration` names the samples. Throws what an episode throws. */
  async collect(
    tasks: readonly DrawnTask[],
    { iteration, temperature, tokens }: { iteration: number; temperature: number; tokens: number | null },
  ): Promise<Group[]> {
    const gate = this.#gate;
    gate.open(tokens ?? Number.POSITIVE_INFINITY);
    for (const [g, task] of tasks.entries()) this.#begin(task, iteration, g, temperature);
    await new Promise<void>((resolve) => {
      this.#settled = () => {
        if (this.#failed || this.#under === gate.waiting) resolve();
      };
      gate.paused = this.#settled;
      this.#settled();
    });
    if (this.#failed) throw this.#failed.error;
    // In the order of their tasks, whichever ended first.
    return this.#finished
      .splice(0)
      .sort((a, b) => a.number - b.number)
      .map(({ group }) => group);
  }

  #begin(task: DrawnTask, iteration: number, g: number, temperature: number): void {
    const { groupSize, seed: runSeed } = this.#options;
    const arena = this.#arenas[task.source]!;
    const group: Group = { task, kind: "act", answers: new Array(groupSize) };
    const pending: Pending = { group, left: groupSize, number: this.#begun++ };
    this.#pending.add(pending);
    for (let k = 0; k < groupSize; k++) {
      const seed = Random.of(runSeed, "sample", iteration, g, k).uint32();
      this.#under++;
      playOne(this.#gate, arena, task.seed, { ...this.#options, sampling: { temperature, seed } })
        .then(
          ({ answer, kind }) => {
            pending.group.kind = kind;
            pending.group.answers[k] = answer;
            if (--pending.left) return;
            this.#pending.delete(pending);
            this.#finished.push(pending);
          },
          (error: unknown) => {
            this.#failed ??= { error };
          },
        )
        .finally(() => {
          this.#under--;
          this.#settled();
        });
    }
  }
}

/** One episode of a task. */
export async function playOne(
  model: LanguageModel,
  arena: Arena,
  seed: number,
  {
    tokenizer,
    template,
    sampling,
  }: { tokenizer: Tokenizer; template: TemplateName; sampling: { temperature: number; seed: number } },
): Promise<{ answer: Answer; kind: Kind }> {
  const env = arena.open();
  const { maxTokens } = arena;
  const experts: Answer["experts"] = [];
  const onEvent = (event: EpisodeEvent) => {
    if (event.type === "model" && event.event.type === "tokens")
      for (const token of event.event.tokens) experts.push(token.experts);
  };
  const trajectory = await runEpisode(model, env, seed, { tokenizer, template, sampling, maxTokens, onEvent });
  const { tokens, verification, ended, reward } = trajectory;
  const answer: Answer = {
    trajectory,
    experts,
    outcome: reward?.total ?? 0,
    length: tokens?.turns.reduce((sum, { start, end }) => sum + end - start, 0) ?? 0,
    truncated: ended === "tokens" || ended === "length" || ended === "context",
    shortcut: ended === "done" && (verification?.goals.evidence === false || verification?.allowed === false),
  };
  return { answer, kind: kindOf(env) };
}
