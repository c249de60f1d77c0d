/**
 * The loop of a training run, whatever it trains on: step, guard, metrics, live line, evaluation, checkpoint, roll-back.
 * A run that was killed and resumed goes on to the bit. Pre-training and SFT are courses of it.
 */
import { type DType, linear, torch } from "@massif/torch";
import { count, MassifError, type Progress } from "../common/index.ts";
import { type Model, modelSize } from "../model/index.ts";
import { wsd } from "../optim/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Rows } from "./data/index.ts";
import { Guard } from "./guard.ts";
import { precisionOf } from "./precision.ts";
import type { TrainingConfig } from "./recipe.ts";
import type { Run, Sample } from "./run/index.ts";
import { readSnapshot, writeSnapshot } from "./snapshot.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

/** Batches for ever, in a seeded order whose place is one JSON value. */
export interface Order<B extends Rows, S> {
  next(rows: number): B;
  readonly state: S;
  restore(state: S): void;
}

/** What a run trains on, and how it is looked at. `B` are its batches, `S` the place in their order. */
export interface Course<B extends Rows = Rows, S = unknown> {
  /** Of the stage: "pre-training". */
  name: string;
  tokenizer: Tokenizer;
  order: Order<B, S>;
  steps: number;
  /** The model that a new run begins with. */
  fresh(): Model;
  /** What batches are made of, by name. */
  documents(batches: readonly B[]): string[];
  /** Metrics of the model as it stands, for the row of the step. */
  evaluate(trainer: Trainer, step: number): Record<string, unknown> | Promise<Record<string, unknown>>;
  /** What is shown of the last evaluation. */
  facts(evaluated: Record<string, unknown>): string[];
  /** Text that the model writes, every so many steps. */
  samples?: { every: number; write(trainer: Trainer, step: number): Sample[] };
}

export interface LoopOptions {
  progress: Progress;
  /** Aborted: a checkpoint is written and the run ends early. */
  signal?: AbortSignal;
}

export interface LoopResult {
  /** Steps done; fewer than the course's when interrupted. */
  step: number;
  finished: boolean;
  /** Metrics of the last evaluation. */
  evaluated: Record<string, unknown>;
}

const trainerConfig = (config: TrainingConfig): TrainerConfig => ({
  optimizer: config.optimizer,
  precision: precisionOf(config),
  activations: config.activations,
  balanceLoss: config.balance.loss,
});

export class TrainingLoop<B extends Rows, S> implements Disposable {
  readonly #config: TrainingConfig;
  readonly #course: Course<B, S>;
  readonly #run: Run;
  readonly #options: LoopOptions;
  readonly #guard: Guard;
  readonly #peakFlops: number;
  #trainer: Trainer;
  #step = 0;
  #tokens = 0;
  #evaluated: Record<string, unknown> = {};
  #rolledBackTo: number | undefined;

  constructor(config: TrainingConfig, course: Course<B, S>, run: Run, options: LoopOptions) {
    this.#config = config;
    this.#course = course;
    this.#run = run;
    this.#options = options;
    this.#guard = new Guard(config.guard);
    this.#peakFlops = peakFlops(precisionOf(config), config.device);
    this.#trainer = run.resumed ? this.#restore(run.resumed.dir) : new Trainer(course.fresh(), trainerConfig(config));
  }

  get trainer(): Trainer {
    return this.#trainer;
  }

