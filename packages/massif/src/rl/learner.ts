/**
 * The updates of an iteration: sequences with advantages in, weights moved. Muon's step does not shrink with the signal, so
 * what one update may move is bounded here: its rate follows the share of groups with signal, and an update that moved the
 * policy too far is scaled back (study: notes/small-rl.md, point 5).
 */
import { type Tensor, torch } from "@massif/torch";
import type { Random } from "../common/index.ts";
import { type Applied, type Gradients, IGNORE, type Rows, shares, type Trainer } from "../train/index.ts";
import { type Algorithm, algorithms, differentiate, type Parameters, truncatedWeights } from "./objectives.ts";
import type { RlRecipe } from "./recipe.ts";
import { type MicroBatch, microBatches, type Sequence } from "./sequences.ts";
import { meanOf } from "./statistics.ts";

/** A language-model loss beside the objective: rows anew for every update, and the weight of their mean. */
export interface SideLoss {
  name: string;
  weight: number;
  next(): Rows[];
}

export interface UpdateOptions {
  /** Share of the peak learning rate. */
  rate: number;
  temperature: number;
  random: Random;
  sides?: readonly SideLoss[];
}

/** What the updates of an iteration were. Log-probabilities are of tokens unless it says sequence; nats. */
export interface UpdateReport {
  updates: number;
  sequences: number;
  tokens: number;
  objective: number;
  gradNorm: number;
  maxLogit: number;
  clippedHeads: number;
  /** |log p of the trainer − log p of the rollout| before the first update: should be 0. */
  mismatch: number;
  mismatchMean: number;
  /** Share of these tokens whose experts are the rollout's in every layer; undefined where the engine does not tell. */
  routingEqual?: number;
  /** −mean log p of what was sampled. */
  entropy: number;
  /** KL(π_old ‖ π_θ) of tokens as an update found it, estimated by ρ − 1 − log ρ; 0 in the first. */
  kl: number;
  /** Largest ratio π_θ/π_old of a token. */
  ratio: number;
  /** Mean |sequence log-ratio| that an update moved, before and after it was scaled back. */
  moved: number;
  movedBounded: number;
  scaledBack: number;
  /** Of the side losses, by name: nats a token. */
  sideLosses: Record<string, number>;
  trainedTokens: number;
  /** Every head and every expert, of the last update that was applied. */
  matrices?: { maxLogits: number[][]; maxLogitsAfter: number[][]; expertLoad: number[][] };
}

export class Learner {
  readonly #trainer: Trainer;
  readonly #recipe: RlRecipe;
  readonly #algorithm: Algorithm;
  readonly #parameters: Parameters;

