/**
 * Reinforcement learning from a recipe (K2, arXiv 2507.20534 §3.2): groups of answers by the engine in this process, rewards
 * from verifiers, updates, new weights to the engine, again. A run that was killed and resumed goes on to the bit.
 */
import { join, resolve } from "node:path";
import { count, MassifError, type Progress, Random } from "../common/index.ts";
import { loadModel } from "../model/index.ts";
import { loadTokenizer, saveTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import {
  computingFacts,
  openRun,
  type PackedOrder,
  type PackingState,
  type Run,
  readSnapshot,
  Trainer,
  writeSnapshot,
} from "../train/index.ts";
import { collect } from "./collection.ts";
import type { AgreementState } from "./critic.ts";
import { Critique } from "./critique.ts";
import { Curriculum, type CurriculumState } from "./curriculum.ts";
import { evaluate, evaluateBaselines } from "./evaluation.ts";
import { CollapseGuard, type CollapseState } from "./guard.ts";
import type { SideLoss } from "./learner.ts";
import { flat, measuresOf, successByKind } from "./measures.ts";
import { Policy } from "./policy.ts";
import { ptxOrder } from "./ptx.ts";
import type { RlRecipe } from "./recipe.ts";
import { readEvaluations, writeRlReport } from "./report.ts";
import { rewardsOf, weightsAt } from "./rewards.ts";
import { type Arena, openArena } from "./rollouts.ts";
import { keepAnswers } from "./transcripts.ts";

/** What float32 owes: the same kernels in the same process (anchors.md §17.4). */
const MISMATCH_BAR = 1e-5;

export interface GymOptions {
  /** The folder that the recipe's relative paths start from. */
  base: string;
  /** The run folder. */
  dir: string;
  resume?: boolean | "auto";
  progress: Progress;
  /** Aborted: a checkpoint is written and the run ends early. */
  signal?: AbortSignal;
}

export interface GymResult {
  /** Steps done; fewer than the recipe's when interrupted. */
  step: number;
  finished: boolean;
  /** Held-out success before and after. */
  before: number | undefined;
  after: number | undefined;
}

/** What a resumed run goes on from, beside weights and optimizer. JSON. */
interface GymState {
  curriculum: CurriculumState;
  collapse: CollapseState;
  critic: AgreementState;
  ptx: PackingState | null;
  /** Ways back so far. */
  backs: number;
}

/** Runs a recipe to its end, or until interrupted. Throws `run.*`, `rl.*`, `world.*`, `checkpoint.*`. */
export async function gym(recipe: RlRecipe, options: GymOptions): Promise<GymResult> {
  const { dir, progress, base } = options;
  using run = openRun(dir, {
    config: recipe,
    resume: options.resume ?? false,
    mayChange: ["checkpoint", "evaluation"],
    keep: recipe.checkpoint.keep,
    facts: computingFacts(recipe),
    warn: (text) => progress.print(text),
  });
  const tokenizer = await loadTokenizer(resolve(base, recipe.model));
  // What reads the run's episodes needs it, before the first checkpoint too.
  await saveTokenizer(tokenizer, join(dir, "tokenizer"));
  const train = recipe.worlds.map((world) => openArena(world, "train"));
  const ptx = recipe.ptx.weight > 0 ? await ptxOrder(recipe, base, tokenizer, train) : undefined;
  using session = new Gym(recipe, run, { ...options, tokenizer, train, ptx });
  return await session.toEnd();
}

interface Session extends GymOptions {
  tokenizer: Tokenizer;
  train: readonly Arena[];
  ptx: PackedOrder | undefined;
}

class Gym implements Disposable {
  readonly #recipe: RlRecipe;
  readonly #run: Run;
  readonly #options: Session;
  readonly #curriculum: Curriculum;
  readonly #guard: CollapseGuard;
  readonly #critique: Critique;
  #policy: Policy;
  #step = 0;
  #tokens = 0;
  #backs = 0;

  constructor(recipe: RlRecipe, run: Run, options: Session) {
    this.#recipe = recipe;
    this.#run = run;
    this.#options = options;
    this.#curriculum = new Curriculum(options.train, { seed: recipe.seed, ...recipe.curriculum });
    this.#guard = new CollapseGuard(recipe.guard);
    this.#critique = new Critique(recipe, run);
    this.#policy = this.#open(run.resumed?.dir);
  }

  get #trainerConfig() {
    const { optimizer, precision, activations, device, wideAttention } = this.#recipe;
    const wide = wideAttention ?? (device === "cpu" && precision === "float32");
    return { optimizer, precision, activations, balanceLoss: 0, ...(wide && { attention: "float64" as const }) };
  }

  /** The policy, and where the run stands: from a checkpoint of the run, or from the model that it begins with. */
  #open(checkpoint: string | undefined): Policy {
    const { model, device } = this.#recipe;
    const { base, ptx } = this.#options;
    if (!checkpoint) {
      const weights = loadModel(resolve(base, model), { device, dtype: "float32" });
      return new Policy(new Trainer(weights, this.#trainerConfig), this.#recipe, this.#options);
    }
    const { trainer, state } = readSnapshot<GymState>(checkpoint, this.#trainerConfig, device);
    this.#step = state.step;
    this.#tokens = state.tokens;
    this.#curriculum.state = state.order.curriculum;
    this.#guard.state = state.order.collapse;
    this.#critique.state = state.order.critic;
    this.#backs = state.order.backs;
    if (state.order.ptx) ptx?.restore(state.order.ptx);
    return new Policy(trainer, this.#recipe, this.#options);
  }

  async toEnd(): Promise<GymResult> {
    const { steps, groups, groupSize, evaluation } = this.#recipe;
    const { progress, signal } = this.#options;
    using stage = progress.stage("RL", `${steps} steps of ${groups} tasks × ${groupSize} answers`, {
      total: steps,
      from: this.#step,
    });
    const { path } = this.#policy;
    progress.print(`  rollouts: ${path}`);
    this.#run.event({ event: "rollouts", step: this.#step, path });
    if (this.#step > 0) progress.print(`  resumed at step ${this.#step}`);
    else if (!readEvaluations(this.#run.dir).length) {
      await evaluateBaselines(this.#recipe, { dir: this.#run.dir, base: this.#options.base });
      this.#run.metrics({ step: 0, ...(await this.#evaluate(0, evaluation.lastEpisodes)) });
    }
    while (this.#step < steps && !signal?.aborted) {
      const facts = await this.#one();
      if (facts) stage.update(this.#step, facts);
    }
    const finished = this.#step >= steps;
    // A checkpoint holds no half episodes: where some wait, the last one stands.
    const whole = this.#policy.rollouts.pending === 0;
    if (whole && this.#run.checkpoints.latest()?.step !== this.#step) await this.#checkpoint();
    writeRlReport(this.#recipe, this.#run.dir);
    const [before, after] = [0, steps].map(
      (step) => readEvaluations(this.#run.dir).find((one) => one.step === step)?.success,
    );
    stage.done(
      finished
        ? `held-out success ${before?.toFixed(3)} → ${after?.toFixed(3)}, ${count(this.#tokens)} tokens written`
        : `stopped at step ${this.#step}; ${whole ? "checkpoint written" : "goes on from the last checkpoint"}`,
    );
    return { step: this.#step, finished, before, after };
  }

  /** Rollouts and updates of one step. Returns the facts of the live line; nothing where the run went back. */
  async #one(): Promise<string[] | undefined> {
    const { seed, steps, groupSize, checkpoint, evaluation, trust, finalRatio, guard } = this.#recipe;
    const step = this.#step + 1;
    const progress = this.#step / Math.max(1, steps - 1);
    const range = this.#recipe.temperature;
    const temperature = range.first + (range.last - range.first) * progress;
    const last = step === steps;
    const due = last || step % checkpoint.every === 0;

    const began = performance.now();
    const { groups, without, refills, tokens } = await collect(
      this.#recipe,
      { policy: this.#policy, curriculum: this.#curriculum, critique: this.#critique },
      { step, backs: this.#backs, temperature, drain: due },
    );
    const rolled = performance.now();
    const signal = groups.length / Math.max(1, groups.length + without.length);
    const rate = (1 - (1 - finalRatio) * progress) * signal ** trust.signalPower * guard.brake ** this.#backs;
    const weights = weightsAt(this.#recipe, step);
    const random = Random.of(seed, "update", step, this.#backs);
    const sides = this.#sideLosses();
    const update = await this.#policy.learn(groups, weights, { rate, temperature, random, sides });
    const updated = performance.now();

    this.#step = step;
    this.#tokens += tokens;
    const all = [...groups, ...without];
    const rewards = all.flatMap(({ answers }) => rewardsOf(answers, weights));
    const success = successByKind(all);
    const row = {
      ...measuresOf(all, rewards, groupSize),
      tasks: this.#curriculum.rates,
      ...this.#critique.measures,
      signal,
      refills,
      pendingGroups: this.#policy.rollouts.pending,
      lr: this.#recipe.optimizer.learningRate * rate,
      temperature,
      ...flat(update, step),
      tokens: this.#tokens,
      rolloutTokensPerSecond: (1000 * tokens) / (rolled - began),
      tokensPerSecond: (1000 * (update?.trainedTokens ?? 0)) / (updated - rolled),
      rolloutSeconds: (rolled - began) / 1000,
      seconds: (updated - began) / 1000,
    };
    const locked = this.#guard.judge(success);
    if (locked) this.#run.event({ event: "lock-in", step, why: locked });
    const trouble = locked ?? (update && !Number.isFinite(update.gradNorm) ? "a gradient is not finite" : undefined);
    if (trouble) {
      await this.#back(trouble);
      return undefined;
    }
    const looked = last || step % evaluation.every === 0;
    if (looked) await keepAnswers(this.#run.dir, step, all, weights);
    const evaluated = looked ? await this.#evaluate(step, last ? evaluation.lastEpisodes : evaluation.episodes) : {};
    this.#run.metrics({ step, ...row, ...evaluated });
    if (update && update.mismatch > MISMATCH_BAR)
      this.#run.event({ event: "mismatch", step, most: update.mismatch, bar: MISMATCH_BAR });
    // What a run goes back to must be good: none while a side is falling.
    if (last || (due && this.#guard.calm)) await this.#checkpoint();
    return [
      `success ${row.success.toFixed(3)}`,
      ...Object.entries(success).map(([kind, share]) => `${kind} ${share.toFixed(2)}`),
      `signal ${signal.toFixed(2)}`,
      `moved ${row.moved?.toFixed(2) ?? "–"}`,
      `|Δ log p| ${row.mismatch?.toExponential(0) ?? "–"}`,
      `${count(row.rolloutTokensPerSecond)} + ${count(row.tokensPerSecond)} tokens/s`,
    ];
  }

  /** PTX, and what the critic learns of this step's pairs. */
  #sideLosses(): SideLoss[] {
    const { rows, weight } = this.#recipe.ptx;
    const { ptx: order, tokenizer } = this.#options;
    const context = this.#policy.trainer.model.config.maxPositionEmbeddings;
    return [
      ...(order ? [{ name: "ptx", weight, next: () => [order.next(rows)] }] : []),
      ...this.#critique.sideLosses({ tokenizer, context }),
    ];
  }

  #evaluate(step: number, episodes: number) {
    const { tokenizer, progress } = this.#options;
    return evaluate(this.#policy, this.#recipe, { step, episodes, dir: this.#run.dir, tokenizer, progress });
  }

  async #checkpoint(): Promise<void> {
    const order: GymState = {
      curriculum: this.#curriculum.state,
      collapse: this.#guard.state,
      critic: this.#critique.state,
      ptx: this.#options.ptx?.state ?? null,
      backs: this.#backs,
    };
    const state = { step: this.#step, tokens: this.#tokens, order, guard: { recent: [], skipped: 0 } };
    await this.#run.checkpoint(this.#step, (folder) =>
      writeSnapshot(folder, this.#policy.trainer, this.#options.tokenizer, state),
    );
  }

  /** To the last checkpoint, with new tasks and smaller steps. Throws `rl.collapsed` where that has not helped. */
  async #back(why: string): Promise<void> {
    const { guard } = this.#recipe;
    const to = this.#run.checkpoints.latest();
    this.#run.event({ event: "rollback", step: this.#step, why, to: to?.step ?? 0 });
    if (this.#backs >= guard.most)
      throw new MassifError("rl.collapsed", {
        found: `${why}, after ${this.#backs} ways back`,
        expected: "both sides to be learned",
        fix: "begin with a model that does both (≥ 0.3 each after SFT), a smaller optimizer.learningRate, or easier tasks",
      });
    this.#options.progress.print(`  step ${this.#step}: ${why}; back to step ${to?.step ?? 0} with smaller steps`);
    const [tasks, backs] = [this.#curriculum.state.random, this.#backs + 1];
    this.#policy[Symbol.dispose]();
    this.#step = 0;
    this.#tokens = 0;
    this.#guard.state = { sides: [] };
    this.#policy = this.#open(to?.dir);
    this.#curriculum.state = { ...this.#curriculum.state, random: tasks };
    this.#backs = backs;
    this.#run.rewind(this.#step);
    // Killed now, the run must not come back the way it went.
    await this.#checkpoint();
  }

  [Symbol.dispose](): void {
    this.#policy[Symbol.dispose]();
  }
}
