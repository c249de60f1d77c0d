/**
 * Pre-training from a recipe: text in, a model that writes out. One process, one device; every step is reproducible, and
 * a run that was killed and resumed goes on to the bit.
 */
import { type DType, torch } from "@massif/torch";
import { count, MassifError, type Progress, Random } from "../common/index.ts";
import { generate, Model, ModelConfig, modelSize } from "../model/index.ts";
import { wsd } from "../optim/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { type Corpus, prepareCorpus } from "./corpus.ts";
import { bitsPerByte } from "./data/index.ts";
import { Guard } from "./guard.ts";
import type { Recipe } from "./recipe.ts";
import { openRun, type Run, runReport, type Sample, writeReport } from "./run/index.ts";
import { readSnapshot, writeSnapshot } from "./snapshot.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

export interface PretrainOptions {
  /** The folder that the recipe's relative paths start from. */
  base: string;
  /** The run folder. */
  dir: string;
  resume?: boolean | "auto";
  progress: Progress;
  /** Aborted: a checkpoint is written and the run ends early. */
  signal?: AbortSignal;
}

export interface PretrainResult {
  /** Steps done; fewer than the recipe's when interrupted. */
  step: number;
  finished: boolean;
  bitsPerByte: number | undefined;
}

const trainerConfig = (recipe: Recipe): TrainerConfig => ({
  optimizer: recipe.optimizer,
  precision: recipe.precision,
  activations: recipe.activations,
  balanceLoss: recipe.balance.loss,
});

/** Runs a recipe to its end, or until it is interrupted. Throws `run.*`, `data.*`, `train.diverged`. */
export async function pretrain(recipe: Recipe, options: PretrainOptions): Promise<PretrainResult> {
  const { dir, progress } = options;
  using run = openRun(dir, {
    config: recipe,
    resume: options.resume ?? false,
    mayChange: ["logging", "samples", "checkpoint", "evaluation.every"],
    keep: recipe.checkpoint.keep,
    facts: { seed: recipe.seed, device: recipe.device, torch: torch.info().torch, threads: torch.getNumThreads() },
    warn: (text) => progress.print(text),
  });
  const corpus = await prepareCorpus(recipe, options.base, dir, progress);
  return await new Pretraining(recipe, run, corpus, options).toEnd();
}

class Pretraining {
  readonly #recipe: Recipe;
  readonly #run: Run;
  readonly #corpus: Corpus;
  readonly #options: PretrainOptions;
  readonly #guard: Guard;
  readonly #peakFlops: number;
  #trainer: Trainer;
  #step = 0;
  #tokens = 0;
  #bitsPerByte: number | undefined;
  #rolledBackTo: number | undefined;

  constructor(recipe: Recipe, run: Run, corpus: Corpus, options: PretrainOptions) {
    this.#recipe = recipe;
    this.#run = run;
    this.#corpus = corpus;
    this.#options = options;
    this.#guard = new Guard(recipe.guard);
    this.#peakFlops = peakFlops(recipe.precision, recipe.device);
    this.#trainer = run.resumed ? this.#restore(run.resumed.dir) : this.#fresh();
  }

