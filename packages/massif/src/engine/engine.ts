/**
 * The inference engine: requests in tokens go in, tokens come out, as many at once as fit. One step after the other on
 * this thread; between steps the event loop has its turn.
 */
import { type Tensor, torch } from "@massif/torch";
import { MassifError, type Random } from "../common/index.ts";
import type { Block, Model, PackedModel } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { PagedCache } from "./cache.ts";
import { Choice } from "./choice.ts";
import { embed } from "./embed.ts";
import { Generation } from "./generation.ts";
import { type EngineChat, type EngineModelOptions, engineModel } from "./language-model.ts";
import { lookUp, type Speculate } from "./lookup.ts";
import type { Numerics } from "./numerics.ts";
import { Pages, sequence } from "./pages.ts";
import { type Pin, Pins } from "./pins.ts";
import { checkRequest, type GenerateRequest } from "./request.ts";
import { attempt, pickTokens, tellPrompt } from "./sampler.ts";
import { type Job, type Plan, Scheduler, type SchedulerOptions } from "./scheduler.ts";
import { SleepingWeights } from "./sleep.ts";
import { Stepper } from "./step.ts";

export interface EngineOptions extends SchedulerOptions {
  tokenizer?: Tokenizer;
  /** Blocks of the cache, and positions of each. */
  cacheBlocks: number;
  blockSize: number;
  /** Guesses tokens and verifies several in one step. In the exact mode the answers are the same to the bit; otherwise a
   *  row may differ in its last bits from the same row alone. Default: no guesses. */
  speculate?: Speculate;
  /** Draws the seeds of requests that bring none. */
  random: Random;
  /** Milliseconds, for the rates of `metrics`. */
  now: () => number;
}

/** How the engine computes: made by `openEngine`. */
export interface Runtime {
  model: Model;
  blocks: readonly Block[];
  numerics: Numerics;
  /** The model as one operator, where it can be. */
  packed?: PackedModel | undefined;
  /** Takes other weights: a folder, or tensors by the names of the model's parameters. */
  load(source: string | ReadonlyMap<string, Tensor>): void;
  dispose(): void;
}

export interface EngineMetrics {
  running: number;
  waiting: number;
  blocks: { total: number; held: number; cached: number };
  /** Share of prompt tokens that were found in the cache. */
  hitRate: number;
  promptTokens: number;
  cachedTokens: number;
  generatedTokens: number;
  requests: number;
  preemptions: number;
  /** Steps that guessed for a sequence, tokens guessed, and those that were right. */
  drafts: number;
  draftTokens: number;
  acceptedTokens: number;
  steps: number;
  /** Generated, over the last ten seconds. */
  tokensPerSecond: number;
  version: number;
  paused: boolean;
}

/** A job of the scheduler, and the choices that it is for: several while they share the prompt. */
interface Work {
  job: Job;
  request: GenerateRequest;
  generation: Generation;
  choices: Choice[];
}

/** A place where a choice goes on: from a row of logits, and from guesses as long as they are right. */
interface Turn {
  work: Work;
  choice: Choice;
  row: number;
  slice: number;
  draft: readonly number[];
  /** Guesses that were right so far. */
  right: number;
}

const RATE_WINDOW = 10_000;

export class Engine implements Disposable {
  readonly model: Model;
  readonly tokenizer: Tokenizer | undefined;
  readonly exact: boolean;
  readonly #runtime: Runtime;
  readonly #options: EngineOptions;
  readonly #cache: PagedCache;
  readonly #scheduler: Scheduler;
  readonly #stepper: Stepper;
  /** Ids that the tokenizer has no token for: the model's vocabulary may be padded. */
  readonly #never: Tensor | undefined;
  readonly #work = new Map<Job, Work>();
  readonly #recent: { at: number; tokens: number }[] = [];
  readonly #counts = { generated: 0, requests: 0, steps: 0, drafts: 0, draftTokens: 0, acceptedTokens: 0 };
  #version = 0;
  #paused = false;
  readonly #pins: Pins;
  #cacheAsleep = false;
  #weightsAsleep: SleepingWeights | undefined;
  #looping = false;
  #disposed = false;
  /** Called when nothing is under way any more. */
  #drained: (() => void) | undefined;

