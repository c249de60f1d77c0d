/** An RL recipe: every key of a run, with the default that is the recipe. */
import { z } from "zod";
import { templateNames } from "../chat/index.ts";
import { MuonClipConfig } from "../optim/index.ts";
import { type AlgorithmName, algorithms } from "./objectives.ts";

const share = () => z.number().min(0).max(1);
const positive = () => z.int().positive();

export const RlRecipe = z.strictObject({
  name: z.string().default("rl").describe("Names the run folder"),
  description: z.string().default("").describe("One line for people"),
  seed: z.int().default(1).describe("Decides tasks, samples and the order of updates"),
  device: z.string().default("cpu").describe("cpu, cuda, cuda:1, mps"),
  model: z.string().describe("The checkpoint to begin with, with its tokenizer: a folder"),
  template: z.enum(templateNames).default("instruct-v2").describe("The template of the chat format"),
  worlds: z
    .array(
      z.strictObject({
        world: z.string().describe("A shipped world or quiz, or a world's file"),
        weight: z.number().positive().default(1).describe("Share of the tasks, before the curriculum"),
        maxTokens: positive()
          .default(256)
          .describe("Budget control: most tokens that the model writes in an episode of this world"),
      }),
    )
    .min(1)
    .describe("Where tasks come from"),
  steps: positive().describe("Iterations: rollouts, then updates"),
  groups: positive().default(32).describe("Tasks of an iteration"),
  groupSize: z.int().min(2).default(8).describe("K: answers to each task"),
  rollouts: z
    .strictObject({
      url: z.string().describe("Of the engine, e.g. http://127.0.0.1:8000"),
      model: z.string().nullable().default(null).describe("The model's name there; null: the first that it lists"),
      key: z.string().nullable().default(null).describe("Environment variable that holds an admin's key"),
      concurrency: positive().default(32).describe("Requests under way at once"),
    })
    .nullable()
    .default(null)
    .describe(
      "An engine outside that takes the weights after every iteration and tells token ids; null: the one in this process",
    ),
  temperature: z
    .strictObject({
      first: z.number().positive().default(1).describe("Of sampling, at the first step"),
      last: z.number().positive().default(1).describe("At the last step; in a straight line between (K2's decay)"),
    })
    .prefault({}),
  objective: z
    .strictObject({
      name: z.enum(Object.keys(algorithms) as [AlgorithmName, ...AlgorithmName[]]).default("pmd"),
      tau: z.number().min(0).default(0.1).describe("τ of mirror descent"),
      clipLow: z.number().min(0).max(1).optional().describe("Instead of what is usual for the objective"),
      clipHigh: z.number().min(0).optional().describe("Instead of what is usual for the objective"),
    })
    .prefault({}),
  truncateWeights: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe(
      "C of truncated importance weights, for rollouts of another engine (2); null: none, this engine needs none",
    ),
  minibatches: positive().default(2).describe("Updates of an iteration, each on its part of the answers"),
  batch: z
    .strictObject({
      rows: positive().default(8).describe("Rows of a micro-batch"),
      seqLen: positive().default(512).describe("Tokens of a row; more where an episode is longer"),
    })
    .prefault({}),
  optimizer: MuonClipConfig.extend({
    learningRate: z.number().positive().default(3e-4).describe("Peak learning rate: 0.14 × that of pre-training"),
    weightDecay: z.number().min(0).default(0).describe("Decoupled weight decay λ"),
  }).prefault({}),
  finalRatio: share().default(0.15).describe("Last learning rate as a share of the first, in a straight line"),
  precision: z
    .enum(["float32", "bfloat16"])
    .default("float32")
    .describe("What products are computed in, of rollouts and of updates"),
  wideAttention: z
    .boolean()
    .nullable()
    .default(null)
    .describe(
      "Attention in float64, so that rollouts and updates give the same log-probabilities; null: in float32 on the CPU",
    ),
  activations: z.enum(["keep", "recompute"]).default("keep").describe("Keep each block's graph, or run it again"),
  trust: z
    .strictObject({
      signalPower: z
        .number()
        .min(0)
        .default(0.5)
        .describe("Rates are multiplied by the share of groups with signal to this power: Muon's step has no scale"),
      bound: z
        .number()
        .positive()
        .nullable()
        .default(0.5)
        .describe(
          "Most that an update may move the mean |sequence log-ratio|; beyond it is scaled back; null: no bound",
        ),
      probe: positive().default(32).describe("Answers that this is measured on"),
    })
    .prefault({}),
  budget: z
    .strictObject({
      penalty: z.number().min(0).default(0).describe("Taken off the reward of an answer that ran out of its budget"),
    })
    .prefault({}),
  length: z
    .strictObject({
      weight: z.number().min(0).default(0).describe("Weight of K1.5's length reward; 0 turns it off"),
      warmup: z.int().min(0).default(10).describe("Steps before it begins"),
    })
    .prefault({}),
  ptx: z
    .strictObject({
      weight: z.number().min(0).default(0).describe("Weight of the language-model loss beside the objective"),
      data: z
        .array(z.string())
        .default([])
        .describe("JSONL of conversations; empty: demonstrations of the worlds' oracles"),
      rows: positive().default(2).describe("Rows of it with every update"),
    })
    .prefault({}),
  critic: z
    .strictObject({
      weight: z.number().min(0).default(0).describe("Weight of the model's own ranking as a reward; 0: no critic"),
      bar: share().default(0.75).describe("Agreement with verifiers below which the ranking weighs nothing"),
      memory: positive().default(64).describe("Verifiable pairs that this is judged by: the last"),
      examined: positive().default(16).describe("Verifiable pairs of a step"),
      opponents: positive().default(2).describe("Other answers that each is compared with"),
      learn: z.number().min(0).default(0).describe("Weight of learning the right verdicts on the verifiable pairs"),
    })
    .prefault({}),
  partial: z
    .strictObject({
      tokens: positive()
        .nullable()
        .default(null)
        .describe("Tokens of an iteration; then episodes pause, and go on under the next weights; null: none pauses"),
      stale: z
        .enum(["mask", "ratio"])
        .default("mask")
        .describe("Tokens of earlier weights: no loss (K1.5), or their log-ratio to when they were sampled"),
    })
    .prefault({}),
  curriculum: z
    .strictObject({
      priority: share()
        .default(0.5)
        .describe("Share of tasks drawn by 1 − success of their type; the rest as they come"),
      refill: z.int().min(0).default(0).describe("Rounds of new tasks in place of groups without signal"),
      memory: share().default(0.9).describe("How much of its past a type's success rate keeps at each step"),
    })
    .prefault({}),
  guard: z
    .strictObject({
      fall: share()
        .default(0.35)
        .describe("A side (tasks to act, to refuse, to answer) this far below its best is falling"),
      patience: positive()
        .default(4)
        .describe("So many falling steps in a row are a lock-in: back to the last checkpoint"),
      brake: share().default(0.5).describe("What learning rates are multiplied by after each way back"),
      most: z.int().min(0).default(3).describe("Ways back before the run gives up"),
    })
    .prefault({}),
  evaluation: z
    .strictObject({
      every: positive().default(20).describe("Steps between evaluations; first and last are always evaluated"),
      split: z.string().default("heldout").describe("heldout, train, or names=…,wordings=…,pairs=…"),
      episodes: positive().default(128).describe("Held-out episodes of each world"),
      lastEpisodes: positive().default(512).describe("At the first and the last step"),
      baselines: z
        .record(z.string(), z.string())
        .default({})
        .describe("Other checkpoints for the table, by name: untrained, pre-trained"),
    })
    .prefault({}),
  checkpoint: z
    .strictObject({
      every: positive().default(10).describe("Steps between checkpoints"),
      keep: positive().default(2).describe("How many of the last are kept"),
    })
    .prefault({}),
});
export type RlRecipe = z.output<typeof RlRecipe>;
