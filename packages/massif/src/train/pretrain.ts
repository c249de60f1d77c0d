/**
 * Pre-training from a recipe: text in, a model that writes out. One process, one device; every step is reproducible, and
 * a run that was killed and resumed goes on to the bit.
 */
import { count, type Progress, Random } from "../common/index.ts";
import { generate, Model, ModelConfig, modelSize } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { type Corpus, prepareCorpus } from "./corpus.ts";
import { type Batch, bitsPerByte, type EvaluationBatch, type OrderState } from "./data/index.ts";
import { type Course, TrainingLoop } from "./loop.ts";
import { computingFacts } from "./precision.ts";
import type { Recipe } from "./recipe.ts";
import { openRun, runReport, type Sample, writeReport } from "./run/index.ts";
import type { Trainer } from "./trainer.ts";

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

/** Runs a recipe to its end, or until it is interrupted. Throws `run.*`, `data.*`, `train.diverged`. */
export async function pretrain(recipe: Recipe, options: PretrainOptions): Promise<PretrainResult> {
  const { dir, progress } = options;
  using run = openRun(dir, {
    config: recipe,
    resume: options.resume ?? false,
    mayChange: ["logging", "samples", "checkpoint", "evaluation.every"],
    keep: recipe.checkpoint.keep,
    facts: computingFacts(recipe),
    warn: (text) => progress.print(text),
  });
  const corpus = await prepareCorpus(recipe, options.base, dir, progress);
  using loop = new TrainingLoop(recipe, course(recipe, corpus), run, options);
  const { step, finished, evaluated } = await loop.toEnd();
  report(recipe, corpus, loop.trainer, dir);
  return { step, finished, bitsPerByte: evaluated.evalBitsPerByte as number | undefined };
}

/** The weights that a recipe begins with. */
export function freshModel({ model, seed, device }: Recipe, tokenizer: Tokenizer): Model {
  const special = { eosTokenId: tokenizer.special.get("[EOS]") ?? null };
  return Model.init(ModelConfig.parse({ ...model, vocabSize: tokenizer.vocabSize, ...special }), seed, { device });
}

function course(recipe: Recipe, { tokenizer, order, heldOut, documentNames }: Corpus): Course<Batch, OrderState> {
  const { samples, seed, steps } = recipe;
  return {
    name: "pre-training",
    tokenizer,
    order,
    steps,
    fresh: () => freshModel(recipe, tokenizer),
    documents: (batches) => [...new Set(batches.flatMap(({ origins }) => origins.flatMap(documentNames)))],
    evaluate: (trainer) => evaluate(trainer, heldOut),
    facts: ({ evalBitsPerByte: bits }) => (typeof bits === "number" ? [`${bits.toFixed(3)} bits/byte held out`] : []),
    samples: {
      every: samples.every,
      write: (trainer, step): Sample[] =>
        samples.prompts.map((prompt, i) => {
          const random = Random.of(seed, "sample", step, i);
          const { tokens: maxNewTokens, temperature } = samples;
          return { prompt, text: writeText(trainer.model, tokenizer, prompt, { maxNewTokens, temperature, random }) };
        }),
    },
  };
}

function evaluate(trainer: Trainer, heldOut: readonly EvaluationBatch[]): Record<string, number> {
  if (!heldOut.length) return {};
  let [nll, bytes, targets] = [0, 0, 0];
  for (const batch of heldOut) {
    nll += trainer.evaluate(batch);
    bytes += batch.bytes;
    targets += batch.targetCount;
  }
  return { evalLoss: nll / targets, evalBitsPerByte: bitsPerByte(nll, bytes) };
}

/** report.md and report.html of the run so far. */
function report({ name, optimizer }: Recipe, corpus: Corpus, trainer: Trainer, dir: string): void {
  const { parameters, activeParameters } = modelSize(trainer.model.config);
  writeReport(
    dir,
    runReport(dir, {
      title: `Massif: ${name}`,
      ...(optimizer.qkClip !== null && { logitThreshold: optimizer.qkClip }),
      facts: [["model", `${count(parameters)} parameters, ${count(activeParameters)} active a token`], ...corpus.facts],
      commands: [
        { command: `massif generate --model ${dir} --prompt "My fellow citizens"`, why: "let it write" },
        { command: `massif inspect ${dir}`, why: "its parameters, by part" },
        { command: `tensorboard --logdir ${dir}/tensorboard`, why: "the same curves in TensorBoard" },
      ],
    }),
  );
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
