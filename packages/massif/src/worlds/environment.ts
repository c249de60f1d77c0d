/** The one interface between what acts and what it acts on. Worlds, single-turn tasks, tools and sandboxes implement it. */
import type { AssistantMessage, Message, ToolSpec } from "../chat/index.ts";
import type { Split } from "./draw.ts";
import type { Splits } from "./episode.ts";
import type { Check, Verdict } from "./verdict.ts";

export type Awaitable<T> = T | Promise<T>;

export interface Start {
  messages: Message[];
  tools: ToolSpec[];
}

export interface Step {
  /** Tool results in the order of the calls, or what the user says next. */
  observations: Message[];
  done: boolean;
}

/** Where an episode comes from: enough to run it again. */
export interface Origin {
  world: string;
  version: number;
  /** Of the world's file, or of the source of a task that is code. */
  digest: string;
  seed: number;
  split: Splits;
  task: string;
}

export interface Environment<S = unknown> {
  /** Begins the episode of a seed. The same seed gives the same episode, to the last character. */
  reset(seed: number): Awaitable<Start>;
  /** @throws MassifError `environment.done` after the end, or before the first reset. */
  step(action: AssistantMessage): Awaitable<Step>;
  /** For the harness only: never shown to the agent, never a tool. */
  score(): Awaitable<Verdict>;
  /** A JSON value from which `restore` goes on, here or in another process. */
  snapshot(): Awaitable<S>;
  restore(snapshot: S): Awaitable<void>;
  /** SHA-256 over everything that decides what happens next. */
  hash(): Awaitable<string>;
  origin(): Origin;
}

export type { Check, Split, Splits, Verdict };