  constructor(trainer: Trainer, recipe: RlRecipe) {
    this.#trainer = trainer;
    this.#recipe = recipe;
    const { name, tau, clipLow, clipHigh } = recipe.objective;
    this.#algorithm = algorithms[name];
    this.#parameters = {
      tau,
      clipLow: clipLow ?? this.#algorithm.parameters.clipLow ?? 0.2,
      clipHigh: clipHigh ?? this.#algorithm.parameters.clipHigh ?? 0.2,
      maxTokens: Math.max(...recipe.worlds.map(({ maxTokens }) => maxTokens)),
    };
  }

  get advantage(): Algorithm["advantage"] {
    return this.#algorithm.advantage;
  }

  /** Undefined where there is nothing to learn. An update whose gradient is not finite is left out; the report shows it. */
  update(sequences: readonly Sequence[], options: UpdateOptions): UpdateReport | undefined {
    const some = sequences.filter(({ learn }) => learn.some(Boolean));
    if (!some.length) return undefined;
    const { minibatches, batch, truncateWeights } = this.#recipe;
    const { temperature, random } = options;
    const order = random.shuffle([...some.keys()]);
    const parts = Math.min(minibatches, some.length);
    const tally = new Tally();
    // At another temperature than 1, or for another engine's samples, the old policy is what the trainer says it is.
    const recompute = temperature !== 1 || truncateWeights !== null;
    const old = recompute ? this.#oldPolicy(some, temperature, tally) : some.map(({ sampled }) => sampled);
    for (let part = 0; part < parts; part++) {
      const mine = order.filter((_, i) => i % parts === part);
      const layouts = microBatches(
        mine.map((i) => some[i]!),
        batch,
      );
      const first = part === 0 && !recompute;
      this.#one(
        layouts,
        mine.map((i) => some[i]!),
        mine.map((i) => old[i]!),
        options,
        tally,
        { first, firstUpdate: part === 0 },
      );
    }
    return tally.report();
  }

  /** log p of every token at the temperature, before anything moves. */
  #oldPolicy(sequences: readonly Sequence[], temperature: number, tally: Tally): Float32Array[] {
    const old = sequences.map(({ ids }) => new Float32Array(ids.length));
    for (const { rows, at, sequence, token } of microBatches(sequences, this.#recipe.batch)) {
      const [plain, tempered] = this.#trainer.logProbs(rows, [1, temperature]);
      for (const [i, position] of at.entries()) {
        old[sequence[i]!]![token[i]!] = tempered![position]!;
        const { fresh, sampled } = sequences[sequence[i]!]!;
        if (fresh[token[i]!]) tally.mismatch(plain![position]! - sampled[token[i]!]!);
      }
    }
    return old;
  }

  #one(
    layouts: readonly MicroBatch[],
    sequences: readonly Sequence[],
    old: readonly Float32Array[],
    { rate, temperature, sides = [] }: UpdateOptions,
    tally: Tally,
    { first, firstUpdate }: { first: boolean; firstUpdate: boolean },
  ): void {
    const { trust, truncateWeights } = this.#recipe;
    const total = { sequences: sequences.length, tokens: layouts.reduce((n, { at }) => n + at.length, 0) };
    /** log p of each sequence under the weights as they are. */
    const before = new Float64Array(sequences.length);
    const beside = sides.flatMap(({ name, weight, next }) => {
      const parts = next();
      const targets = parts.reduce((n, { targets }) => n + targets.reduce((m, t) => m + (t === IGNORE ? 0 : 1), 0), 0);
      return targets ? parts.map((rows) => ({ name, rows, weight, targets })) : [];
    });
    const batches = [...layouts.map(({ rows }) => rows), ...beside.map(({ rows }) => rows)];

    const weigh = (logp: Float32Array, micro: number): Float32Array => {
      const layout = layouts[micro];
      if (!layout) {
        const { name, weight, targets } = beside[micro - layouts.length]!;
        tally.side(name, -logp.reduce((a, b) => a + b, 0) / targets);
        return logp.map(() => -weight / targets);
      }
      const { at, sequence, token } = layout;
      const now = Float32Array.from(at, (position) => logp[position]!);
      const was = Float32Array.from(token, (t, i) => old[sequence[i]!]![t]!);
      for (const [i, s] of sequence.entries()) {
        before[s]! += now[i]!;
        if (first && sequences[s]!.fresh[token[i]!]) tally.mismatch(now[i]! - was[i]!);
      }
      tally.policy(now, was);
      const { loss, gradient } = this.#differentiate(layout, sequences, now, was, total);
      tally.objective(loss);
      const sampled = (i: number) => sequences[sequence[i]!]!.sampled[token[i]!]!;
      const weights = truncateWeights
        ? truncatedWeights(
            was,
            Float32Array.from(token, (_, i) => sampled(i)),
            truncateWeights,
          )
        : undefined;
      const weight = new Float32Array(logp.length);
      for (const [i, position] of at.entries()) weight[position] = gradient[i]! * (weights?.[i] ?? 1);
      return weight;
    };

    const routed = (experts: Int32Array[], micro: number): void => {
      const { at, sequence, token } = layouts[micro] ?? { at: [], sequence: [], token: [] };
      for (const [i, position] of at.entries()) {
        const { fresh, experts: said } = sequences[sequence[i]!]!;
        const told = fresh[token[i]!] ? said[token[i]!] : undefined;
        if (!told) continue;
        const k = told[0]?.length ?? 0;
        tally.routing(
          told.every((of, layer) => {
            const mine = experts[layer]!.subarray(position * k, (position + 1) * k);
            return of.every((expert) => mine.includes(expert));
          }),
        );
      }
    };
    const gradients = this.#trainer.gradients(batches, { weigh, temperature, ...(firstUpdate && { routed }) });
    if (!Number.isFinite(gradients.gradNorm)) {
      this.#trainer.discard();
      tally.step(gradients);
      return;
    }
    const held = trust.bound === null ? undefined : this.#copyWeights();
    tally.step(gradients, this.#trainer.apply(gradients, rate, 0));
    tally.tokens(
      batches.reduce((n, { batch, seqLen }) => n + batch * seqLen, 0),
      total,
    );

    const probe = sequences.slice(0, trust.probe);
    const moved = this.#moved(probe, before, temperature);
    let bounded = moved;
    // To first order once is enough; curvature takes another time or two.
    for (let i = 0; held && trust.bound && bounded > trust.bound && i < 4; i++) {
      this.#scaleBack(held, (0.95 * trust.bound) / bounded);
      bounded = this.#moved(probe, before, temperature);
    }
    for (const tensor of held ?? []) tensor.dispose();
    tally.moved(moved, bounded);
  }

  #differentiate(
    { sequence }: MicroBatch,
    sequences: readonly Sequence[],
    logp: Float32Array,
    old: Float32Array,
    total: { sequences: number; tokens: number },
  ): { loss: number; gradient: Float32Array } {
    // Sequences of this micro-batch, numbered from 0.
    const here = [...new Set(sequence)];
    const number = new Map(here.map((s, i) => [s, i]));
    using _ = torch.scope();
    const samples = {
      logp,
      old_N: torch.tensor(old),
      sequence_N: torch.tensor(BigInt64Array.from(sequence, (s) => BigInt(number.get(s)!))),
      advantage_B: torch.tensor(Float32Array.from(here, (s) => sequences[s]!.advantage)),
      total,
    };
    return differentiate(this.#algorithm.objective, samples, this.#parameters);
  }

  /** Mean |log p(y) now − `before`| over sequences. */
  #moved(sequences: readonly Sequence[], before: Float64Array, temperature: number): number {
    const now = new Float64Array(sequences.length);
    for (const { rows, at, sequence } of microBatches(sequences, this.#recipe.batch)) {
      const [logp] = this.#trainer.logProbs(rows, [temperature]);
      for (const [i, position] of at.entries()) now[sequence[i]!]! += logp![position]!;
    }
    return meanOf(Array.from(now, (logp, s) => Math.abs(logp - before[s]!)));
  }

  #copyWeights(): Tensor[] {
    return torch.noGrad(() => this.#trainer.optimizer.groups.map(({ value }) => torch.keep(value.clone())));
  }

  /** θ ← θ_before + scale·(θ − θ_before): to first order the log-ratios shrink as much. */
  #scaleBack(before: readonly Tensor[], scale: number): void {
    using _ = torch.noGrad();
    using _scope = torch.scope();
    for (const [i, { value }] of this.#trainer.optimizer.groups.entries()) value.lerp_(before[i]!, 1 - scale);
  }
}

