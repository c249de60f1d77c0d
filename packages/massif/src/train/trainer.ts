/**
 * One training step of a K2 model: gradients of any number of micro-batches, then MuonClip, then the routers' biases.
 * Forward and backward are block by block (tape.ts); the loss is the mean over all targets of the step.
 */
import { type Tensor, torch } from "@massif/torch";
import { expertLoad, Model, modelSize, updateRouterBias } from "../model/index.ts";
import { MuonClip, type MuonClipConfig } from "../optim/index.ts";
import { IGNORE, type Rows } from "./data/index.ts";
import type { Precision } from "./precision.ts";
import { type Activations, accumulate, Tape, type Trained } from "./tape.ts";

export interface TrainerConfig {
  optimizer: MuonClipConfig;
  /** What products are computed in; masters and their gradients, residual stream, norms, router and losses stay float32. */
  precision: Precision;
  activations: Activations;
  /** In float64 attention gives the bits that an engine over the same model gives. Default: as its inputs. */
  attention?: "float64";
  /** Weight of the sequence balance loss. */
  balanceLoss: number;
}

/** What the gradients of a step say, before the weights move. */
export interface Gradients {
  /** Mean negative log-likelihood of the targets, nats. */
  loss: number;
  targets: number;
  gradNorm: number;
  /** [layer][head], the largest softmax inputs. */
  maxLogits: number[][];
  /** [layer with experts][expert], tokens routed. */
  load: number[][];
}

/** dL/dlog p of each target of micro-batch `micro`, [B·T], given log p (0 where there is no target). */
export type Weigh = (logp: Float32Array, micro: number) => Float32Array;

export interface GradientOptions {
  /** Default: −1 over all targets of the step, whose gradient is that of the mean negative log-likelihood. */
  weigh?: Weigh;
  /** Divides the logits, as when the targets were sampled. */
  temperature?: number;
  /** Told the experts of each position of micro-batch `micro`: of each layer with experts [B·T·k]. */
  routed?: (experts: Int32Array[], micro: number) => void;
}

export interface Applied {
  /** [layer][head]: γ times the maximum for a clipped head. */
  maxLogitsAfter: number[][];
  clippedHeads: number;
}

export class Trainer {
  readonly config: TrainerConfig;
  readonly optimizer: MuonClip;
  /** The model whose weights are the masters: what is saved. */
  readonly master: Model;
  /** The same weights, computing in the precision of the config: what runs. */
  readonly model: Model;
  readonly #blocks: Trained[][];
  readonly #embed: Trained;
  readonly #head: Trained[];
  readonly #load_E = new Map<number, Tensor>();

