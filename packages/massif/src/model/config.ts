/**
 * The shape of a Kimi K2 class model: DeepSeek-V3's architecture (arXiv 2412.19437) as K2 configures it (2507.20534 §2.3).
 * Read from and written as Hugging Face `config.json`, in Kimi K2's own layout (`kimi_k2`: rope_theta and rope_scaling at
 * the top) and in transformers' (`deepseek_v3`: rope_parameters). Names are Hugging Face's in camelCase.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { MassifError } from "../common/index.ts";

const size = () => z.int().positive();

export const YarnConfig = z.object({
  type: z.literal("yarn"),
  factor: z.number().positive().describe("How many times longer the context became"),
  originalMaxPositionEmbeddings: size().describe("The context length before YaRN"),
  betaFast: z
    .number()
    .default(32)
    .describe("Rotations over the original context above which a frequency is left alone"),
  betaSlow: z.number().default(1).describe("Rotations below which a frequency is divided by the factor"),
  mscale: z
    .number()
    .default(0)
    .describe("Scales cos and sin (together with mscaleAllDim, which divides); 0: not given"),
  mscaleAllDim: z.number().default(0).describe("Scales the softmax by its square; 0: not given"),
});
export type YarnConfig = z.infer<typeof YarnConfig>;

/** What no key says alone: tokens choose among experts that there are, in groups of equal size. */
export function routingFits({ value: c, issues }: z.core.ParsePayload<Routed>): void {
  const refuse = (key: keyof Routed, message: string) =>
    issues.push({ code: "custom", path: [key], message, input: c[key] });
  const size = c.nRoutedExperts / c.nGroup;
  if (!Number.isInteger(size) || (c.nGroup > 1 && size < 2))
    refuse("nGroup", `${c.nRoutedExperts} experts do not make ${c.nGroup} equal groups of two or more`);
  else if (c.topkGroup > c.nGroup) refuse("topkGroup", `${c.topkGroup} of ${c.nGroup} groups`);
  else if (c.numExpertsPerTok > c.topkGroup * size)
    refuse("numExpertsPerTok", `${c.numExpertsPerTok} of ${c.topkGroup * size} experts that a token may choose from`);
}
type Routed = Record<"nRoutedExperts" | "nGroup" | "topkGroup" | "numExpertsPerTok", number>;

export const ModelConfig = z
  .strictObject({
    vocabSize: size(),
    hiddenSize: size().describe("Width of the residual stream"),
    numHiddenLayers: size(),
    firstKDenseReplace: z.int().min(0).default(1).describe("The first k layers have a dense MLP instead of experts"),
    moeLayerFreq: size().default(1),
    intermediateSize: size().describe("Hidden width of the dense MLP"),
    moeIntermediateSize: size().describe("Hidden width of one expert"),
    numAttentionHeads: size(),
    qLoraRank: size().nullable().default(null).describe("Rank of the query compression; null for none"),
    kvLoraRank: size().describe("Width of the cached latent"),
    qkNopeHeadDim: size().describe("Query and key width a head without position"),
    qkRopeHeadDim: size()
      .multipleOf(2)
      .describe("Query width a head with rotary position, and width of the shared rotary key"),
    vHeadDim: size(),
    nRoutedExperts: size(),
    nSharedExperts: z.int().min(0).default(1),
    numExpertsPerTok: size(),
    nGroup: size().default(1).describe("Expert groups of group-limited routing"),
    topkGroup: size().default(1).describe("Groups a token may choose from"),
    normTopkProb: z.boolean().default(true),
    routedScalingFactor: z.number().positive().default(2.827),
    auxLossAlpha: z.number().min(0).default(0.001).describe("Weight of the sequence balance loss"),
    rmsNormEps: z.number().positive().default(1e-6),
    latentNormEps: z
      .number()
      .positive()
      .default(1e-6)
      .describe("Epsilon of the two latent norms: 1e-6 in the reference, rmsNormEps in vLLM and SGLang"),
    ropeTheta: z.number().positive().default(50000),
    ropeScaling: YarnConfig.nullable().default(null),
    maxPositionEmbeddings: size().default(131072),
    initializerRange: z.number().positive().default(0.02),
    bosTokenId: z.int().nullable().default(null),
    eosTokenId: z
      .union([z.int(), z.array(z.int())])
      .nullable()
      .default(null),
    padTokenId: z.int().nullable().default(null),
  })
  .check(routingFits);
export type ModelConfig = z.infer<typeof ModelConfig>;

const snake = (key: string) => key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
const camel = (key: string) => key.replace(/_([a-z])/g, (_, c: string) => c.toUpperCase());
const NOT_IN_FILES = new Set(["ropeTheta", "ropeScaling"]);

