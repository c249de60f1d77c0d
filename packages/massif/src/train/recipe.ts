/** A pre-training recipe: every key of a run, with the default that is the recipe. `trainingShape` is what it shares with
 *  every other kind of training. */
import { z } from "zod";
import { ModelConfig, routingFits } from "../model/index.ts";
import { MuonClipConfig, ScheduleConfig } from "../optim/index.ts";
import { DataConfig, SplitConfig } from "./data/index.ts";
import { PrecisionConfig } from "./precision.ts";

const { vocabSize: _, ...modelShape } = ModelConfig.shape;
const every = (steps: number) => z.int().positive().default(steps);

export const trainingShape = {
  name: z.string().describe("Names the run folder"),
  description: z.string().default("").describe("One line for people"),
  seed: z.int().default(1).describe("Decides weights, data order and samples"),
  device: z.string().default("cpu").describe("cpu, cuda, cuda:1, mps"),
  batch: z
    .strictObject({
      rows: z.int().positive().default(8).describe("Rows of a micro-batch"),
      seqLen: z.int().positive().default(256).describe("Tokens of a row"),
      accumulate: z.int().positive().default(1).describe("Micro-batches of a step"),
    })
    .prefault({}),
  optimizer: MuonClipConfig.prefault({}),
  schedule: ScheduleConfig.prefault({}),
  precision: PrecisionConfig.default("float32").describe(
    "What products are computed in; masters stay float32. fastest: bfloat16 where the device multiplies it, else float32",
  ),
  activations: z
    .enum(["keep", "recompute"])
    .default("keep")
    .describe("Keep each block's graph, or run it again on the way back"),
  balance: z
    .strictObject({
      biasRate: z
        .number()
        .min(0)
        .default(1e-3)
        .describe(
          "u of auxiliary-loss-free balancing, to the end: Moonlight stops it in the decay, which in short runs undoes it",
        ),
      loss: z.number().min(0).default(0).describe("Weight of the sequence balance loss"),
    })
    .prefault({}),
  guard: z
    .strictObject({
      spike: z.number().positive().default(2).describe("A loss this many nats above the recent mean is skipped"),
      patience: z.int().positive().default(3).describe("So many skips in a row roll back to the last checkpoint"),
    })
    .prefault({}),
  evaluation: z
    .strictObject({
      every: every(100).describe("Steps between evaluations; the last step is always evaluated"),
    })
    .prefault({}),
  checkpoint: z
    .strictObject({
      every: every(100).describe("Steps between checkpoints"),
      keep: z.int().positive().default(2).describe("How many of the last are kept"),
    })
    .prefault({}),
  logging: z
    .strictObject({
      detailEvery: every(10).describe("Steps between rows with every head's logit and every expert's load"),
    })
    .prefault({}),
};
const Training = z.strictObject(trainingShape);
/** What the loop of any training reads. */
export type TrainingConfig = z.output<typeof Training>;

export const Recipe = z.strictObject({
  ...trainingShape,
  data: DataConfig.describe("The text"),
  heldOut: SplitConfig.prefault({ fraction: 0.05 }).describe("What is kept apart for evaluation, by document"),
  mix: z
    .strictObject({
      data: DataConfig,
      share: z.number().gt(0).lt(1).describe("Of the rows"),
    })
    .nullable()
    .default(null)
    .describe("Text learned beside it; the tokenizer sees it too, none of it is held out"),
  tokenizer: z
    .strictObject({
      path: z.string().nullable().default(null).describe("A tokenizer file or folder; null trains one on the text"),
      vocabSize: z
        .int()
        .min(300)
        .default(4096)
        .describe("Tokens of a tokenizer that is trained here, specials included"),
    })
    .prefault({}),
  model: z
    .strictObject(modelShape)
    .check(routingFits)
    .describe("Shape of the model; the vocabulary is the tokenizer's"),
  steps: z.int().positive().describe("Optimizer steps"),
  evaluation: z
    .strictObject({
      every: every(100).describe("Steps between evaluations; the last step is always evaluated"),
      maxRows: z.int().positive().nullable().default(null).describe("Held-out rows used; null for all"),
    })
    .prefault({}),
  samples: z
    .strictObject({
      every: every(200).describe("Steps between samples of text"),
      prompts: z.array(z.string()).default([""]).describe("What they begin with"),
      tokens: z.int().positive().default(60).describe("Length of each"),
      temperature: z.number().min(0).default(0.8),
    })
    .prefault({}),
});
export type Recipe = z.output<typeof Recipe>;
