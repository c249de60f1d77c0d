/**
 * Every parameter of a model: its name and shape here, and the checkpoint tensors it is made of.
 *
 * Two are stored together where one product does the work of several: gate and up ([2·I, D]), and the experts of a layer
 * ([E, 2·I, D] and [E, D, I]). Their pieces lie one after the other in memory, so a checkpoint tensor is a view.
 */
import { isMoe, type ModelConfig, qkHeadDim } from "./config.ts";

export interface ParameterSpec {
  name: string;
  shape: number[];
  /** `matrix` goes to Muon; `buffer` (the router's correction bias) is not trained by gradient. */
  kind: "matrix" | "embedding" | "norm" | "buffer";
  /** The checkpoint tensors, in memory order: how many, the name of each, and their common shape. */
  pieces: { count: number; name: (i: number) => string; shape: number[] };
  /** The layer it belongs to; -1 for the embedding, `numHiddenLayers` for the final norm and head. */
  layer: number;
  /** Whether it is a routed expert's, of which a token uses `numExpertsPerTok` of `nRoutedExperts`. */
  routed: boolean;
}

export const numel = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** All parameters, in the order of the forward pass. Allocates nothing: the 1T model takes a millisecond. */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  const { hiddenSize: D, numAttentionHeads: H, kvLoraRank, qLoraRank, nRoutedExperts: E, numHiddenLayers: L } = config;
  const specs: ParameterSpec[] = [];
  let layer = -1;
  const one = (name: string, shape: number[], kind: ParameterSpec["kind"] = "matrix") =>
    specs.push({ name, shape, kind, pieces: { count: 1, name: () => name, shape }, layer, routed: false });
  const gateUp = (prefix: string, inner: number) =>
    specs.push({
      name: `${prefix}.gate_up_proj.weight`,
      shape: [2 * inner, D],
      kind: "matrix",
      pieces: { count: 2, name: (i) => `${prefix}.${i ? "up" : "gate"}_proj.weight`, shape: [inner, D] },
      layer,
      routed: false,
    });
  const mlp = (prefix: string, inner: number) => {
    gateUp(prefix, inner);
    one(`${prefix}.down_proj.weight`, [D, inner]);
  };

  one("model.embed_tokens.weight", [config.vocabSize, D], "embedding");
  for (layer = 0; layer < L; layer++) {
    const block = `model.layers.${layer}`;
    const attn = `${block}.self_attn`;
    one(`${block}.input_layernorm.weight`, [D], "norm");
    if (qLoraRank === null) {
      one(`${attn}.q_proj.weight`, [H * qkHeadDim(config), D]);
    } else {
      one(`${attn}.q_a_proj.weight`, [qLoraRank, D]);
      one(`${attn}.q_a_layernorm.weight`, [qLoraRank], "norm");
      one(`${attn}.q_b_proj.weight`, [H * qkHeadDim(config), qLoraRank]);
    }
    one(`${attn}.kv_a_proj_with_mqa.weight`, [kvLoraRank + config.qkRopeHeadDim, D]);
    one(`${attn}.kv_a_layernorm.weight`, [kvLoraRank], "norm");
    one(`${attn}.kv_b_proj.weight`, [H * (config.qkNopeHeadDim + config.vHeadDim), kvLoraRank]);
    one(`${attn}.o_proj.weight`, [D, H * config.vHeadDim]);
    one(`${block}.post_attention_layernorm.weight`, [D], "norm");
    if (!isMoe(config, layer)) {
      mlp(`${block}.mlp`, config.intermediateSize);
      continue;
    }
    const I = config.moeIntermediateSize;
    const experts = `${block}.mlp.experts`;
    one(`${block}.mlp.gate.weight`, [E, D]);
    one(`${block}.mlp.gate.e_score_correction_bias`, [E], "buffer");
    specs.push({
      name: `${experts}.gate_up_proj`,
      shape: [E, 2 * I, D],
      kind: "matrix",
      pieces: { count: 2 * E, name: (i) => `${experts}.${i >> 1}.${i & 1 ? "up" : "gate"}_proj.weight`, shape: [I, D] },
      layer,
      routed: true,
    });
    specs.push({
      name: `${experts}.down_proj`,
      shape: [E, D, I],
      kind: "matrix",
      pieces: { count: E, name: (i) => `${experts}.${i}.down_proj.weight`, shape: [D, I] },
      layer,
      routed: true,
    });
    if (config.nSharedExperts) mlp(`${block}.mlp.shared_experts`, I * config.nSharedExperts);
  }
  one("model.norm.weight", [D], "norm");
  one("lm_head.weight", [config.vocabSize, D], "embedding");
  return specs;
}