/** What the files also say, and what this implementation does: another value is refused rather than ignored. */
const FIXED: Record<string, unknown> = {
  hidden_act: "silu",
  scoring_func: "sigmoid",
  topk_method: "noaux_tc",
  attention_bias: false,
  tie_word_embeddings: false,
  rope_interleave: true,
};
const FIXED_ROPE: Record<string, unknown> = { attention_factor: null, truncate: true, partial_rotary_factor: 1 };

type Json = Record<string, unknown>;

/** The config in a parsed Hugging Face `config.json` (either layout). Throws `model.config` for a model that is no K2. */
export function fromHuggingFace(json: Json, where = "config.json"): ModelConfig {
  const refuse = (found: string, expected?: string) =>
    new MassifError("model.config", { found: `${where}: ${found}`, ...(expected && { expected }) });
  if (!["kimi_k2", "deepseek_v3"].includes(String(json.model_type))) {
    throw refuse(`model_type is ${JSON.stringify(json.model_type)}`, "kimi_k2 or deepseek_v3");
  }
  const check = (given: Json, fixed: Json) => {
    for (const [key, value] of Object.entries(fixed))
      if (given[key] !== undefined && given[key] !== value)
        throw refuse(`${key} is ${JSON.stringify(given[key])}`, JSON.stringify(value));
  };
  check(json, FIXED);
  const given: Json = {};
  for (const key of Object.keys(ModelConfig.shape)) {
    if (!NOT_IN_FILES.has(key) && json[snake(key)] !== undefined) given[key] = json[snake(key)];
  }
  if (given.qLoraRank === undefined) given.qLoraRank = null;
  const rope = (json.rope_parameters ?? { ...(json.rope_scaling as Json | null), rope_theta: json.rope_theta }) as Json;
  check(rope, FIXED_ROPE);
  if (rope.rope_theta !== undefined) given.ropeTheta = rope.rope_theta;
  const type = rope.rope_type ?? rope.type ?? "default";
  if (type === "yarn")
    given.ropeScaling = { ...Object.fromEntries(Object.entries(rope).map(([k, v]) => [camel(k), v])), type: "yarn" };
  else if (type !== "default") throw refuse(`rope type ${JSON.stringify(type)}`, "yarn or default");
  const parsed = ModelConfig.safeParse(given);
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!;
    throw refuse(`${snake(issue.path.join("."))}: ${issue.message}`);
  }
  return parsed.data;
}

/** The config as Hugging Face `config.json`. `kimi_k2` is what Moonshot publishes, `deepseek_v3` what transformers loads. */
export function toHuggingFace(
  config: ModelConfig,
  layout: "kimi_k2" | "deepseek_v3" = "deepseek_v3",
  dtype = "float32",
): Json {
  const out: Json = { architectures: ["DeepseekV3ForCausalLM"], model_type: layout };
  for (const [key, value] of Object.entries(config)) if (!NOT_IN_FILES.has(key)) out[snake(key)] = value;
  Object.assign(out, FIXED, {
    num_key_value_heads: config.numAttentionHeads,
    num_nextn_predict_layers: 0,
    attention_dropout: 0,
    use_cache: true,
  });
  const yarn =
    config.ropeScaling && Object.fromEntries(Object.entries(config.ropeScaling).map(([k, v]) => [snake(k), v]));
  if (layout === "kimi_k2") {
    return { ...out, seq_aux: true, rope_theta: config.ropeTheta, rope_scaling: yarn, torch_dtype: dtype };
  }
  const { type, ...rest } = yarn ?? { type: "default" };
  return { ...out, rope_parameters: { rope_type: type, rope_theta: config.ropeTheta, ...rest }, dtype };
}

/** Reads `config.json` (a file, or the folder it lies in). Throws `model.config`. */
export function readConfig(path: string): ModelConfig {
  const file = existsSync(path) && statSync(path).isDirectory() ? join(path, "config.json") : path;
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    throw new MassifError("model.config", {
      found: `cannot read ${file}`,
      expected: "a config.json of a kimi_k2 or deepseek_v3 model, or its folder",
      cause,
    });
  }
  try {
    return fromHuggingFace(JSON.parse(text) as Json, file);
  } catch (cause) {
    if (cause instanceof SyntaxError)
      throw new MassifError("model.config", { found: `${file} is no JSON: ${cause.message}`, cause });
    throw cause;
  }
}

/** Whether layer `i` has experts (else a dense MLP). */
export const isMoe = (config: ModelConfig, i: number): boolean =>
  i >= config.firstKDenseReplace && i % config.moeLayerFreq === 0;
/** Width of one head's query and key. */
export const qkHeadDim = (config: ModelConfig): number => config.qkNopeHeadDim + config.qkRopeHeadDim;
