/** Supervised fine-tuning (K2 report §3.1: the optimizer of pre-training, Muon, goes on): conversations in, a model that
 *  writes as the assistant in them does. The loss is on what the model must write, and on nothing else. */
import { join, resolve } from "node:path";
import { count, MassifError, type Progress } from "../../common/index.ts";
import { loadModel, type Model, modelSize } from "../../model/index.ts";
import { loadTokenizer, saveTokenizer, type Tokenizer } from "../../tokenizer/index.ts";
import { type Course, TrainingLoop } from "../loop.ts";
import { computingFacts } from "../precision.ts";
import { openRun, runReport, type Section, writeReport } from "../run/index.ts";
import type { Trainer } from "../trainer.ts";
import { type Examples, type NamedExample, readExamples } from "./conversations.ts";
import { layOut } from "./layout.ts";
import { type PackedBatch, PackedOrder, type PackingState } from "./packing.ts";
import type { SftRecipe } from "./recipe.ts";

export interface SftOptions {
  /** The folder that the recipe's relative paths start from. */
  base: string;
  /** The run folder. */
  dir: string;
  resume?: boolean | "auto";
  progress: Progress;
  signal?: AbortSignal;
  /** What is kept of the recipe in config.json, where it is more than that. */
  config?: object;
  /** More files of rows, made once the run's folder is this process's own. The same at every call. */
  more?: () => Promise<string[]>;
  /** Looks at the model beyond its held-out loss: metrics for the row of the step. */
  evaluate?: (model: Model, tokenizer: Tokenizer, step: number) => Promise<Record<string, unknown>>;
  /** What is shown of them in the live line. */
  facts?: (evaluated: Record<string, unknown>) => string[];
  /** Of the report, from the run's folder. */
  sections?: () => Section[];
}

export interface SftResult {
  step: number;
  finished: boolean;
  /** Nats a target. */
  heldOutLoss: number | undefined;
  /** All metrics of the last evaluation. */
  evaluated: Record<string, unknown>;
}

/** Fine-tunes to the end, or until interrupted; resumes to the bit. Throws `sft.*`, `run.*`, `checkpoint.*`, `train.diverged`. */
export async function sft(recipe: SftRecipe, options: SftOptions): Promise<SftResult> {
  const { base, dir, progress } = options;
  using run = openRun(dir, {
    config: options.config ?? recipe,
    resume: options.resume ?? false,
    mayChange: ["logging", "checkpoint", "evaluation.every", "rollouts", "rounds"],
    keep: recipe.checkpoint.keep,
    facts: computingFacts(recipe),
    warn: (text) => progress.print(text),
  });
  const folder = resolve(base, recipe.model);
  const tokenizer = await loadTokenizer(folder);
  // What reads the run's episodes needs it, before the first checkpoint too.
  await saveTokenizer(tokenizer, join(dir, "tokenizer"));
  const files = [...recipe.data.map((file) => resolve(base, file)), ...((await options.more?.()) ?? [])];
  const examples = await readExamples(files, recipe, tokenizer);
  const course = courseOf(recipe, examples, folder, tokenizer, options);
  progress.print(
    `  ${factsOf(examples)
      .map(([name, value]) => `${name}: ${value}`)
      .join("; ")}`,
  );
  using loop = new TrainingLoop(recipe, course, run, options);
  const { step, finished, evaluated } = await loop.toEnd();
  report(recipe, examples, loop.trainer, options);
  return { step, finished, evaluated, heldOutLoss: evaluated.evalLoss as number | undefined };
}

function courseOf(
  recipe: SftRecipe,
  { train, heldOut }: Examples,
  folder: string,
  tokenizer: Tokenizer,
  options: SftOptions,
): Course<PackedBatch, PackingState> {
  const { batch, seed, device, epochs } = recipe;
  const order = new PackedOrder(train, { seqLen: batch.seqLen, seed });
  return {
    name: "SFT",
    tokenizer,
    order,
    steps: recipe.steps ?? Math.max(1, Math.round((epochs * order.rowsPerEpoch) / (batch.rows * batch.accumulate))),
    fresh: () => {
      const model = loadModel(folder, { device, dtype: "float32" });
      const { vocabSize, maxPositionEmbeddings } = model.config;
      if (tokenizer.vocabSize > vocabSize || batch.seqLen > maxPositionEmbeddings) {
        model.dispose();
        throw new MassifError("sft.model", {
          found: `${tokenizer.vocabSize} tokens and rows of ${batch.seqLen}`,
          expected: `at most ${vocabSize} tokens and rows of ${maxPositionEmbeddings}, which the model in ${folder} has`,
          fix: "lower batch.seqLen, or give the model with its own tokenizer",
        });
      }
      return model;
    },
    documents: (batches) => [...new Set(batches.flatMap(({ examples }) => examples.map((i) => train[i]!.name)))],
    evaluate: async (trainer, step) => ({
      ...heldOutLoss(trainer, heldOut, recipe),
      ...(await options.evaluate?.(trainer.model, tokenizer, step)),
    }),
    facts: (evaluated) => {
      const { evalLoss: loss } = evaluated;
      return [
        ...(typeof loss === "number" ? [`held-out ${loss.toFixed(3)}`] : []),
        ...(options.facts?.(evaluated) ?? []),
      ];
    },
  };
}

function heldOutLoss(trainer: Trainer, examples: readonly NamedExample[], { batch }: SftRecipe): { evalLoss: number } {
  const layouts = layOut(examples, examples.keys(), batch);
  const nll = layouts.reduce((sum, { rows }) => sum + trainer.evaluate(rows), 0);
  return { evalLoss: nll / targetsOf(examples) };
}

const targetsOf = (examples: readonly NamedExample[]): number =>
  examples.reduce((sum, { learn }) => sum + learn.subarray(1).reduce((a, b) => a + b, 0), 0);

function factsOf({ train, heldOut, rows, passedOver }: Examples): [string, string][] {
  const tokens = train.reduce((sum, { ids }) => sum + ids.length, 0);
  const share = ((100 * targetsOf(train)) / tokens).toFixed(0);
  return [
    ["conversations", `${rows}${passedOver ? `, ${passedOver} passed over for their reward` : ""}`],
    [
      "examples",
      `${train.length} to learn from (${count(tokens)} tokens, ${share} % learned), ${heldOut.length} held out`,
    ],
  ];
}

/** report.md and report.html of the run so far. */
function report(recipe: SftRecipe, examples: Examples, trainer: Trainer, { dir, sections }: SftOptions): void {
  const { parameters, activeParameters } = modelSize(trainer.model.config);
  const { qkClip } = recipe.optimizer;
  writeReport(
    dir,
    runReport(dir, {
      title: `Massif: ${recipe.name}`,
      ...(qkClip !== null && { logitThreshold: qkClip }),
      facts: [
        ["model", `${count(parameters)} parameters, ${count(activeParameters)} active a token, from ${recipe.model}`],
        ...factsOf(examples),
      ],
      sections: sections?.() ?? [],
      commands: [{ command: `massif inspect ${dir}`, why: "its parameters, by part" }],
    }),
  );
}
