/**
 * Reinforcement learning from a recipe (K2, arXiv 2507.20534 §3.2): groups of answers by the engine in this process, rewards
 * from verifiers, updates, new weights to the engine, again. A run that was killed and resumed goes on to the bit.
 */
import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { torch } from "@massif/torch";
import { count, MassifError, type Progress, Random } from "../common/index.ts";
import { type Engine, engineModel, openEngine } from "../engine/index.ts";
import { loadModel } from "../model/index.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import {
  openRun,
  PackedOrder,
  type PackingState,
  type Run,
  readSnapshot,
  Trainer,
  writeSnapshot,
} from "../train/index.ts";
import { hasSignal } from "./advantages.ts";
import { Curriculum, type CurriculumState, type DrawnTask } from "./curriculum.ts";
import { type Evaluation, evaluate, successOf } from "./evaluation.ts";
import { CollapseGuard, type CollapseState, type Side } from "./guard.ts";
import { Learner, type UpdateReport } from "./learner.ts";
import { ptxExamples } from "./ptx.ts";
import type { RlRecipe } from "./recipe.ts";
import { readEvaluations, writeRlReport } from "./report.ts";
import { rewardsOf, totalOf } from "./rewards.ts";
import { type Arena, type Group, openArena, Rollouts } from "./rollouts.ts";
import { type Sequence, sequenceOf } from "./sequences.ts";
import { meanOf, passAtK, passHatK, shareOf } from "./statistics.ts";
import { transcriptOf } from "./transcript.ts";

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
    facts: { seed: recipe.seed, device: recipe.device, torch: torch.info().torch, threads: torch.getNumThreads() },
    warn: (text) => progress.print(text),
  });
  const tokenizer = await loadTokenizer(resolve(base, recipe.model));
  const train = recipe.worlds.map((world) => openArena(world, "train"));
  const ptx =
    recipe.ptx.weight > 0
      ? new PackedOrder(await ptxExamples(recipe, base, tokenizer, train), {
          seqLen: recipe.batch.seqLen,
          seed: recipe.seed,
        })
      : undefined;
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
  readonly #heldOut: readonly Arena[];
  readonly #curriculum: Curriculum;
  readonly #guard: CollapseGuard;
  #trainer!: Trainer;
  #learner!: Learner;
  #engine!: Engine;
  #rollouts!: Rollouts;
  #step = 0;
  #tokens = 0;
  #backs = 0;

  constructor(recipe: RlRecipe, run: Run, options: Session) {
    this.#recipe = recipe;
    this.#run = run;
    this.#options = options;
    this.#heldOut = recipe.worlds.map((world) => openArena(world, "heldout"));
    this.#curriculum = new Curriculum(options.train, { seed: recipe.seed, ...recipe.curriculum });
    this.#guard = new CollapseGuard(recipe.guard);
    this.#open(run.resumed?.dir);
  }

  get #trainerConfig() {
    const { optimizer, precision, activations } = this.#recipe;
    return { optimizer, precision, activations, balanceLoss: 0 };
  }

  /** Weights and all that hangs on them, from a checkpoint of the run or from the model that it begins with. */
  #open(checkpoint: string | undefined): void {
    const { model, device, groups, groupSize, seed, template, evaluation } = this.#recipe;
    const { base, tokenizer, train, ptx } = this.#options;
    if (checkpoint) {
      const { trainer, state } = readSnapshot<GymState>(checkpoint, this.#trainerConfig, device);
      this.#trainer = trainer;
      this.#step = state.step;
      this.#tokens = state.tokens;
      this.#curriculum.state = state.order.curriculum;
      this.#guard.state = state.order.collapse;
      this.#backs = state.order.backs;
      if (state.order.ptx) ptx?.restore(state.order.ptx);
    } else
      this.#trainer = new Trainer(loadModel(resolve(base, model), { device, dtype: "float32" }), this.#trainerConfig);
    this.#learner = new Learner(this.#trainer, this.#recipe);
    // The engine reads the trainer's own weights: an update of them is an update of the engine.
    this.#engine = openRolloutEngine(
      this.#trainer.model,
      tokenizer,
      seed,
      Math.max(groups * groupSize, evaluation.episodes),
    );
    const languageModel = engineModel(this.#engine, { template, enforce: false, sampling: { temperature: 1 } });
    this.#rollouts = new Rollouts(languageModel, train, { tokenizer, template, groupSize, seed });
  }

  #close(): void {
    this.#engine[Symbol.dispose]();
    this.#trainer.dispose();
  }

  async toEnd(): Promise<GymResult> {
    const { steps, groups, groupSize, evaluation } = this.#recipe;
    const { progress, signal } = this.#options;
    using stage = progress.stage("RL", `${steps} steps of ${groups} tasks × ${groupSize} answers`, {
      total: steps,
      from: this.#step,
    });
    if (this.#step > 0) progress.print(`  resumed at step ${this.#step}`);
    else if (!readEvaluations(this.#run.dir).some(({ step }) => step === 0)) {
      await this.#baselines();
      await this.#evaluate(0, evaluation.lastEpisodes);
    }
    while (this.#step < steps && !signal?.aborted) {
      const facts = await this.#one();
      if (facts) stage.update(this.#step, facts);
    }
    const finished = this.#step >= steps;
    if (this.#run.checkpoints.latest()?.step !== this.#step) await this.#checkpoint();
    const evaluations = readEvaluations(this.#run.dir).filter(({ name }) => name === undefined);
    writeRlReport(this.#recipe, this.#run.dir);
    const [before, after] = [evaluations[0], evaluations.at(-1)].map((one) => one && successOf(one));
    stage.done(
      finished
        ? `held-out success ${before?.toFixed(3)} → ${after?.toFixed(3)}, ${count(this.#tokens)} tokens written`
        : `stopped at step ${this.#step}; checkpoint written`,
    );
    return { step: this.#step, finished, before, after: finished ? after : undefined };
  }

  /** Rollouts and updates of one step. Returns the facts of the live line; nothing where the run went back. */
  async #one(): Promise<string[] | undefined> {
    const { seed, steps, checkpoint, evaluation, trust, finalRatio, guard } = this.#recipe;
    const step = this.#step + 1;
    const progress = this.#step / Math.max(1, steps - 1);
    const temperature = this.#temperature(progress);
    const last = step === steps;
    const due = last || step % checkpoint.every === 0;

    const began = performance.now();
    const { groups, without, refills, tokens } = await this.#collect(step, temperature, due);
    const rolled = performance.now();
    const signal = groups.length / Math.max(1, groups.length + without.length);
    const rate = (1 - (1 - finalRatio) * progress) * signal ** trust.signalPower * guard.brake ** this.#backs;
    const sequences = this.#sequences(groups, step);
    const random = Random.of(seed, "update", step, this.#backs);
    const { ptx } = this.#options;
    const update = this.#learner.update(sequences, { rate, temperature, random, ...(ptx && { ptx }) });
    await this.#engine.updateWeights();
    const updated = performance.now();

    this.#step = step;
    this.#tokens += tokens;
    const all = [...groups, ...without];
    const sides = successBySide(all);
    const row = {
      ...this.#measures(all, step),
      signal,
      refills,
      pendingGroups: this.#rollouts.pending,
      lr: this.#recipe.optimizer.learningRate * rate,
      temperature,
      ...flat(update),
      tokens: this.#tokens,
      rolloutTokensPerSecond: (1000 * tokens) / (rolled - began),
      tokensPerSecond: (1000 * (update?.trainedTokens ?? 0)) / (updated - rolled),
      rolloutSeconds: (rolled - began) / 1000,
      seconds: (updated - began) / 1000,
    };
    this.#run.metrics({ step, ...row });
    if (update && update.mismatch > MISMATCH_BAR)
      this.#run.event({ event: "mismatch", step, most: update.mismatch, bar: MISMATCH_BAR });
    const locked =
      this.#guard.judge(sides) ?? (Number.isFinite(row.gradNorm ?? 0) ? undefined : "the gradient is not finite");
    if (locked) {
      await this.#back(locked);
      return undefined;
    }
    if (last || step % evaluation.every === 0)
      await this.#evaluate(step, last ? evaluation.lastEpisodes : evaluation.episodes);
    // What a run goes back to must be good: none while a side is falling.
    if (last || (due && this.#guard.calm)) await this.#checkpoint();
    return [
      `success ${row.success.toFixed(3)}`,
      ...Object.entries(sides).map(([side, success]) => `${side} ${success.toFixed(2)}`),
      `signal ${signal.toFixed(2)}`,
      `moved ${row.moved?.toFixed(2) ?? "–"}`,
      `|Δ log p| ${row.mismatch?.toExponential(0) ?? "–"}`,
      `${count(row.rolloutTokensPerSecond)} + ${count(row.tokensPerSecond)} tokens/s`,
    ];
  }

  #temperature(progress: number): number {
    const { first, last } = this.#recipe.temperature;
    return first + (last - first) * progress;
  }

  /** Groups with signal and those without; in place of the latter new tasks, as often as the recipe says. */
  async #collect(step: number, temperature: number, drain: boolean) {
    const { groups: wanted, curriculum, partial } = this.#recipe;
    const found = { groups: [] as Group[], without: [] as Group[], refills: 0, tokens: 0 };
    for (let round = 0; round <= curriculum.refill; round++) {
      const missing = round ? wanted - found.groups.length : wanted - this.#rollouts.pending;
      if (missing <= 0 && round) break;
      const tasks: DrawnTask[] = Array.from({ length: Math.max(0, missing) }, () => this.#curriculum.next());
      // A checkpoint holds no half episodes: before one they are played to their end.
      const tokens = drain ? null : partial.tokens;
      const iteration = (this.#backs * 1e6 + step) * 100 + round;
      for (const group of await this.#rollouts.collect(tasks, { iteration, temperature, tokens })) {
        this.#curriculum.saw(group.task, meanOf(group.answers.map(({ outcome }) => outcome)));
        const learns = hasSignal(this.#rewards(group, step).map(totalOf));
        (learns ? found.groups : found.without).push(group);
      }
      found.tokens += this.#rollouts.tokens;
      found.refills = round;
    }
    return found;
  }

  #rewards({ answers }: Group, step: number): Record<string, number>[] {
    const { budget, length } = this.#recipe;
    return rewardsOf(answers, {
      budgetPenalty: budget.penalty,
      lengthWeight: step > length.warmup ? length.weight : 0,
    });
  }

  #sequences(groups: readonly Group[], step: number): Sequence[] {
    const version = this.#recipe.partial.stale === "mask" ? this.#engine.version : undefined;
    return groups.flatMap((group) => {
      const advantages = this.#learner.advantage(this.#rewards(group, step).map(totalOf));
      return group.answers.map(({ trajectory }, i) => sequenceOf(trajectory, advantages[i]!, version));
    });
  }

  #measures(groups: readonly Group[], step: number) {
    const answers = groups.flatMap((group) => group.answers);
    const rewards = groups.flatMap((group) => this.#rewards(group, step));
    const { groupSize: n } = this.#recipe;
    const wins = groups.map((group) => group.answers.reduce((sum, { outcome }) => sum + outcome, 0));
    const components = [...new Set(rewards.flatMap(Object.keys))];
    const sides = successBySide(groups);
    return {
      reward: meanOf(rewards.map(totalOf)),
      ...Object.fromEntries(components.map((name) => [`reward/${name}`, meanOf(rewards.map((r) => r[name] ?? 0))])),
      success: meanOf(answers.map(({ outcome }) => outcome)),
      ...(sides.act !== undefined && { successAct: sides.act }),
      ...(sides.refuse !== undefined && { successRefuse: sides.refuse }),
      passAtK: meanOf(wins.map((c) => passAtK(c, n, n))),
      passHatK: meanOf(wins.map((c) => passHatK(c, n, n))),
      shortcut: shareOf(answers, ({ shortcut }) => shortcut),
      truncated: shareOf(answers, ({ truncated }) => truncated),
      length: meanOf(answers.map(({ length }) => length)),
      episodes: answers.length,
      kinds: this.#curriculum.rates,
    };
  }

  /** Other checkpoints on the same held-out tasks. */
  async #baselines(): Promise<void> {
    const { evaluation, device, seed, template, worlds } = this.#recipe;
    for (const [name, folder] of Object.entries(evaluation.baselines)) {
      const path = resolve(this.#options.base, folder);
      const tokenizer = await loadTokenizer(path);
      const model = loadModel(path, { device, dtype: "float32" });
      using engine = openRolloutEngine(model, tokenizer, seed, evaluation.episodes);
      const languageModel = engineModel(engine, { template, enforce: false, sampling: { temperature: 1 } });
      const heldOut = worlds.map((world) => openArena(world, "heldout"));
      const options = { episodes: evaluation.lastEpisodes, seed, tokenizer, template };
      this.#keep(0, await evaluate(languageModel, heldOut, options), name);
      model.dispose();
    }
  }

  async #evaluate(step: number, episodes: number): Promise<void> {
    const { seed, template } = this.#recipe;
    const { tokenizer, progress } = this.#options;
    const model = engineModel(this.#engine, { template, enforce: false, sampling: { temperature: 1 } });
    const evaluation = await evaluate(model, this.#heldOut, { episodes, seed, tokenizer, template });
    this.#keep(step, evaluation);
    this.#run.metrics({ step, ...evaluationRow(evaluation) });
    const samples = evaluation.shown.map(transcriptOf);
    this.#run.samples(step, samples);
    for (const { world, success, act, refuse, n } of evaluation.worlds) {
      const sides =
        refuse.high < 1 || refuse.value ? `, act ${act.value.toFixed(3)}, refuse ${refuse.value.toFixed(3)}` : "";
      progress.print(
        `  step ${step}: ${world} ${success.value.toFixed(3)} [${success.low.toFixed(3)}, ${success.high.toFixed(3)}]${sides} (n ${n}, held out)`,
      );
    }
  }

  #keep(step: number, evaluation: Evaluation, name?: string): void {
    const others = readEvaluations(this.#run.dir).filter((one) => one.step !== step || one.name !== name);
    const file = join(this.#run.dir, "evaluations.json");
    writeFileSync(file, JSON.stringify([...others, { step, ...(name && { name }), ...evaluation }]));
  }

  async #checkpoint(): Promise<void> {
    const order: GymState = {
      curriculum: this.#curriculum.state,
      collapse: this.#guard.state,
      ptx: this.#options.ptx?.state ?? null,
      backs: this.#backs,
    };
    const state = { step: this.#step, tokens: this.#tokens, order, guard: { recent: [], skipped: 0 } };
    await this.#run.checkpoint(this.#step, (folder) =>
      writeSnapshot(folder, this.#trainer, this.#options.tokenizer, state),
    );
  }

  /** To the last checkpoint, with new tasks and smaller steps. Throws `rl.collapsed` where that has not helped. */
  async #back(why: string): Promise<void> {
    const { guard } = this.#recipe;
    const to = this.#run.checkpoints.latest();
    this.#run.event({ event: "lock-in", step: this.#step, why, to: to?.step ?? 0 });
    if (this.#backs >= guard.most)
      throw new MassifError("rl.collapsed", {
        found: `${why}, after ${this.#backs} ways back`,
        expected: "both sides to be learned",
        fix: "begin with a model that does both (≥ 0.3 each after SFT), a smaller optimizer.learningRate, or easier tasks",
      });
    this.#options.progress.print(`  step ${this.#step}: ${why}; back to step ${to?.step ?? 0} with smaller steps`);
    const [tasks, backs] = [this.#curriculum.state.random, this.#backs + 1];
    this.#close();
    this.#step = 0;
    this.#guard.state = { sides: [] };
    this.#open(to?.dir);
    this.#curriculum.state = { ...this.#curriculum.state, random: tasks };
    this.#backs = backs;
    this.#run.rewind(this.#step);
  }

  [Symbol.dispose](): void {
    this.#close();
  }
}

/** What float32 owes: the same kernels in the same process (anchors.md §17.4). */
const MISMATCH_BAR = 1e-5;

function openRolloutEngine(model: Trainer["model"], tokenizer: Tokenizer, seed: number, running: number): Engine {
  return openEngine({
    model,
    tokenizer,
    random: Random.of(seed, "engine"),
    maxRunning: Math.min(256, running),
    maxWaiting: Number.MAX_SAFE_INTEGER,
    tokenBudget: 2048,
  });
}

function successBySide(groups: readonly Group[]): Partial<Record<Side, number>> {
  const of = (side: Side): Partial<Record<Side, number>> => {
    const answers = groups.filter((group) => group.side === side).flatMap((group) => group.answers);
    return answers.length ? { [side]: meanOf(answers.map(({ outcome }) => outcome)) } : {};
  };
  return { ...of("act"), ...of("refuse") };
}

const flat = (update: UpdateReport | undefined): Partial<UpdateReport> =>
  update ? Object.fromEntries(Object.entries(update).filter(([, value]) => value !== undefined)) : {};

const evaluationRow = ({ worlds }: Evaluation): Record<string, number> =>
  Object.fromEntries(
    worlds.flatMap(({ world, success, act, refuse }) => [
      [`evalSuccess/${world}`, success.value],
      [`evalAct/${world}`, act.value],
      [`evalRefuse/${world}`, refuse.value],
    ]),
  );