export interface ModelSize {
  /** All parameters, the router's correction biases included. */
  parameters: number;
  /** Those that one token passes through, embedding and head included. */
  activeParameters: number;
  /** Total and active by part. */
  parts: Record<string, { parameters: number; activeParameters: number }>;
  /** Bytes of the weights. fp8 and int4 as K2 was released: blocks of 128 × 128 (specification §2.1), groups of 32 (§2.4). */
  weightBytes: Record<"fp32" | "bf16" | "fp8" | "int4", number>;
  /** Bytes of cache a token in bf16: the latent and the shared rotary key, every layer. */
  kvBytesPerToken: number;
  /** Forward FLOPs a token at context `context`: two a weight, and attention over half of it. */
  flopsPerToken: number;
  /** The same with the backward pass (three times the forward's). */
  trainFlopsPerToken: number;
}

/** Sizes of a model, from its config alone (specification §1.5). `context` in tokens is what attention looks back over. */
export function modelSize(config: ModelConfig, context = 4096): ModelSize {
  const parts: ModelSize["parts"] = {};
  let parameters = 0;
  let activeParameters = 0;
  let inProducts = 0;
  const weightBytes = { fp32: 0, bf16: 0, fp8: 0, int4: 0 };
  for (const spec of parameterSpecs(config)) {
    const n = numel(spec.shape);
    const active = spec.routed ? (n / config.nRoutedExperts) * config.numExpertsPerTok : n;
    const part = (parts[partOf(spec)] ??= { parameters: 0, activeParameters: 0 });
    part.parameters += n;
    part.activeParameters += active;
    parameters += n;
    activeParameters += active;
    addBytes(weightBytes, spec, n);
    if (spec.kind === "matrix" || spec.name === "lm_head.weight") inProducts += active;
  }
  const perPair = config.numAttentionHeads * (qkHeadDim(config) + config.vHeadDim);
  const flopsPerToken = 2 * inProducts + config.numHiddenLayers * context * perPair;
  const kvBytesPerToken = 2 * config.numHiddenLayers * (config.kvLoraRank + config.qkRopeHeadDim);
  const trainFlopsPerToken = 3 * flopsPerToken;
  return { parameters, activeParameters, parts, weightBytes, kvBytesPerToken, flopsPerToken, trainFlopsPerToken };
}

/** The router's biases stay fp32 and what is no product stays bf16; int4 is for routed experts alone. */
function addBytes(sum: ModelSize["weightBytes"], { kind, name, routed, pieces }: ParameterSpec, n: number): void {
  const bf16 = kind === "buffer" ? 4 * n : 2 * n;
  sum.fp32 += 4 * n;
  sum.bf16 += bf16;
  const [rows = 1, columns = 1] = pieces.shape;
  const blocks = Math.ceil(rows / 128) * Math.ceil(columns / 128);
  sum.fp8 += kind === "matrix" && !name.endsWith("mlp.gate.weight") ? n + 4 * pieces.count * blocks : bf16;
  const perRow = 4 * Math.ceil(columns / 8) + 2 * Math.ceil(columns / 32);
  sum.int4 += routed ? pieces.count * (rows * perRow + 8) : bf16;
}

function partOf({ name, kind }: ParameterSpec): string {
  if (name === "lm_head.weight") return "head";
  if (kind === "embedding") return "embedding";
  if (kind === "norm") return "norms";
  if (name.includes("self_attn")) return "attention";
  if (name.includes("shared_experts")) return "shared experts";
  if (name.includes(".experts.")) return "routed experts";
  return name.includes(".gate.") ? "router" : "dense MLP";
}
