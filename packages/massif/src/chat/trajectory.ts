/** One record of what an agent did: messages, tools, verdicts, tokens. Written by the one agent loop; read by SFT, RL,
 *  judge, exporters, evaluation and studio. One JSONL row each (agentic-data.md C1): the chat part is plain OpenAI, and
 *  everything else sits in named blocks that an exporter drops or maps. */
import { createHash } from "node:crypto";
import { z } from "zod";
import { pythonJson } from "./json.ts";
import { MessageSchema, ToolSpecSchema } from "./types.ts";

export const trajectoryVersion = "massif.trajectory/1";

const Json = z.record(z.string(), z.unknown());
const verdict = z.boolean().nullable();

/** What was asked: enough to make the same episode again. */
const Task = z.strictObject({
  world: z.string(),
  version: z.string(),
  /** Everything in the episode comes from it. */
  seed: z.union([z.number(), z.string()]),
  goal: z.unknown().optional(),
  policies: z.array(z.string()).optional(),
  persona: z.string().optional(),
  /** Planner's minimum steps, branching, distractors, faults, as numbers. */
  difficulty: z.record(z.string(), z.number()).optional(),
  split: z.string().optional(),
});

const Verification = z.strictObject({
  initialHash: z.string(),
  finalHash: z.string(),
  diff: z.array(z.strictObject({ path: z.string(), before: z.unknown().optional(), after: z.unknown().optional() })),
  /** Required predicates on the end state, values to be told, changes and calls that may not be: true is well. */
  goals: z.record(z.string(), verdict),
  told: z.record(z.string(), verdict).optional(),
  unchanged: verdict,
  allowed: verdict,
  /** A replay from the seed gave the same hashes and results. */
  replayed: verdict,
});

const Reward = z.strictObject({
  total: z.number(),
  /** The verdict's first reason why not; absent where there is none. */
  why: z.string().optional(),
  components: z.record(
    z.string(),
    z.strictObject({
      value: z.number(),
      weight: z.number(),
      kind: z.enum(["verifiable", "rubric", "format", "budget"]),
      /** Version of what evaluated it. */
      evaluator: z.string(),
    }),
  ),
});

const Rubric = z.strictObject({
  criteria: z.array(
    z.strictObject({
      id: z.string(),
      text: z.string(),
      /** Negative for pitfalls. */
      weight: z.number(),
      class: z.enum(["essential", "important", "optional", "pitfall"]),
      verdict,
      evidence: z.strictObject({ message: z.int().nonnegative(), quote: z.string() }).optional(),
      judge: z.string(),
    }),
  ),
  /** Comparisons with another trajectory, in both orders. */
  pairs: z
    .array(z.strictObject({ other: z.string(), order: z.enum(["ab", "ba"]), winner: z.string().nullable() }))
    .optional(),
});

export const FinishReasonSchema = z.enum(["stop", "tool_calls", "length"]);
/** Why an episode ended: by itself; by a limit on the model's messages, or on what it writes in all; by a message that was
 *  cut; by a prompt too long for the model; by an upstream that refused to go on. */
export const EndedSchema = z.enum(["done", "steps", "tokens", "length", "context", "content_filter"]);
export type Ended = z.output<typeof EndedSchema>;
export const TokenSourceSchema = z.enum(["template", "system", "user", "tool", "assistant"]);

/** The tokens of the whole conversation as the model saw and wrote them; they are never made again from text. */
const Tokens = z
  .strictObject({
    tokenizer: z.string(),
    template: z.string(),
    ids: z.array(z.int().nonnegative()),
    /** For each token; what the model wrote (`assistant`) is what has a loss. */
    sources: z.array(TokenSourceSchema),
    /** Natural log-probability with which a token was sampled; null where it was not. */
    logprobs: z.array(z.number().max(0).nullable()).optional(),
    /** Where each message of the model begins and ends ([start, end) in `ids`), and why it ended. */
    turns: z.array(
      z.strictObject({
        message: z.int().nonnegative(),
        start: z.int().nonnegative(),
        end: z.int().nonnegative(),
        finish: FinishReasonSchema,
        /** Version of the weights that sampled it. */
        weights: z.union([z.number(), z.string()]).optional(),
      }),
    ),
  })
  .refine(
    ({ ids, sources, logprobs }) => sources.length === ids.length && (logprobs?.length ?? ids.length) === ids.length,
    {
      error: "sources and logprobs have one entry a token",
      path: ["sources"],
    },
  )
  .refine(({ ids, turns }) => turns.every(({ start, end }) => start <= end && end <= ids.length), {
    error: "a turn lies within the tokens",
    path: ["turns"],
  });

const Filter = z.strictObject({
  name: z.string(),
  version: z.string(),
  pass: z.boolean(),
  reason: z.string().optional(),
});

const Provenance = z.strictObject({
  /** Who played which role: model, sampling, hash of the prompt. */
  generators: z
    .record(z.string(), z.strictObject({ model: z.string(), sampling: Json.optional(), prompt: z.string().optional() }))
    .optional(),
  /** Seed of whatever made it, beside the seed of its task. */
  seed: z.union([z.number(), z.string()]).optional(),
  parents: z.array(z.string()).optional(),
  licence: z.string().optional(),
  commit: z.string().optional(),
});

/** A row is strict in its blocks (an unknown key is an error) and tolerant in its messages. Calls and results are the
 *  messages' `tool_calls` and tool messages. */
export const TrajectorySchema = z.strictObject({
  schema: z.literal(trajectoryVersion, `schema is not ${trajectoryVersion}: this Massif reads no other version`),
  /** `trajectoryId` of the row. */
  id: z.string(),
  messages: z.array(MessageSchema).min(1),
  /** As shown to the model, in the order shown, distractors included. */
  tools: z.array(ToolSpecSchema),
  /** Where each tool comes from: an MCP server's id, or its lineage in synthesis. */
  tool_source: z.record(z.string(), z.string()).optional(),
  task: Task.optional(),
  verification: Verification.optional(),
  reward: Reward.optional(),
  rubric: Rubric.optional(),
  filters: z.array(Filter).optional(),
  provenance: Provenance.optional(),
  ended: EndedSchema.optional(),
  tokens: Tokens.optional(),
  /** Seconds by what they went to: no part of the id. */
  timings: z.record(z.string(), z.number()).optional(),
});
export type Trajectory = z.output<typeof TrajectorySchema>;

/** SHA-256 (hex) of the row's canonical JSON, keys sorted, without `id` and `timings`: the same content has the same id
 *  whenever and wherever it was made. */
export function trajectoryId({ id: _, timings: __, ...content }: Omit<Trajectory, "id"> & { id?: string }): string {
  return createHash("sha256")
    .update(pythonJson(content, { separators: [",", ":"], sortKeys: true }))
    .digest("hex");
}

/** A trajectory in its version and with its id. */
export function trajectory(content: Omit<Trajectory, "schema" | "id">): Trajectory {
  const row = { schema: trajectoryVersion, ...content } as const;
  return { schema: row.schema, id: trajectoryId(row), ...content };
}