  #restore(folder: string): Trainer {
    const { trainer, state } = readSnapshot<S>(folder, trainerConfig(this.#config), this.#config.device);
    this.#step = state.step;
    this.#tokens = state.tokens;
    this.#guard.state = state.guard;
    this.#course.order.restore(state.order);
    return trainer;
  }

  /** Trains to the last step, or until the signal; the last step is in a checkpoint. Throws `train.diverged`. */
  async toEnd(): Promise<LoopResult> {
    const { batch } = this.#config;
    const { name, steps } = this.#course;
    const { progress, signal } = this.#options;
    const { parameters, activeParameters } = modelSize(this.#trainer.model.config);
    const tokensPerStep = batch.rows * batch.seqLen * batch.accumulate;
    using stage = progress.stage(
      name,
      `${count(parameters)} parameters, ${count(activeParameters)} active; ${steps} steps of ${count(tokensPerStep)} tokens`,
      { total: steps, from: this.#step },
    );
    if (this.#step > 0) progress.print(`  resumed at step ${this.#step}`);
    if (this.#step === 0) await this.#measure(0, {});
    stage.update(this.#step); // the work begins here: what came before is not in its rate
    while (this.#step < steps && !signal?.aborted) {
      const facts = await this.#one();
      if (facts) stage.update(this.#step, facts);
      await new Promise(setImmediate); // signals, and whoever else lives in this process
    }
    const finished = this.#step >= steps;
    if (!finished || this.#run.checkpoints.latest()?.step !== this.#step) await this.#checkpoint();
    stage.done(
      finished
        ? [`${count(this.#tokens)} tokens`, ...this.#course.facts(this.#evaluated)].join(", ")
        : `stopped at step ${this.#step}; checkpoint written`,
    );
    return { step: this.#step, finished, evaluated: this.#evaluated };
  }

  /** One optimizer step, or a skipped one (undefined). Returns the facts of the live line. */
  async #one(): Promise<string[] | undefined> {
    const { batch, schedule, optimizer, balance, logging } = this.#config;
    const { order, steps } = this.#course;
    const began = performance.now();
    const batches = Array.from({ length: batch.accumulate }, () => order.next(batch.rows));
    const gradients = this.#trainer.gradients(batches);
    const trouble = this.#guard.judge(gradients);
    if (trouble) {
      this.#skip(trouble, this.#course.documents(batches));
      return undefined;
    }
    const rate = wsd(this.#step, steps, schedule);
    const { maxLogitsAfter, clippedHeads } = this.#trainer.apply(gradients, rate, balance.biasRate);
    this.#step++;
    this.#tokens += gradients.targets;
    const seconds = (performance.now() - began) / 1000;
    const tokensPerSecond = batches.reduce((n, { batch, seqLen }) => n + batch * seqLen, 0) / seconds;
    const row = {
      tokens: this.#tokens,
      loss: gradients.loss,
      lr: optimizer.learningRate * rate,
      gradNorm: gradients.gradNorm,
      maxLogit: Math.max(...gradients.maxLogits.flat()),
      clippedHeads,
      loadImbalance: imbalance(gradients.load),
      tokensPerSecond,
      mfu: (tokensPerSecond * this.#trainer.flopsPerToken(batch.seqLen)) / this.#peakFlops,
      seconds,
      ...(this.#step % logging.detailEvery === 0 && {
        maxLogits: gradients.maxLogits,
        maxLogitsAfter,
        expertLoad: shares(gradients.load),
      }),
    };
    await this.#measure(this.#step, row);
    return [
      `loss ${row.loss.toFixed(3)}`,
      ...this.#course.facts(this.#evaluated),
      `${count(tokensPerSecond)} tokens/s`,
      `lr ${row.lr.toExponential(1)}`,
      `grad ${row.gradNorm.toFixed(2)}`,
      `max logit ${row.maxLogit.toFixed(1)}`,
      `clipped ${clippedHeads}`,
      `load ${row.loadImbalance.toFixed(2)}×`,
      `MFU ${(row.mfu * 100).toFixed(0)} %`,
    ];
  }

  /** Evaluates, samples, logs the step's row and saves, as the recipe says for this step. */
  async #measure(step: number, row: Record<string, unknown>): Promise<void> {
    const { evaluation, checkpoint } = this.#config;
    const { samples, steps } = this.#course;
    const last = step === steps;
    const due = step % evaluation.every === 0 || last;
    if (due) this.#evaluated = await this.#course.evaluate(this.#trainer, step);
    this.#run.metrics({ step, ...row, ...(due && this.#evaluated) });
    if (samples && (step % samples.every === 0 || last)) {
      const written = samples.write(this.#trainer, step);
      this.#run.samples(step, written);
      const [first] = written;
      if (first) this.#options.progress.print(`  step ${step}: ${JSON.stringify(first.prompt + first.text)}`);
    }
    if (step > 0 && (step % checkpoint.every === 0 || last)) await this.#checkpoint();
  }

  async #checkpoint(): Promise<void> {
    const { order, tokenizer } = this.#course;
    const state = { step: this.#step, tokens: this.#tokens, order: order.state, guard: this.#guard.state };
    await this.#run.checkpoint(this.#step, (folder) => writeSnapshot(folder, this.#trainer, tokenizer, state));
  }

  /** Leaves a batch out; after several in a row goes back to the last checkpoint, past the batches that led here. */
  #skip(trouble: string, documents: string[]): void {
    const { progress } = this.#options;
    const { order } = this.#course;
    this.#trainer.discard();
    this.#run.event({ event: "skip", step: this.#step, trouble, documents });
    progress.print(
      `  step ${this.#step + 1}: ${trouble}; skipped its batch (${documents.slice(0, 3).join(", ")}${documents.length > 3 ? ", …" : ""})`,
    );
    if (!this.#guard.exhausted) return;
    const back = this.#run.checkpoints.latest();
    if (!back || back.step === this.#step || back.step === this.#rolledBackTo) {
      throw new MassifError("train.diverged", {
        found: `${this.#config.guard.patience} bad steps in a row at step ${this.#step + 1}, the last because ${trouble}`,
        expected: "a checkpoint before it from which training goes on well",
        fix: "lower optimizer.learningRate, or look at the documents that events.jsonl names",
      });
    }
    const place = order.state;
    this.#run.event({ event: "rollback", step: this.#step, to: back.step });
    progress.print(`  back to step ${back.step}, beyond the batches that were skipped`);
    this.#trainer.dispose();
    this.#trainer = this.#restore(back.dir);
    this.#rolledBackTo = back.step;
    order.restore(place);
    this.#run.rewind(back.step);
  }

  [Symbol.dispose](): void {
    this.#trainer.dispose();
  }
}

/** FLOP/s of a large matrix product here: what MFU is a share of. The best of a few, of ATen's and (CPU) our own. */
function peakFlops(dtype: DType, device: string): number {
  using _ = torch.scope();
  const n = device === "cpu" ? 1024 : 8192;
  const [a, b] = [torch.ones([n, n], { dtype, device }), torch.ones([n, n], { dtype, device })];
  let best = Infinity;
  for (let i = 0; i < 16; i++) {
    using _product = torch.scope();
    const began = performance.now();
    if (i % 2) a.mm(b);
    else linear(a, b);
    torch.synchronize();
    best = Math.min(best, (performance.now() - began) / 1000);
  }
  return (2 * n ** 3) / best;
}

/** The busiest expert's load over the mean, in the worst layer; 1 is even. */
const imbalance = (load: number[][]) =>
  Math.max(1, ...load.map((row) => Math.max(...row) / (row.reduce((a, b) => a + b, 0) / row.length)));

/** Of each layer: what part of its routes an expert has. */
export const shares = (load: number[][]) => load.map((row) => row.map((n) => n / row.reduce((a, b) => a + b, 0)));
