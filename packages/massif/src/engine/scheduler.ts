/**
 * Which tokens of which sequences the next step computes. Numbers only: it runs against a model or against a cost model.
 *
 * As in vLLM there is no phase of prefill and none of decoding: a sequence has known tokens and computed ones, and a step
 * hands out its token budget to close the gaps. First those one token behind (they are decoding, and a long prompt never
 * holds them up), then prompts in chunks, then waiting sequences. Waiting ones go first come first served within a client;
 * the client with the fewest running goes first; a more urgent priority goes before all that. Where blocks run out the
 * last to have come of the least urgent is sent back to wait: its blocks go, its tokens stay and are computed again, or
 * found. A prompt and all it may become fit the cache alone, so the first to have come of the most urgent always gets on.
 */
import { MassifError } from "../common/index.ts";
import { type Copy, type Pages, type Sequence, sequence } from "./pages.ts";

export interface SchedulerOptions {
  /** Tokens a step. */
  tokenBudget: number;
  /** Sequences that run at once. */
  maxRunning: number;
  /** Sequences that may wait. */
  maxWaiting: number;
}

export interface Job {
  /** Order of arrival. */
  readonly order: number;
  /** Lower goes first, and is the last to make room. */
  readonly priority: number;
  readonly client: string;
  /** Sequences that it will split into when its prompt is computed. */
  width: number;
  readonly seq: Sequence;
  /** Neither looks prefixes up, so that every token of its prompt is computed. */
  readonly fresh: boolean;
  /** It has run before. */
  started: boolean;
  /** Tokens of its prompt that were found in the cache when it first ran. */
  cached: number;
  /** Times that it was sent back to wait. */
  preemptions: number;
}

export interface JobOptions {
  client?: string | undefined;
  priority?: number | undefined;
  width?: number;
  fresh?: boolean | undefined;
  salt?: string | undefined;
  /** Tokens it may grow by. */
  maxTokens: number;
}

/** Compute tokens [from, to) of a job's sequence; the last of them are guesses, which it does not hold yet. */
export interface Slice {
  job: Job;
  from: number;
  to: number;
  draft: readonly number[];
}

export interface Plan {
  copies: Copy[];
  slices: Slice[];
}

export class Scheduler {
  readonly pages: Pages;
  readonly options: SchedulerOptions;
  /** By priority, then in order of arrival. */
  readonly #running: Job[] = [];
  readonly #waiting: Job[] = [];
  #arrived = 0;
  /** While set, only what has run before goes on. */
  draining = false;
  readonly counts = { preemptions: 0, matched: 0, prompted: 0 };

  constructor(pages: Pages, options: SchedulerOptions) {
    this.pages = pages;
    this.options = options;
  }

  get running(): readonly Job[] {
    return this.#running;
  }

  get waiting(): readonly Job[] {
    return this.#waiting;
  }

  /** Whether anything that has run has not ended. */
  get underWay(): boolean {
    return this.#running.length > 0 || this.#waiting.some((job) => job.started);
  }