  #fresh(): Trainer {
    const config = ModelConfig.parse({
      ...this.#recipe.model,
      vocabSize: this.#corpus.tokenizer.vocabSize,
      eosTokenId: this.#corpus.tokenizer.special.get("[EOS]") ?? null,
    });
    return new Trainer(
      Model.init(config, this.#recipe.seed, { device: this.#recipe.device }),
      trainerConfig(this.#recipe),
    );
  }

  #restore(folder: string): Trainer {
    const { trainer, state } = readSnapshot(folder, trainerConfig(this.#recipe), this.#recipe.device);
    this.#step = state.step;
    this.#tokens = state.tokens;
    this.#guard.state = state.guard;
    this.#corpus.order.restore(state.order);
    return trainer;
  }

  async toEnd(): Promise<PretrainResult> {
    const { steps } = this.#recipe;
    const { progress, signal } = this.#options;
    const { parameters, activeParameters } = modelSize(this.#trainer.model.config);
    const tokensPerStep = this.#recipe.batch.rows * this.#recipe.batch.seqLen * this.#recipe.batch.accumulate;
    using stage = progress.stage(
      "pre-training",
      `${count(parameters)} parameters, ${count(activeParameters)} active; ${steps} steps of ${count(tokensPerStep)} tokens`,
      { total: steps, from: this.#step },
    );
    if (this.#step > 0) progress.print(`  resumed at step ${this.#step}`);
    if (this.#step === 0) await this.#measure(0, {});
    while (this.#step < steps && !signal?.aborted) {
      const facts = await this.#one();
      if (facts) stage.update(this.#step, facts);
      await new Promise(setImmediate); // signals, and whoever else lives in this process
    }
    const finished = this.#step >= steps;
    if (!finished || this.#run.checkpoints.latest()?.step !== this.#step) await this.#checkpoint();
    const bpb = this.#bitsPerByte;
    stage.done(
      finished
        ? `${count(this.#tokens)} tokens${bpb === undefined ? "" : `, ${bpb.toFixed(3)} bits per byte on held-out text`}`
        : `stopped at step ${this.#step}; checkpoint written`,
    );
    this.report();
    this.#trainer.dispose();
    return { step: this.#step, finished, bitsPerByte: bpb };
  }

  /** One optimizer step, or a skipped one (undefined). Returns the facts of the live line. */
  async #one(): Promise<string[] | undefined> {
    const { batch, schedule, steps, optimizer } = this.#recipe;
    const began = performance.now();
    const batches = Array.from({ length: batch.accumulate }, () => this.#corpus.order.next(batch.rows));
    const gradients = this.#trainer.gradients(batches);
    const trouble = this.#guard.judge(gradients);
    if (trouble) {
      const documents = [...new Set(batches.flatMap((b) => b.origins.flatMap((o) => o.documents)))].map(
        this.#corpus.documentName,
      );
      this.#skip(trouble, documents);
      return undefined;
    }
    const rate = wsd(this.#step, steps, schedule);
    const { maxLogitsAfter, clippedHeads } = this.#trainer.apply(gradients, rate, this.#recipe.balance.biasRate);
    this.#step++;
    this.#tokens += gradients.targets;
    const seconds = (performance.now() - began) / 1000;
    const tokensPerSecond = (batches.length * batch.rows * batch.seqLen) / seconds;
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
      ...(this.#step % this.#recipe.logging.detailEvery === 0 && {
        maxLogits: gradients.maxLogits,
        maxLogitsAfter,
        expertLoad: shares(gradients.load),
      }),
    };
    await this.#measure(this.#step, row);
    return [
      `loss ${row.loss.toFixed(3)}`,
      ...(this.#bitsPerByte === undefined ? [] : [`${this.#bitsPerByte.toFixed(3)} bits/byte`]),
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
    const { evaluation, samples, checkpoint, steps } = this.#recipe;
    const last = step === steps;
    const evaluated = step % evaluation.every === 0 || last ? this.#evaluate() : {};
    this.#run.metrics({ step, ...row, ...evaluated });
    if (step % samples.every === 0 || last) {
      const written = this.#samples(step);
      this.#run.samples(step, written);
      const [first] = written;
      if (first) this.#options.progress.print(`  step ${step}: ${JSON.stringify(first.prompt + first.text)}`);
    }
    if (step > 0 && (step % checkpoint.every === 0 || last)) await this.#checkpoint();
  }

  #evaluate(): { evalLoss?: number; evalBitsPerByte?: number } {
    if (!this.#corpus.heldOut.length) return {};
    let [nll, bytes, targets] = [0, 0, 0];
    for (const batch of this.#corpus.heldOut) {
      nll += this.#trainer.evaluate(batch);
      bytes += batch.bytes;
      targets += batch.targetCount;
    }
    this.#bitsPerByte = bitsPerByte(nll, bytes);
    return { evalLoss: nll / targets, evalBitsPerByte: this.#bitsPerByte };
  }

  #samples(step: number): Sample[] {
    const { prompts, tokens, temperature } = this.#recipe.samples;
    return prompts.map((prompt, i) => {
      const random = Random.of(this.#recipe.seed, "sample", step, i);
      return {
        prompt,
        text: writeText(this.#trainer.model, this.#corpus.tokenizer, prompt, {
          maxNewTokens: tokens,
          temperature,
          random,
        }),
      };
    });
  }

  async #checkpoint(): Promise<void> {
    const state = { step: this.#step, tokens: this.#tokens, order: this.#corpus.order.state, guard: this.#guard.state };
    await this.#run.checkpoint(this.#step, (folder) =>
      writeSnapshot(folder, this.#trainer, this.#corpus.tokenizer, state),
    );
  }

  /** Leaves a batch out; after several in a row goes back to the last checkpoint, past the batches that led here. */
  #skip(trouble: string, documents: string[]): void {
    const { progress } = this.#options;
    this.#trainer.discard();
    this.#run.event({ event: "skip", step: this.#step, trouble, documents });
    progress.print(
      `  step ${this.#step + 1}: ${trouble}; skipped its batch (${documents.slice(0, 3).join(", ")}${documents.length > 3 ? ", …" : ""})`,
    );
    if (!this.#guard.exhausted) return;
    const back = this.#run.checkpoints.latest();
    if (!back || back.step === this.#step || back.step === this.#rolledBackTo) {
      throw new MassifError("train.diverged", {
        found: `${this.#recipe.guard.patience} bad steps in a row at step ${this.#step + 1}, the last because ${trouble}`,
        expected: "a checkpoint before it from which training goes on well",
        fix: "lower optimizer.learningRate, or look at the documents that events.jsonl names",
      });
    }
    const order = this.#corpus.order.state;
    this.#run.event({ event: "rollback", step: this.#step, to: back.step });
    progress.print(`  back to step ${back.step}, beyond the batches that were skipped`);
    this.#trainer.dispose();
    this.#trainer = this.#restore(back.dir);
    this.#rolledBackTo = back.step;
    this.#corpus.order.restore(order);
    this.#run.rewind(back.step);
  }

  /** report.md and report.html of the run so far. */
  report(): void {
    const { name, optimizer } = this.#recipe;
    const { parameters, activeParameters } = modelSize(this.#trainer.model.config);
    const dir = this.#run.dir;
    writeReport(
      dir,
      runReport(dir, {
        title: `Massif: ${name}`,
        ...(optimizer.qkClip !== null && { logitThreshold: optimizer.qkClip }),
        facts: [
          ["model", `${count(parameters)} parameters, ${count(activeParameters)} active a token`],
          ...this.#corpus.facts,
        ],
        commands: [
          { command: `massif generate --model ${dir} --prompt "My fellow citizens"`, why: "let it write" },
          { command: `massif inspect ${dir}`, why: "its parameters, by part" },
          { command: `tensorboard --logdir ${dir}/tensorboard`, why: "the same curves in TensorBoard" },
        ],
      }),
    );
  }
}

/** The text that a model writes after a prompt; an empty prompt begins a document. */
export function writeText(
  model: Model,
  tokenizer: Tokenizer,
  prompt: string,
  options: { maxNewTokens: number; temperature: number; random: Random },
): string {
  const end = tokenizer.special.get("[EOS]");
  const ids = [...(end === undefined ? [] : [end]), ...tokenizer.encode(prompt)];
  return tokenizer.decode([...generate(model, ids, { ...options, stop: end === undefined ? [] : [end] })]);
}

/** FLOP/s of a large matrix product here: what MFU is a share of. The best of a few. */
function peakFlops(dtype: DType, device: string): number {
  using _ = torch.scope();
  const n = device === "cpu" ? 1024 : 8192;
  const [a, b] = [torch.ones([n, n], { dtype, device }), torch.ones([n, n], { dtype, device })];
  let best = Infinity;
  for (let i = 0; i < 8; i++) {
    using inner = torch.scope();
    const began = performance.now();
    a.mm(b);
    torch.synchronize();
    inner.end();
    best = Math.min(best, (performance.now() - began) / 1000);
  }
  return (2 * n ** 3) / best;
}

/** The busiest expert's load over the mean, in the worst layer; 1 is even. */
const imbalance = (load: number[][]) =>
  Math.max(1, ...load.map((row) => Math.max(...row) / (row.reduce((a, b) => a + b, 0) / row.length)));

const shares = (load: number[][]) => load.map((row) => row.map((n) => n / row.reduce((a, b) => a + b, 0)));