  constructor(runtime: Runtime, options: EngineOptions) {
    this.#runtime = runtime;
    this.#options = options;
    this.model = runtime.model;
    this.tokenizer = options.tokenizer;
    this.exact = runtime.numerics.exact;
    this.#cache = new PagedCache(runtime.model, options.cacheBlocks, options.blockSize);
    this.#scheduler = new Scheduler(new Pages(options.cacheBlocks, options.blockSize), options);
    const { pages } = this.#scheduler;
    this.#pins = new Pins(pages);
    pages.onFull = () => this.#pins.releaseOldest();
    this.#stepper = new Stepper(runtime, this.#cache);
    const never = options.tokenizer ? idsWithoutToken(options.tokenizer, runtime.model.config.vocabSize) : [];
    const { device } = runtime.model;
    if (never.length) this.#never = torch.keep(torch.tensor(BigInt64Array.from(never, BigInt), { device }));
  }

  /** Of the weights: 0 at first, one more with every update. */
  get version(): number {
    return this.#version;
  }

  /** Most tokens of a prompt and what follows it: what the model knows positions for, and the cache holds. */
  get contextLength(): number {
    const { cacheBlocks, blockSize } = this.#options;
    return Math.min(this.model.config.maxPositionEmbeddings, cacheBlocks * blockSize);
  }

