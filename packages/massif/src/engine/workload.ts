/** The requests under way: each a job of the scheduler, and several once its choices part. */
import type { Tokenizer } from "../tokenizer/index.ts";
import { Choice } from "./choice.ts";
import { Generation } from "./generation.ts";
import { lookUp, type Speculate } from "./lookup.ts";
import type { GenerateRequest } from "./request.ts";
import type { Job, Scheduler } from "./scheduler.ts";

/** A job, and the choices that it is for: several while they share the prompt. */
export interface Work {
  job: Job;
  request: GenerateRequest;
  generation: Generation;
  choices: Choice[];
}

export interface WorkloadOptions {
  scheduler: Scheduler;
  tokenizer: Tokenizer | undefined;
  vocabSize: number;
  /** Called when jobs have left before their end. */
  onLeave: () => void;
}

export class Workload {
  readonly #options: WorkloadOptions;
  readonly #work = new Map<Job, Work>();

  constructor(options: WorkloadOptions) {
    this.#options = options;
  }

  /** Takes a request up. Throws as the scheduler, and `schema.budget` where no answer of its grammar fits. */
  begin(request: GenerateRequest, seed: number, now: number): Generation {
    const { scheduler, tokenizer, vocabSize } = this.#options;
    const { prompt, n = 1, maxTokens, client, salt, priority, promptLogprobs } = request;
    const choices = Array.from({ length: n }, (_, i) => new Choice(request, i, seed, tokenizer, vocabSize));
    const options = { client, salt, priority, maxTokens, width: n, fresh: promptLogprobs };
    const job = scheduler.submit(Array.from(prompt), options);
    const generation = new Generation(seed, prompt.length, () => this.#leave(generation), request.signal);
    Object.assign(generation.trace, { arrived: now, masks: choices.map(({ masks }) => masks) });
    if (promptLogprobs) generation.promptLogprobs = new Float32Array(prompt.length).fill(NaN);
    if (request.topPromptLogprobs !== undefined) generation.promptTokensSeen = [];
    this.#work.set(job, { job, request, generation, choices });
    return generation;
  }

  of(job: Job): Work | undefined {
    return this.#work.get(job);
  }

  /** Tokens that may follow a sequence: those that its grammar leaves no choice about, or what followed before. */
  guess(job: Job, speculate: Speculate): readonly number[] {
    const [choice, other] = this.#work.get(job)?.choices ?? [];
    if (!choice?.count || other) return [];
    const most = Math.min(speculate.max, choice.request.maxTokens - choice.count - 1);
    if (most < 1) return [];
    const forced = choice.forced(most);
    return forced.length ? forced : lookUp(job.seq.tokens, { ...speculate, max: most });
  }

  /** What becomes of a job after a token: its first living choice keeps it, the others get forks; without any it ends. */
  goOn(work: Work, alive: readonly { choice: Choice; id: number }[], now: number): void {
    const { scheduler } = this.#options;
    const { job, generation } = work;
    const [first, ...others] = alive;
    for (const { choice, id } of others) {
      const fork = scheduler.fork(job);
      fork.seq.tokens.push(id);
      this.#work.set(fork, { ...work, job: fork, choices: [choice] });
    }
    if (first) {
      job.width = 1;
      job.seq.tokens.push(first.id);
      work.choices = [first.choice];
      return;
    }
    this.#work.delete(job);
    scheduler.end(job);
    if (![...this.#work.values()].some((other) => other.generation === generation)) generation.end(undefined, now);
  }

  /** Who reads gets the error. */
  fail(generation: Generation, error: unknown): void {
    this.#leave(generation);
    generation.end(error);
  }

  /** Cancels every request, or those that have begun. */
  cancel(why: string, { begun = false } = {}): void {
    for (const { job, generation } of [...this.#work.values()]) if (job.started || !begun) generation.cancel(why);
  }

  #leave(generation: Generation): void {
    for (const [job, work] of this.#work) {
      if (work.generation !== generation) continue;
      this.#work.delete(job);
      this.#options.scheduler.end(job);
    }
    this.#options.onLeave();
  }
}