/** Sums over the updates of an iteration. */
class Tally {
  readonly #sum = { updates: 0, sequences: 0, tokens: 0, trained: 0, nll: 0, kl: 0, seen: 0, objective: 0 };
  readonly #mismatch = { most: 0, sum: 0, n: 0 };
  readonly #routing = { equal: 0, n: 0 };
  readonly #norms: number[] = [];
  readonly #moves: { moved: number; bounded: number }[] = [];
  readonly #sides: Record<string, number> = {};
  #maxLogit = 0;
  #clippedHeads = 0;
  #matrices: UpdateReport["matrices"];
  #ratio = 1;

  mismatch(delta: number): void {
    const size = Math.abs(delta);
    this.#mismatch.most = Math.max(this.#mismatch.most, size);
    this.#mismatch.sum += size;
    this.#mismatch.n++;
  }

  routing(equal: boolean): void {
    this.#routing.equal += Number(equal);
    this.#routing.n++;
  }

  policy(now: Float32Array, was: Float32Array): void {
    for (const [i, logp] of now.entries()) {
      const log = logp - was[i]!;
      this.#sum.nll -= was[i]!;
      this.#sum.kl += Math.exp(log) - 1 - log;
      this.#ratio = Math.max(this.#ratio, Math.exp(log));
    }
    this.#sum.seen += now.length;
  }

  objective(loss: number): void {
    this.#sum.objective += loss;
  }

  /** A share of a side loss: of one micro-batch. */
  side(name: string, loss: number): void {
    this.#sides[name] = (this.#sides[name] ?? 0) + loss;
  }

  /** `applied` is absent where the update was left out. */
  step({ gradNorm, maxLogits, load }: Gradients, applied?: Applied): void {
    this.#sum.updates++;
    this.#norms.push(gradNorm);
    this.#maxLogit = Math.max(this.#maxLogit, ...maxLogits.flat());
    this.#clippedHeads += applied?.clippedHeads ?? 0;
    if (applied) this.#matrices = { maxLogits, maxLogitsAfter: applied.maxLogitsAfter, expertLoad: shares(load) };
  }

  tokens(trained: number, { sequences, tokens }: { sequences: number; tokens: number }): void {
    this.#sum.trained += trained;
    this.#sum.sequences += sequences;
    this.#sum.tokens += tokens;
  }

  moved(moved: number, bounded: number): void {
    this.#moves.push({ moved, bounded });
  }

  report(): UpdateReport {
    const { updates, sequences, tokens, trained, nll, kl, seen, objective } = this.#sum;
    return {
      updates,
      sequences,
      tokens,
      objective: objective / Math.max(1, updates),
      gradNorm: meanOf(this.#norms),
      maxLogit: this.#maxLogit,
      clippedHeads: this.#clippedHeads,
      mismatch: this.#mismatch.most,
      mismatchMean: this.#mismatch.sum / Math.max(1, this.#mismatch.n),
      ...(this.#routing.n && { routingEqual: this.#routing.equal / this.#routing.n }),
      entropy: nll / Math.max(1, seen),
      kl: kl / Math.max(1, seen),
      ratio: this.#ratio,
      moved: Math.max(0, ...this.#moves.map(({ moved }) => moved)),
      movedBounded: Math.max(0, ...this.#moves.map(({ bounded }) => bounded)),
      scaledBack: this.#moves.filter(({ moved, bounded }) => bounded < moved).length,
      sideLosses: Object.fromEntries(
        Object.entries(this.#sides).map(([name, sum]) => [name, sum / Math.max(1, updates)]),
      ),
      trainedTokens: trained,
      ...(this.#matrices && { matrices: this.#matrices }),
    };
  }
}
