/** An SFT recipe: what the loop of any training reads, the conversations, and how they are learned. */
import { z } from "zod";
import { templateNames } from "../../chat/index.ts";
import { MuonClipConfig, ScheduleConfig } from "../../optim/index.ts";
import { SplitConfig } from "../data/index.ts";
import { trainingShape } from "../recipe.ts";

export const SftRecipe = z.strictObject({
  ...trainingShape,
  name: z.string().default("sft").describe("Names the run folder"),
  model: z.string().describe("The checkpoint to begin with, with its tokenizer: a folder"),
  data: z
    .array(z.string())
    .default([])
    .describe("JSONL of trajectories, or of conversations in OpenAI's shape ({ messages, tools })"),
  template: z.enum(templateNames).default("instruct-v2").describe("The template of the chat format"),
  keepReasoning: z
    .boolean()
    .default(false)
    .describe("Every turn keeps its reasoning in the prompt; otherwise each chain of calls is an example of its own"),
  minReward: z.number().nullable().default(null).describe("Trajectories below this reward are passed over; null: none"),
  heldOut: SplitConfig.prefault({ fraction: 0.05 }).describe("What is kept apart for evaluation, by conversation"),
  epochs: z.number().positive().default(2).describe("Passes over the conversations"),
  steps: z.int().positive().nullable().default(null).describe("Optimizer steps, in place of epochs"),
  optimizer: MuonClipConfig.extend({
    learningRate: z.number().positive().default(6e-4).describe("Peak learning rate: 0.3 × that of pre-training"),
  }).prefault({}),
  schedule: ScheduleConfig.extend({
    decayFraction: z.number().min(0).max(1).default(0.8).describe("Share of all steps spent in the cosine decay"),
  }).prefault({}),
});
export type SftRecipe = z.output<typeof SftRecipe>;