  /**
   * Begins a request. Throws at once `engine.request`, `engine.too-long`, `engine.too-many`, `engine.queue-full`,
   * `engine.asleep`, and `schema.budget` where no answer of its grammar fits. Reading throws `engine.cancelled` once it was cancelled.
   */
  generate(request: GenerateRequest): Generation {
    if (this.#disposed) throw new MassifError("engine.closed", { found: "a request to an engine that was closed" });
    this.#checkAwake();
    checkRequest(request, this.model.config, this.tokenizer !== undefined);
    request.signal?.throwIfAborted();
    const { prompt, n = 1, maxTokens, seed = this.#options.random.uint32(), promptLogprobs } = request;
    const { vocabSize } = this.model.config;
    const choices = Array.from({ length: n }, (_, i) => new Choice(request, i, seed, this.tokenizer, vocabSize));
    const { client, salt, priority } = request;
    const options = { client, salt, priority, maxTokens, width: n, fresh: promptLogprobs };
    const job = this.#scheduler.submit(Array.from(prompt), options);
    const generation = new Generation(seed, prompt.length, () => this.#cancel(generation), request.signal);
    Object.assign(generation.trace, { arrived: this.#options.now(), masks: choices.map(({ masks }) => masks) });
    if (promptLogprobs) generation.promptLogprobs = new Float32Array(prompt.length).fill(NaN);
    if (request.topPromptLogprobs !== undefined) generation.promptTokensSeen = [];
    this.#work.set(job, { job, request, generation, choices });
    this.#counts.requests++;
    this.#wake();
    return generation;
  }

  /** The engine as a chat model. Throws `engine.tokenizer` for one without, and `chat.template`. */
  chat(options: EngineModelOptions): EngineChat {
    return engineModel(this, options);
  }

  /** Stops after the step under way. Requests are still taken. */
  pause(): void {
    this.#paused = true;
  }

  /** Sends what is under way back to wait: its blocks are free, its tokens are computed again. */
  retract(): void {
    this.#scheduler.retract();
  }

  /** Pauses once what is under way has ended; or ends everything, what waits too. */
  async stop(underWay: "finish" | "abort"): Promise<void> {
    if (underWay === "abort") for (const { generation } of [...this.#work.values()]) generation.cancel("paused");
    await this.#drain("finish", "the engine pauses");
    this.#scheduler.draining = false;
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#wake();
  }

  /** A text's vector, float32 [hidden size], at unit length. Throws `engine.request`, `engine.too-long`, `engine.asleep`. */
  embed(ids: readonly number[]): Float32Array {
    this.#checkAwake();
    checkRequest({ prompt: ids, maxTokens: 0 }, this.model.config, false);
    return embed(this.#runtime, ids);
  }

  /** Computes a prompt and holds its whole blocks in the cache, until the pin is disposed of, other weights come, or a
   *  request has no room without. Throws as `generate`. */
  async pin(prompt: readonly number[], salt = ""): Promise<Pin> {
    for await (const _ of this.generate({ prompt, maxTokens: 0, salt }));
    return this.#pins.hold(sequence([...prompt, 0], salt));
  }

  /** What was computed before is not found again. */
  forgetPrefixes(): void {
    this.#pins.releaseAll();
    this.#scheduler.pages.forgetAll();
  }

  /** What has given its memory back. */
  get asleep(): readonly ("kv_cache" | "weights")[] {
    return [...(this.#cacheAsleep ? ["kv_cache" as const] : []), ...(this.#weightsAsleep ? ["weights" as const] : [])];
  }

  /** Gives memory back: the cache's, the weights' (which wait in a file of the system's folder for such), or both. What is
   *  under way ends first; what waits, waits on; new requests are refused. */
  async sleep(
    { cache = true, weights = true }: { cache?: boolean; weights?: boolean },
    underWay: "finish" | "abort" = "finish",
  ): Promise<void> {
    await this.#drain(underWay, "the engine goes to sleep");
    if (cache && !this.#cacheAsleep) {
      this.forgetPrefixes();
      this.#cache.release();
      this.#cacheAsleep = true;
    }
    if (weights) {
      this.#weightsAsleep ??= new SleepingWeights(this.model);
      this.#runtime.packed?.release();
    }
    this.#scheduler.draining = false;
  }

  /** Takes the memory again: weights to the bit as they were, the cache empty. */
  wake({ cache = true, weights = true }: { cache?: boolean; weights?: boolean } = {}): void {
    if (cache && this.#cacheAsleep) {
      this.#cache.restore();
      this.#cacheAsleep = false;
    }
    if (weights) {
      this.#weightsAsleep?.wake();
      if (this.#weightsAsleep) this.#runtime.packed?.refresh();
      this.#weightsAsleep = undefined;
    }
    this.#wake();
  }

  /**
   * Takes other weights: a folder, tensors by parameter name, a function that changes the model's own tensors in place, or
   * nothing where that was done. What is under way first ends under the old weights, or is cancelled (`abort`); what waits
   * begins under the new ones, so every choice is of one version. Or (`recompute`) what is under way goes on under the new
   * ones at once, from the tokens that it has, each of which tells its version. Prefixes computed before are not found
   * again. Returns the new version.
   * Throws `engine.paused` where requests are under way and nothing runs, and `engine.asleep` where the weights are.
   */
  async updateWeights(
    source?: string | ReadonlyMap<string, Tensor> | (() => void),
    { underWay = "finish" }: { underWay?: "finish" | "abort" | "recompute" } = {},
  ): Promise<number> {
    if (this.#weightsAsleep)
      throw new MassifError("engine.asleep", { found: "an update of weights that are asleep", fix: "wake them first" });
    const scheduler = this.#scheduler;
    await this.#drain(underWay, "the weights are updated");
    try {
      if (typeof source === "function") source();
      else if (source !== undefined) this.#runtime.load(source);
      this.#runtime.packed?.refresh();
      this.#version++;
      this.forgetPrefixes();
    } finally {
      scheduler.draining = false;
      this.#wake();
    }
    return this.#version;
  }

  /** Returns when nothing is under way; what waits goes on waiting until `draining` is unset. */
  async #drain(underWay: "finish" | "abort" | "recompute", why: string): Promise<void> {
    const scheduler = this.#scheduler;
    if (scheduler.draining) throw new MassifError("engine.updating", { found: `${why} while it is changed already` });
    if (underWay === "recompute") return scheduler.retract();
    if (underWay === "abort")
      for (const { job, generation } of [...this.#work.values()]) if (job.started) generation.cancel(why);
    if (scheduler.underWay) {
      if (this.#paused)
        throw new MassifError("engine.paused", {
          found: "requests are under way in a paused engine",
          fix: "resume it, or abort them",
        });
      scheduler.draining = true;
      await new Promise<void>((resolve) => {
        this.#drained = resolve;
      });
    }
  }

  #checkAwake(): void {
    if (!this.asleep.length) return;
    const found = `a request while ${this.asleep.join(" and ")} sleep`;
    throw new MassifError("engine.asleep", { found, fix: "wake the engine" });
  }

  metrics(): EngineMetrics {
    const { pages, counts, running, waiting } = this.#scheduler;
    const now = this.#options.now();
    this.#forgetBefore(now - RATE_WINDOW);
    const tokens = this.#recent.reduce((sum, recent) => sum + recent.tokens, 0);
    const span = Math.max(1, now - (this.#recent[0]?.at ?? now));
    return {
      running: running.length,
      waiting: waiting.length,
      blocks: { total: pages.pool.count, held: pages.pool.count - pages.pool.free, cached: pages.pool.cached },
      hitRate: counts.prompted ? counts.matched / counts.prompted : 0,
      promptTokens: counts.prompted,
      cachedTokens: counts.matched,
      generatedTokens: this.#counts.generated,
      requests: this.#counts.requests,
      preemptions: counts.preemptions,
      drafts: this.#counts.drafts,
      draftTokens: this.#counts.draftTokens,
      acceptedTokens: this.#counts.acceptedTokens,
      steps: this.#counts.steps,
      tokensPerSecond: tokens ? (1000 * tokens) / span : 0,
      version: this.#version,
      paused: this.#paused,
    };
  }

  /** Cancels everything and frees the cache (and the weights, if the engine loaded them). */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const { generation } of [...this.#work.values()]) generation.cancel("the engine was closed");
    this.#cache[Symbol.dispose]();
    this.#weightsAsleep?.[Symbol.dispose]();
    this.#never?.dispose();
    this.#runtime.dispose();
  }

  #wake(): void {
    if (this.#looping || this.#paused || this.#disposed || this.asleep.length) return;
    this.#looping = true;
    setImmediate(() => this.#turn());
  }

  /** One step, and the next one after the event loop's turn. */
  #turn(): void {
    const still = this.#paused || this.#disposed || this.asleep.length > 0;
    const plan = still ? undefined : this.#scheduler.next((job) => this.#guess(job));
    if (!plan) {
      this.#looping = false;
      this.#settle();
      return;
    }
    try {
      this.#step(plan);
    } catch (error) {
      // Whatever went wrong, what was to be computed is not: those requests end, the others go on.
      for (const { job } of plan.slices) {
        const work = this.#work.get(job);
        if (work) this.#fail(work.generation, error);
      }
    }
    this.#settle();
    setImmediate(() => this.#turn());
  }

  #settle(): void {
    if (!this.#drained || this.#scheduler.underWay) return;
    this.#drained();
    this.#drained = undefined;
  }

  /** Tokens that may follow a sequence: those that its grammar leaves no choice about, or what followed before. */
  #guess(job: Job): readonly number[] {
    const { speculate } = this.#options;
    const [choice, other] = this.#work.get(job)?.choices ?? [];
    if (!speculate || !choice?.count || other) return [];
    const most = Math.min(speculate.max, choice.request.maxTokens - choice.count - 1);
    if (most < 1) return [];
    const forced = choice.forced(most);
    return forced.length ? forced : lookUp(job.seq.tokens, { ...speculate, max: most });
  }

  #step(plan: Plan): void {
    const { copies, slices } = plan;
    this.#cache.copy(copies);
    const works = slices.map(({ job }) => this.#work.get(job)!);
    const now = this.#options.now();
    for (const { generation, job } of works) generation.began(now, job, this.#options.blockSize);
    const stretches = slices.map(({ job: { seq }, from, to, draft }, i) => ({
      tokens: draft.length ? [...seq.tokens.slice(from), ...draft] : seq.tokens.slice(from, to),
      start: from,
      blocks: seq.blocks,
      logits:
        draft.length || (works[i]!.generation.promptLogprobs && from < works[i]!.generation.promptTokens)
          ? ("all" as const)
          : to === seq.tokens.length
            ? ("last" as const)
            : ("none" as const),
    }));
    using _ = torch.scope();
    const experts = works.some(({ request }) => request.experts);
    const result = this.#stepper.step(stretches, { experts });
    this.#scheduler.commit(plan);
    this.#counts.steps++;
    const { logits } = result;
    if (!logits) return;

    // The row of logits of each slice's last known token, and the choices that go on from it.
    const turns: Turn[] = [];
    let row = 0;
    for (const [i, { job, from, to, draft }] of slices.entries()) {
      const work = works[i]!;
      if (stretches[i]!.logits === "none") continue;
      if (stretches[i]!.logits === "all" && !draft.length) {
        tellPrompt(work.generation, logits.narrow(0, row, to - from), job.seq.tokens, from, work.request);
        row += to - from - 1;
      }
      if (to - draft.length === job.seq.tokens.length)
        for (const choice of work.choices) turns.push({ work, choice, row, slice: i, draft, right: 0 });
      row += 1 + draft.length;
    }
    for (const { work } of turns) if (work.request.maxTokens === 0) this.#finish(work, []);
    const chosen = result.experts && expertsOf(result.experts.chosen);
    const expertsAt = ({ slice, draft, right }: Turn) => {
      const { from, to } = slices[slice]!;
      return chosen!(result.experts!.rows[slice]! + to - from - 1 - draft.length + right);
    };
    const goOn = new Map<Work, { choice: Choice; id: number }[]>();
    let round = turns.filter(({ choice }) => choice.request.maxTokens > 0);
    while (round.length) {
      const tokens = pickTokens(logits, round, this.#never);
      this.#count(round.length);
      const next: Turn[] = [];
      for (const [i, turn] of round.entries()) {
        const { work, choice, draft, right } = turn;
        const token = tokens[i]!;
        if (!goOn.has(work)) goOn.set(work, []);
        if (work.generation.ended) continue;
        const said = token instanceof Error ? token : attempt(() => choice.say(token.id));
        if (token instanceof Error || said instanceof Error) {
          this.#fail(work.generation, said);
          continue;
        }
        const { text, finish } = said;
        const experts = work.request.experts && chosen && { experts: expertsAt(turn) };
        const version = this.#version;
        work.generation.push(
          { choice: choice.index, text, ...token, ...experts, version, ...(finish && { finish }) },
          this.#options.now(),
        );
        if (finish) continue;
        if (draft[right] === token.id) {
          work.job.seq.tokens.push(token.id);
          next.push({ ...turn, row: turn.row + 1, right: right + 1 });
        } else goOn.get(work)!.push({ choice, id: token.id });
      }
      round = next;
    }
    for (const { work, draft } of turns) if (draft.length && !work.generation.ended) this.#accept(work.job, draft);
    for (const [work, alive] of goOn) if (!work.generation.ended) this.#finish(work, alive);
  }

  /** The guesses that were right are computed. */
  #accept(job: Job, draft: readonly number[]): void {
    this.#counts.drafts++;
    this.#counts.draftTokens += draft.length;
    this.#counts.acceptedTokens += this.#scheduler.accept(job);
  }

  /** What becomes of a job after a token: its first living choice keeps it, the others get forks; without any it ends. */
  #finish(work: Work, alive: readonly { choice: Choice; id: number }[]): void {
    const { job, generation } = work;
    const [first, ...others] = alive;
    for (const { choice, id } of others) {
      const fork = this.#scheduler.fork(job);
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
    this.#scheduler.end(job);
    if (![...this.#work.values()].some((other) => other.generation === generation))
      generation.end(undefined, this.#options.now());
  }

  #cancel(generation: Generation): void {
    for (const [job, work] of this.#work) {
      if (work.generation !== generation) continue;
      this.#work.delete(job);
      this.#scheduler.end(job);
    }
    this.#settle();
  }

  #fail(generation: Generation, error: unknown): void {
    this.#cancel(generation);
    generation.end(error);
  }

  #count(tokens: number): void {
    const at = this.#options.now();
    this.#counts.generated += tokens;
    this.#recent.push({ at, tokens });
    this.#forgetBefore(at - RATE_WINDOW);
  }

  #forgetBefore(at: number): void {
    const old = this.#recent.findIndex((recent) => recent.at >= at);
    this.#recent.splice(0, old < 0 ? this.#recent.length : old);
  }
}

function idsWithoutToken(tokenizer: Tokenizer, vocabSize: number): number[] {
  const special = new Set(tokenizer.special.values());
  const { vocabulary } = tokenizer;
  return Array.from({ length: vocabSize }, (_, id) => id).filter(
    (id) => !special.has(id) && (id >= vocabulary.size || !vocabulary.bytes(id).length),
  );
}

/** Reads the experts of a row: of each layer the k chosen. */
function expertsOf(chosen_LNk: Tensor): (row: number) => number[][] {
  const [L, N, k] = chosen_LNk.shape as [number, number, number];
  const flat = chosen_LNk.to("int32").toTypedArray() as Int32Array;
  return (row) =>
    Array.from({ length: L }, (_, l) => Array.from(flat.subarray((l * N + row) * k, (l * N + row + 1) * k)));
}
