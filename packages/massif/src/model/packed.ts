/**
 * A model packed for massif::decode_step: one operator for a whole step over a paged cache, batch, prompt chunks and all.
 * Its plain twin is `BlockSteps` (step.ts), which other devices and dtypes take.
 *
 * Shapes: N rows, B sequences, M blocks a sequence, L layers, W = kvLoraRank + rope width, k experts a token.
 */
import { decodePack, decodeRepack, decodeStep, runsFused, runsNarrow, type Tensor, torch } from "@massif/torch";
import { INT4_GROUP, type Int4 } from "./int4.ts";
import type { Model } from "./model.ts";
import { softmaxScale } from "./rope.ts";
import type { Steps, Stretch } from "./step.ts";

/** A routed matrix [E, O, I] in INT4: int8 values, bfloat16 scales of groups of 32. */
export interface PackedExperts {
  values_EOI: Tensor;
  scale_EOG: Tensor;
}

export interface PackOptions {
  /** Whether matrices are packed in bfloat16 and rows rounded to it before a product. Default: as the weights are. */
  narrow?: boolean;
  /** INT4 of a routed parameter; undefined packs it as the others. */
  experts?: (name: string) => PackedExperts | undefined;
}

export class PackedModel implements Steps {
  readonly #model: Model;
  #packed: Tensor;
  readonly #options: PackOptions;
  #angles: { length: number; cos: Tensor; sin: Tensor } | undefined;

  /** What keeps a model from being packed here; undefined where it can be. `narrow` as in `PackOptions`. */
  static obstacle({ config, parameters, by }: Model, narrow = false): string | undefined {
    const embedding = parameters.get("model.embed_tokens.weight")!;
    const { dtype, device } = embedding;
    const { compute: _, wideAttention, ...own } = by; // What training computes in; decoding takes the weights as they are.
    if (Object.values(own).some(Boolean)) return "a model whose blocks compute in their own way";
    if (device !== "cpu") return `weights on ${device}`;
    if (dtype !== "float32" && dtype !== "bfloat16") return `weights in ${dtype}`;
    if (wideAttention && (narrow || dtype === "bfloat16")) return "attention in float64 beside weights in bfloat16";
    if (!runsFused(embedding) && !runsNarrow(embedding)) return "ATen's operators (MASSIF_OPS=plain)";
    if (config.nGroup > 64) return `${config.nGroup} expert groups (64 at most)`;
    // Products in bfloat16 take values in pairs.
    const odd = [
      ...[config.hiddenSize, config.qkNopeHeadDim, config.kvLoraRank, config.vHeadDim, config.qLoraRank ?? 0],
      ...[config.moeIntermediateSize, config.intermediateSize],
    ].find((width) => width % 2);
    if (odd && (narrow || dtype === "bfloat16")) return `an odd width in bfloat16: ${odd}`;
    return undefined;
  }

  constructor(model: Model, options: PackOptions = {}) {
    this.#model = model;
    this.#options = options;
    this.#packed = this.#pack();
  }

  #pack(): Tensor {
    const { by, config } = this.#model;
    const narrow = this.#options.narrow ?? this.#model.parameter("lm_head.weight").dtype === "bfloat16";
    const sizes = [
      ...[config.numHiddenLayers, config.hiddenSize, config.numAttentionHeads, config.qkNopeHeadDim],
      ...[config.qkRopeHeadDim, config.kvLoraRank, config.vHeadDim, config.qLoraRank ?? 0, config.nRoutedExperts],
      ...[config.numExpertsPerTok, config.nGroup, config.topkGroup, config.vocabSize, Number(config.normTopkProb)],
    ];
    const factors = [softmaxScale(config), config.rmsNormEps, config.latentNormEps, config.routedScalingFactor];
    return torch.keep(torch.tidy(() => decodePack(this.#weights(), sizes, factors, narrow, by.wideAttention)));
  }

  /** Packs the weights again, after they have changed. */
  refresh(): void {
    if (this.#packed.live) torch.tidy(() => decodeRepack(this.#packed, this.#weights()));
    else this.#packed = this.#pack();
  }

  /** Gives the memory back until `refresh`. INT4 stays: what it was packed from may be gone. */
  release(): void {
    if (!this.#options.experts) this.#packed.dispose();
  }

  step(
    stretches: readonly Stretch[],
    cache_LSW: Tensor,
    block: number,
    { hidden = false } = {},
  ): [wanted: Tensor, experts_LNk: Tensor] {
    const [B, N] = [stretches.length, stretches.reduce((sum, { tokens }) => sum + tokens.length, 0)];
    const ends = stretches.map(({ start, tokens }) => start + tokens.length);
    const M = Math.ceil(Math.max(...ends) / block);
    const ids_N = new Int32Array(N);
    const rows_BX = new Int32Array(B * (3 + M));
    let row = 0;
    for (const [b, { tokens, start, blocks, wanted }] of stretches.entries()) {
      for (let t = 0; t < tokens.length; t++) ids_N[row++] = tokens[t]!;
      const at = b * (3 + M);
      rows_BX[at] = start;
      rows_BX[at + 1] = tokens.length;
      rows_BX[at + 2] = wanted;
      for (let m = 0, n = Math.min(M, blocks.length); m < n; m++) rows_BX[at + 3 + m] = blocks[m]!;
    }
    const { cos, sin } = this.#anglesUpTo(Math.max(...ends));
    using ids = torch.tensor(ids_N);
    using rows = torch.tensor(rows_BX, { shape: [B, 3 + M] });
    const embedding = this.#model.parameter("model.embed_tokens.weight");
    return decodeStep(this.#packed, embedding, cos, sin, cache_LSW, ids, rows, block, hidden);
  }

  [Symbol.dispose](): void {
    this.#packed.dispose();
    this.#forgetAngles();
  }

  /** All weights but the embedding, in the order of the forward pass. */
  #weights(): Tensor[] {
    return this.#model.specs.flatMap(({ name, routed }) => {
      if (name === "model.embed_tokens.weight") return [];
      const int4 = routed ? this.#options.experts?.(name) : undefined;
      return int4 ? [int4.values_EOI, int4.scale_EOG] : [this.#model.parameter(name)];
    });
  }

  #anglesUpTo(length: number): { cos: Tensor; sin: Tensor } {
    if (!this.#angles || this.#angles.length < length) {
      this.#forgetAngles();
      const rows = Math.max(256, 2 ** Math.ceil(Math.log2(length)));
      const [cos, sin] = torch.keep(torch.tidy(() => [...this.#model.rotary.rows(0, rows)])) as [Tensor, Tensor];
      this.#angles = { length: rows, cos, sin };
    }
    return this.#angles;
  }

  #forgetAngles(): void {
    this.#angles?.cos.dispose();
    this.#angles?.sin.dispose();
    this.#angles = undefined;
  }
}

/** The INT4 matrices of a routed parameter, one below the other as its pieces are. */
export function packedExperts(parts: readonly Int4[], shape: readonly number[]): PackedExperts {
  const [E, O, I] = shape as [number, number, number];
  return {
    values_EOI: torch.cat(parts.map((part) => part.values_OI.to("int8"))).view([E, O, I]),
    scale_EOG: torch.cat(parts.map((part) => part.scale_OG.to("bfloat16"))).view([E, O, I / INT4_GROUP]),
  };
}