  /** Takes over the parameters of `model`. */
  constructor(model: Model, config: TrainerConfig) {
    this.config = config;
    this.master = model;
    const { optimizer, precision } = config;
    this.optimizer = new MuonClip(model, { ...optimizer, newtonSchulz: optimizer.newtonSchulz ?? precision });
    this.model = new Model(model.config, new Map(model.parameters), {
      compute: config.precision === model.parameter("lm_head.weight").dtype ? undefined : config.precision,
      wideAttention: config.attention === "float64",
    });
    this.#blocks = model.blocks.map(() => []);
    this.#head = [];
    let embed: Trained | undefined;
    for (const { members } of this.optimizer.groups) {
      for (const { spec, value, grad } of members) {
        const trained = { weight: value, grad };
        if (spec.layer < 0) embed = trained;
        else (this.#blocks[spec.layer] ?? this.#head).push(trained);
      }
    }
    this.#embed = embed!;
  }

  /** FLOPs of training on one token: forward and backward, attention counted causally. */
  flopsPerToken(seqLen: number): number {
    return modelSize(this.model.config, seqLen).trainFlopsPerToken;
  }

  /** Adds up the gradients of the micro-batches of one step; the weights stay. */
  gradients(batches: readonly Rows[], { weigh, temperature = 1, routed }: GradientOptions = {}): Gradients {
    const targets = batches.reduce((n, { targets }) => n + targets.reduce((m, t) => m + (t === IGNORE ? 0 : 1), 0), 0);
    this.optimizer.zeroGrad();
    using _ = torch.scope();
    const maxima: Tensor[][] = [];
    const losses: Tensor[] = [];
    this.discard();
    const sequences = batches.reduce((n, { batch }) => n + batch, 0);
    for (const [micro, rows] of batches.entries()) {
      using inner = torch.scope();
      const balance = (this.config.balanceLoss * rows.batch) / sequences;
      // Of −log p: what an objective says of log p, with its sign turned.
      const gradOf = (nll_N: Tensor): Tensor =>
        weigh
          ? torch.tensor(weigh(nll_N.neg().toTypedArray() as Float32Array, micro), { device: nll_N.device }).neg()
          : torch.full_like(nll_N, 1 / Math.max(1, targets));
      const tell = routed && ((experts: Int32Array[]) => routed(experts, micro));
      const { nll, maxLogits_H, loads_E } = this.#micro(rows, gradOf, temperature, balance, tell);
      losses.push(inner.keep(nll));
      maxima.push(inner.keep(maxLogits_H));
      for (const [layer, load_E] of loads_E) {
        const sum = this.#load_E.get(layer);
        if (sum) sum.add_(load_E);
        else this.#load_E.set(layer, torch.keep(load_E));
      }
    }
    const max_LH = maxima.map((list) => torch.stack(list)).reduce((a, b) => a.maximum(b));
    const load = [...this.#load_E.values()];
    return {
      loss: losses.reduce((a, b) => a.add(b)).item() / Math.max(1, targets),
      targets,
      gradNorm: this.optimizer.gradNorm(),
      maxLogits: max_LH.tolist() as number[][],
      load: load.length ? (torch.stack(load).tolist() as number[][]) : [],
    };
  }

  /** Moves the weights by the gradients that were added up, at `rate` times the peak learning rate, and the routers' biases
   *  by `biasRate` (u of auxiliary-loss-free balancing). */
  apply({ maxLogits, gradNorm }: Gradients, rate: number, biasRate: number): Applied {
    const { clipped } = this.optimizer.step(rate, maxLogits, gradNorm);
    using _ = torch.noGrad();
    using _scope = torch.scope();
    for (const [layer, load_E] of this.#load_E) {
      const bias_E = this.master.parameter(`model.layers.${layer}.mlp.gate.e_score_correction_bias`);
      updateRouterBias(bias_E, load_E, biasRate);
      load_E.dispose();
    }
    this.#load_E.clear();
    const maxLogitsAfter = maxLogits.map((row, layer) =>
      row.map((max, head) => max * (clipped[layer]!.find((c) => c.head === head)?.gamma ?? 1)),
    );
    return { maxLogitsAfter, clippedHeads: clipped.reduce((n, heads) => n + heads.length, 0) };
  }

  /** Throws the gradients away: the step is skipped. */
  discard(): void {
    for (const load_E of this.#load_E.values()) load_E.dispose();
    this.#load_E.clear();
  }

  #micro(
    rows: Rows,
    gradOf: (nll_N: Tensor) => Tensor,
    temperature: number,
    balance: number,
    routed?: (experts: Int32Array[]) => void,
  ): { nll: Tensor; maxLogits_H: Tensor[]; loads_E: [number, Tensor][] } {
    const { model } = this;
    const { ids_BT, targets_BT, ...documents } = this.#tensors(rows);
    const context = model.context(rows.seqLen, { ...documents, balance });
    const tape = new Tape(this.config.activations, this.#blocks);
    const maxLogits_H: Tensor[] = [];
    const loads_E: [number, Tensor][] = [];
    const experts: Int32Array[] = [];

    let x_BTD = torch.noGrad(() => model.embed(ids_BT));
    for (const block of model.blocks) {
      const output = tape.forward(block, x_BTD, context);
      x_BTD = output.y_BTD;
      maxLogits_H.push(output.maxLogit_H);
      if (!output.idx_Nk) continue;
      loads_E.push([block.index, expertLoad(output.idx_Nk, model.config)]);
      if (routed) experts.push(output.idx_Nk.to("int32").toTypedArray() as Int32Array);
    }
    routed?.(experts);
    const head = this.#headBackward(x_BTD, targets_BT, gradOf, temperature);
    let grad_BTD = head.grad_BTD;
    for (let i = model.blocks.length; i-- > 0; ) grad_BTD = tape.backward(grad_BTD);
    using _ = torch.noGrad();
    this.#embed.grad.index_add_(0, ids_BT.flatten(), grad_BTD.flatten(0, 1).to(this.#embed.grad.dtype));
    return { nll: head.nll, maxLogits_H, loads_E };
  }

  /** Loss (the sum over targets), and the last block's gradient for what `gradOf` says of each token's. */
  #headBackward(
    x_BTD: Tensor,
    targets_BT: Tensor,
    gradOf: (nll_N: Tensor) => Tensor,
    temperature: number,
  ): { nll: Tensor; grad_BTD: Tensor } {
    return torch.tidy(() => {
      const input = x_BTD.detach();
      input.requiresGrad = true;
      const nll_N = this.model.nll(input, targets_BT, temperature);
      const inputs = [input, ...this.#head.map((t) => t.weight)];
      const [grad_BTD, ...dw] = torch.grad(nll_N, inputs, { gradOutputs: [gradOf(nll_N.detach())] });
      accumulate(this.#head, dw);
      return { nll: nll_N.detach().sum(), grad_BTD: grad_BTD! };
    });
  }

  /** Summed negative log-likelihood of rows, without gradients. */
  evaluate(rows: Rows): number {
    using _ = torch.noGrad();
    using _scope = torch.scope();
    const { ids_BT, targets_BT, ...documents } = this.#tensors(rows);
    const x_BTD = this.model.forward(ids_BT, this.model.context(rows.seqLen, documents));
    return this.model.nll(x_BTD, targets_BT).sum().item();
  }

  /** log p of each target (0 where there is none), [B·T], at each of the temperatures; one forward pass. */
  logProbs(rows: Rows, temperatures: readonly number[] = [1]): Float32Array[] {
    using _ = torch.noGrad();
    using _scope = torch.scope();
    const { ids_BT, targets_BT, ...documents } = this.#tensors(rows);
    const x_BTD = this.model.forward(ids_BT, this.model.context(rows.seqLen, documents));
    return temperatures.map((t) => this.model.nll(x_BTD, targets_BT, t).neg().toTypedArray() as Float32Array);
  }

  #tensors({ batch, seqLen, ids, targets, docStart, shared }: Rows): {
    ids_BT: Tensor;
    targets_BT: Tensor;
    docStart_BT: Tensor | null;
    shared_BT2: Tensor | null;
  } {
    const of = (data: Int32Array, shape = [batch, seqLen]) => torch.tensor(data, { shape, device: this.model.device });
    return {
      ids_BT: of(ids),
      targets_BT: of(targets).to("int64"),
      docStart_BT: docStart.some((start) => start > 0) ? of(docStart) : null,
      shared_BT2: shared ? of(shared, [batch, seqLen, 2]) : null,
    };
  }

  dispose(): void {
    this.model.rotary.dispose();
    this.master.dispose();
    this.optimizer.dispose();
  }
}
