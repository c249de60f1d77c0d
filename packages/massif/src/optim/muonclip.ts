/**
 * MuonClip: Muon for matrices, AdamW for the rest, one learning rate for both, and QK-Clip after the step. The gradient is
 * clipped by its global norm before it enters the momentum; the orthogonalized update is never clipped.
 */
import { type Tensor, torch } from "@massif/torch";
import { z } from "zod";
import type { Model } from "../model/index.ts";
import { type AdamWState, adamwStep } from "./adamw.ts";
import { type Group, makeGroups } from "./arena.ts";
import { muonSteps } from "./muon.ts";
import { type ClippedHead, clipHeads, headsToClip } from "./qk-clip.ts";

export const MuonClipConfig = z.strictObject({
  learningRate: z
    .number()
    .positive()
    .default(2e-3)
    .describe("Peak learning rate, of Muon and AdamW alike (update RMS is matched)"),
  weightDecay: z.number().min(0).default(0.1).describe("Decoupled weight decay λ"),
  matrices: z
    .enum(["muon", "adamw"])
    .default("muon")
    .describe("Optimizer of the matrices; adamw is there to compare with"),
  momentum: z.number().min(0).max(1).default(0.95).describe("Muon's μ"),
  nesterov: z
    .boolean()
    .default(true)
    .describe("Moonlight's code feeds G + μM to Newton–Schulz, K2's Algorithm 1 feeds M"),
  newtonSchulz: z
    .enum(["float32", "bfloat16"])
    .nullable()
    .default(null)
    .describe("Dtype of the Newton–Schulz iteration; null: what products are computed in"),
  betas: z.tuple([z.number(), z.number()]).default([0.9, 0.95]).describe("AdamW's betas"),
  eps: z.number().positive().default(1e-8).describe("AdamW's epsilon"),
  gradClip: z.number().positive().nullable().default(1).describe("Largest global gradient norm; null for none"),
  qkClip: z.number().positive().nullable().default(100).describe("τ of QK-Clip, K2's 100; null for none"),
});
export type MuonClipConfig = z.infer<typeof MuonClipConfig>;

export interface StepReport {
  gradNorm: number;
  /** For each layer, the heads that were clipped. */
  clipped: ClippedHead[][];
}

export class MuonClip {
  readonly config: MuonClipConfig;
  readonly groups: Group[];
  readonly #model: Model;
  readonly #momentum = new Map<Group, Tensor>();
  readonly #adamw = new Map<Group, AdamWState>();

  /** Takes the model's parameters into its groups: leaves that require gradients. */
  constructor(model: Model, config: MuonClipConfig) {
    this.#model = model;
    this.config = config;
    this.groups = makeGroups(model.specs, model.parameters as Map<string, Tensor>);
    for (const group of this.groups) {
      const zeros = () => torch.keep(torch.zeros_like(group.value));
      if (this.#usesMuon(group)) this.#momentum.set(group, zeros());
      else
        this.#adamw.set(group, {
          m: [zeros()],
          v: [zeros()],
          step: [torch.keep(torch.zeros([], { device: model.device }))],
        });
    }
  }

  #usesMuon(group: Group): boolean {
    return group.optimizer === "muon" && this.config.matrices === "muon";
  }

  zeroGrad(): void {
    for (const { grad } of this.groups) grad.zero_();
  }

  /** The global norm of all gradients. */
  gradNorm(): number {
    using _ = torch.scope();
    return Math.sqrt(this.groups.reduce((sum, { grad }) => sum + grad.norm().item() ** 2, 0));
  }

  /**
   * One step at `rate` times the peak learning rate. `maxLogits_LH` are the maxima of this step's forward pass.
   * `gradNorm`, when the caller has it already, is not computed again.
   */
  step(rate: number, maxLogits_LH: readonly ArrayLike<number>[] = [], gradNorm = this.gradNorm()): StepReport {
    const { config } = this;
    // Before anything moves: a maximum that is not finite refuses the whole step.
    const clipped = maxLogits_LH.map((max_H) => (config.qkClip === null ? [] : headsToClip(max_H, config.qkClip)));
    const learningRate = config.learningRate * rate;
    const { weightDecay } = config;
    using _ = torch.noGrad();
    for (const { grad } of this.groups)
      if (config.gradClip !== null && gradNorm > config.gradClip) grad.mul_(config.gradClip / gradNorm);
    muonSteps(
      [...this.#momentum].map(([{ value, grad }, momentum]) => [value, grad, momentum]),
      { ...config, learningRate },
    );
    for (const [{ value, grad }, state] of this.#adamw)
      adamwStep([value], [grad], state, { ...config, learningRate, weightDecay });
    for (const [layer, heads] of clipped.entries()) if (heads.length) this.#clip(layer, heads);
    return { gradNorm, clipped };
  }

  #clip(layer: number, heads: ClippedHead[]): void {
    const c = this.#model.config;
    const attn = `model.layers.${layer}.self_attn`;
    const q = this.#model.parameter(`${attn}.${c.qLoraRank === null ? "q_proj" : "q_b_proj"}.weight`);
    const rows = { heads: c.numAttentionHeads, nope: c.qkNopeHeadDim, rope: c.qkRopeHeadDim, value: c.vHeadDim };
    clipHeads(q, this.#model.parameter(`${attn}.kv_b_proj.weight`), heads, rows);
  }

  /** Everything a later run needs to go on exactly, by name. */
  *state(): Generator<[string, Tensor]> {
    for (const group of this.groups) {
      const momentum = this.#momentum.get(group);
      if (momentum) yield [`${group.name}.momentum`, momentum];
      const adamw = this.#adamw.get(group);
      if (!adamw) continue;
      yield [`${group.name}.m`, adamw.m[0]!];
      yield [`${group.name}.v`, adamw.v[0]!];
      yield [`${group.name}.step`, adamw.step[0]!];
    }
  }

  /** Frees gradients and state; the parameters are the model's. */
  dispose(): void {
    for (const [, tensor] of this.state()) tensor.dispose();
    for (const { value, grad, members } of this.groups)
      for (const tensor of [value, grad, ...members.map((m) => m.grad)]) tensor.dispose();
  }

  /** Floating-point operations of one step's Newton–Schulz iterations. */
  get newtonSchulzFlops(): number {
    let flops = 0;
    for (const group of this.#momentum.keys()) {
      const [N, A, B] = group.value.shape as [number, number, number];
      const [short, long] = [Math.min(A, B), Math.max(A, B)];
      flops += N * 5 * (4 * short * short * long + 2 * short ** 3);
    }
    return flops;
  }
}
