/**
 * The inference engine: requests in tokens go in, tokens come out, as many at once as fit. One step after the other on
 * this thread; between steps the event loop has its turn.
 */
import type { Tensor } from "@massif/torch";
import { MassifError, type Random } from "../common/index.ts";
import type { Model } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { PagedCache } from "./cache.ts";
import { type EngineChat, type EngineModelOptions, engineModel } from "./chat/language-model.ts";
import { embed } from "./embed.ts";
import type { Generation } from "./generation.ts";
import type { Speculate } from "./lookup.ts";
import { Loop, type UnderWay } from "./loop.ts";
import { type EngineMetrics, Meter } from "./metrics.ts";
import { Pages, sequence } from "./pages.ts";
import { type Pin, Pins } from "./pins.ts";
import { checkRequest, type GenerateRequest } from "./request.ts";
import { Rounds } from "./rounds.ts";
import type { Runtime } from "./runtime.ts";
import { Scheduler, type SchedulerOptions } from "./scheduler.ts";
import { type Parts, Standby } from "./standby.ts";
import { Workload } from "./workload.ts";

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

export class Engine implements Disposable {
  readonly model: Model;
  readonly tokenizer: Tokenizer | undefined;
  readonly #runtime: Runtime;
  readonly #options: EngineOptions;
  readonly #cache: PagedCache;
  readonly #scheduler: Scheduler;
  readonly #workload: Workload;
  readonly #rounds: Rounds;
  readonly #loop: Loop;
  readonly #pins: Pins;
  readonly #standby: Standby;
  readonly #meter = new Meter();
  #version = 0;
  #disposed = false;

  constructor(runtime: Runtime, options: EngineOptions) {
    const { model } = runtime;
    const { cacheBlocks, blockSize, tokenizer, speculate, now } = options;
    this.#runtime = runtime;
    this.#options = options;
    this.model = model;
    this.tokenizer = tokenizer;
    this.#cache = new PagedCache(model, cacheBlocks, blockSize);
    const pages = new Pages(cacheBlocks, blockSize);
    this.#pins = new Pins(pages);
    pages.onFull = () => this.#pins.releaseOldest();
    const scheduler = new Scheduler(pages, options);
    const onLeave = () => this.#loop.settle();
    const workload = new Workload({ scheduler, tokenizer, vocabSize: model.config.vocabSize, onLeave });
    this.#scheduler = scheduler;
    this.#workload = workload;
    this.#rounds = new Rounds({ runtime, cache: this.#cache, scheduler, workload, meter: this.#meter, tokenizer, now });
    this.#standby = new Standby(runtime, this.#cache);
    this.#loop = new Loop({
      scheduler,
      mayStep: () => !this.#disposed && this.asleep.length === 0,
      abort: (why) => workload.cancel(why, { begun: true }),
      step: () => {
        const plan = scheduler.next((job) => (speculate ? workload.guess(job, speculate) : []));
        if (plan) this.#rounds.run(plan, this.#version);
        return plan !== undefined;
      },
    });
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

  /** How a step is computed, and why so, for people: `one operator a step`, or `block by block: weights in float64`. */
  get path(): string {
    return this.#runtime.path;
  }

  /** What has given its memory back. */
  get asleep(): readonly ("kv_cache" | "weights")[] {
    return this.#standby.asleep;
  }

  metrics(): EngineMetrics {
    const { pages, counts, running, waiting } = this.#scheduler;
    const { pool } = pages;
    return {
      ...this.#meter.counts,
      running: running.length,
      waiting: waiting.length,
      blocks: { total: pool.count, held: pool.count - pool.free, cached: pool.cached },
      hitRate: counts.prompted ? counts.matched / counts.prompted : 0,
      promptTokens: counts.prompted,
      cachedTokens: counts.matched,
      preemptions: counts.preemptions,
      tokensPerSecond: this.#meter.tokensPerSecond(this.#options.now()),
      version: this.#version,
      paused: this.#loop.paused,
    };
  }

  /**
   * Begins a request. Throws at once `engine.request`, `engine.too-long`, `engine.too-many`, `engine.queue-full`,
   * `engine.asleep`, and `schema.budget` where no answer of its grammar fits. Reading throws `engine.cancelled` once it was cancelled.
   */
  generate(request: GenerateRequest): Generation {
    if (this.#disposed) throw new MassifError("engine.closed", { found: "a request to an engine that was closed" });
    this.#standby.checkAwake();
    checkRequest(request, this.model.config, this.tokenizer !== undefined);
    request.signal?.throwIfAborted();
    const { now, random } = this.#options;
    const generation = this.#workload.begin(request, request.seed ?? random.uint32(), now());
    this.#meter.counts.requests++;
    this.#loop.wake();
    return generation;
  }

  /** The engine as a chat model. Throws `engine.tokenizer` for one without, and `chat.template`. */
  chat(options: EngineModelOptions): EngineChat {
    return engineModel(this, options);
  }

  /** A text's vector, float32 [hidden size], at unit length. Throws `engine.request`, `engine.too-long`, `engine.asleep`. */
  embed(ids: readonly number[]): Float32Array {
    this.#standby.checkAwake();
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

  /** Stops after the step under way. Requests are still taken. */
  pause(): void {
    this.#loop.pause();
  }

  resume(): void {
    this.#loop.resume();
  }

  /** Sends what is under way back to wait: its blocks are free, its tokens are computed again. */
  retract(): void {
    this.#scheduler.retract();
  }

  /** Pauses once what is under way has ended; or ends everything, what waits too. */
  async stop(underWay: "finish" | "abort"): Promise<void> {
    if (underWay === "abort") this.#workload.cancel("paused");
    await this.#loop.change("finish", "the engine pauses", () => this.#loop.pause());
  }

  /** Gives memory back: the cache's, the weights' (which wait in a file), or both. What is under way ends first; what waits,
   *  waits on; new requests are refused. */
  async sleep(parts: Parts, underWay: "finish" | "abort" = "finish"): Promise<void> {
    await this.#loop.change(underWay, "the engine goes to sleep", () => {
      if (parts.cache ?? true) this.forgetPrefixes();
      this.#standby.sleep(parts);
    });
  }

  /** Takes the memory again: weights to the bit as they were, the cache empty. */
  wake(parts: Parts = {}): void {
    this.#standby.wake(parts);
    this.#loop.wake();
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
    { underWay = "finish" }: { underWay?: UnderWay } = {},
  ): Promise<number> {
    this.#standby.checkWeights();
    return this.#loop.change(underWay, "the weights are updated", () => {
      if (typeof source === "function") source();
      this.#runtime.update(typeof source === "function" ? undefined : source);
      this.forgetPrefixes();
      return ++this.#version;
    });
  }

  /** Cancels everything and frees the cache (and the weights, if the engine loaded them). */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#workload.cancel("the engine was closed");
    for (const part of [this.#cache, this.#standby, this.#rounds, this.#runtime]) part[Symbol.dispose]();
  }
}