  /** Takes up a sequence. Throws `engine.queue-full`, and `engine.too-long` for what the cache cannot hold. */
  submit(tokens: Iterable<number>, given: JobOptions): Job {
    const { client = "", priority = 0, width = 1, fresh = false, salt = "", maxTokens } = given;
    const { maxRunning, maxWaiting } = this.options;
    const seq = sequence(tokens, salt);
    const most = this.pages.pool.count * this.pages.blockSize;
    if (seq.tokens.length + maxTokens > most)
      throw new MassifError("engine.too-long", {
        found: `a prompt of ${seq.tokens.length} tokens and up to ${maxTokens} new ones`,
        expected: `at most ${most} together, what the cache holds`,
        fix: "shorten the prompt, lower the number of new tokens, or give the engine more memory for its cache",
      });
    if (width > maxRunning)
      throw new MassifError("engine.too-many", { found: `n is ${width}`, expected: `at most ${maxRunning}` });
    if (this.#waiting.length >= maxWaiting)
      throw new MassifError("engine.queue-full", {
        found: `${this.#waiting.length} requests are waiting`,
        expected: `fewer than ${maxWaiting}`,
        fix: "try again later",
      });
    const state = { started: false, cached: 0, preemptions: 0 };
    const job: Job = { order: this.#arrived++, priority, client, width, seq, fresh, ...state };
    place(job, this.#waiting);
    return job;
  }

  /** The next step; undefined when there is nothing to compute. Every plan is followed by `commit`. `guess` tells what may
   *  follow a sequence that is one token behind: computed with it where budget and blocks are left. */
  next(guess: (job: Job) => readonly number[] = () => []): Plan | undefined {
    const plan: Plan = { copies: [], slices: [] };
    let budget = this.options.tokenBudget;
    const gap = ({ seq }: Job) => seq.tokens.length - seq.computed;
    const decoding = this.#running.filter((job) => gap(job) === 1);
    const prompted = this.#running.filter((job) => gap(job) > 1);
    // Guesses take no one's turn.
    let spare = budget - decoding.length;
    for (const job of [...decoding, ...prompted]) {
      // It may have been sent back to wait for the sake of one before it.
      if (!budget || !this.#running.includes(job)) continue;
      const behind = decoding.includes(job);
      const draft = behind && spare > 0 ? guess(job).slice(0, spare) : [];
      spare -= draft.length;
      budget = this.#advance(job, budget, plan, draft);
    }
    while (budget > 0) {
      const job = this.#candidate();
      if (!job || !this.#admit(job)) break;
      budget = this.#advance(job, budget, plan);
    }
    return plan.slices.length ? plan : undefined;
  }

  /** The plan was carried out. */
  commit({ slices }: Plan): void {
    for (const { job, to, draft } of slices) this.pages.commit(job.seq, to - draft.length);
  }

  /** Guesses that were right are tokens of the sequence now, and computed. Returns how many. */
  accept({ seq }: Job): number {
    const right = seq.tokens.length - seq.computed;
    this.pages.commit(seq, seq.tokens.length);
    return right;
  }

  /** A second job over the blocks of a running one, whose prompt is computed. It runs at once. */
  fork(job: Job): Job {
    const copy: Job = { ...job, order: this.#arrived++, width: 1, seq: this.pages.fork(job.seq) };
    place(copy, this.#running);
    return copy;
  }

  /** Ends a job, wherever it is: its blocks are free at once. */
  end(job: Job): void {
    for (const list of [this.#running, this.#waiting]) {
      const at = list.indexOf(job);
      if (at >= 0) list.splice(at, 1);
    }
    this.pages.release(job.seq);
  }

  /** Sends all that run back to wait. */
  retract(): void {
    for (const job of [...this.#running]) this.#preempt(job);
  }

  /** Gives a job as many tokens as there is budget and room; returns the budget left. */
  #advance(job: Job, budget: number, plan: Plan, draft: readonly number[] = []): number {
    const { seq } = job;
    const to = Math.min(seq.tokens.length + draft.length, seq.computed + budget);
    for (;;) {
      const copies = this.pages.reserve(seq, to);
      if (copies) {
        plan.copies.push(...copies);
        plan.slices.push({ job, from: seq.computed, to, draft });
        return budget - (to - seq.computed);
      }
      // No one makes room for guesses.
      if (draft.length) return this.#advance(job, budget, plan);
      const last = this.#running.at(-1)!;
      const at = plan.slices.findIndex((slice) => slice.job === last);
      if (at >= 0) {
        const [{ from, to: end }] = plan.slices.splice(at, 1) as [Slice];
        budget += end - from;
      }
      this.#preempt(last);
      if (last === job) return budget;
    }
  }

  #preempt(job: Job): void {
    this.pages.release(job.seq);
    this.#running.splice(this.#running.indexOf(job), 1);
    place(job, this.#waiting);
    job.preemptions++;
    this.counts.preemptions++;
  }

  /** Whose turn it is: of the most urgent, what has run before goes first. */
  #candidate(): Job | undefined {
    if (this.draining) return this.#waiting.find((job) => job.started);
    const [urgent] = this.#waiting;
    const equals = this.#waiting.filter((job) => job.priority === urgent!.priority);
    const again = equals.find((job) => job.started);
    if (again) return again;
    const load = new Map<string, number>();
    for (const { client, width } of this.#running) load.set(client, (load.get(client) ?? 0) + width);
    let best: Job | undefined;
    for (const job of equals) if (!best || (load.get(job.client) ?? 0) < (load.get(best.client) ?? 0)) best = job;
    return best;
  }

  /** Lets a waiting job run, if its whole prompt has room beside what the running ones need next. */
  #admit(job: Job): boolean {
    const { pages } = this;
    const running = this.#running.reduce((sum, { width }) => sum + width, 0);
    if (running + job.width > this.options.maxRunning) return false;
    const matched = job.fresh ? 0 : pages.match(job.seq);
    const spare = this.#running.length ? this.#running.length + job.width : 0;
    const missing = pages.missing(job.seq, job.seq.tokens.length);
    if (missing + spare > pages.pool.free && this.#running.length) {
      pages.release(job.seq);
      return false;
    }
    if (!job.started) {
      job.cached = matched;
      this.counts.matched += matched;
      this.counts.prompted += job.seq.tokens.length;
    }
    job.started = true;
    this.#waiting.splice(this.#waiting.indexOf(job), 1);
    place(job, this.#running);
    return true;
  }
}

/** Whether one job goes before another where both could go. */
const before = (a: Job, b: Job): boolean => (a.priority === b.priority ? a.order < b.order : a.priority < b.priority);

/** Puts a job in its place among others. */
function place(job: Job, into: Job[]): void {
  const at = into.findIndex((other) => before(job, other));
  into.splice(at < 0 ? into.length : at, 0, job);
}
