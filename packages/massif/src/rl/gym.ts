/**
 * Reinforcement learning from a recipe (K2, arXiv 2507.20534 §3.2): groups of answers by the engine in this process, rewards
 * from verifiers, updates, new weights to the engine, again. A run that was killed and resumed goes on to the bit.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { torch } from "@massif/torch";
import { type Kind, RolloutConfig, rollOut, type Score } from "../agent/index.ts";
import { textOf } from "../chat/index.ts";
import { count, MassifError, type Progress, Random, wilson, writeJsonl } from "../common/index.ts";
import { type Engine, engineModel, openEngine } from "../engine/index.ts";
import type { LanguageModel } from "../llm/index.ts";
import { loadModel, type Model } from "../model/index.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import {
  type Conversation,
  examplesOf,
  openRun,
  PackedOrder,
  type PackingState,
  type Run,
  readSnapshot,
  Trainer,
  writeSnapshot,
} from "../train/index.ts";
import { hasSignal } from "./advantages.ts";
import { Agreement, type AgreementState, judge, lessons, rank } from "./critic.ts";
import { Curriculum, type CurriculumState, type DrawnTask } from "./curriculum.ts";
import { CollapseGuard, type CollapseState } from "./guard.ts";
import { Learner, type SideLoss, type UpdateReport } from "./learner.ts";
import { ptxExamples } from "./ptx.ts";
import type { RlRecipe } from "./recipe.ts";
import { type Baselines, readBaselines, readEvaluations, writeRlReport } from "./report.ts";
import { rewardsOf, totalOf } from "./rewards.ts";
import { type Answer, type Arena, type Group, openArena, Rollouts } from "./rollouts.ts";
import { layOut, type Sequence, sequenceOf } from "./sequences.ts";
import { meanOf, passAtK, passHatK, shareOf } from "./statistics.ts";

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
  readonly #curriculum: Curriculum;
  readonly #guard: CollapseGuard;
  #trainer!: Trainer;
  #learner!: Learner;
  #engine!: Engine;
  #rollouts!: Rollouts;
  readonly #agreement: Agreement;
  #lessons: Conversation[] = [];
  #step = 0;
  #tokens = 0;
  #backs = 0;

  constructor(recipe: RlRecipe, run: Run, options: Session) {
    this.#recipe = recipe;
    this.#run = run;
    this.#options = options;
    this.#curriculum = new Curriculum(options.train, { seed: recipe.seed, ...recipe.curriculum });
    this.#guard = new CollapseGuard(recipe.guard);
    this.#agreement = new Agreement({ bar: recipe.critic.bar, pairs: recipe.critic.memory });
    this.#open(run.resumed?.dir);
  }

  get #trainerConfig() {
    const { optimizer, precision, activations } = this.#recipe;
    return { optimizer, precision, activations, balanceLoss: 0 };
  }

  /** Weights and all that hangs on them, from a checkpoint of the run or from the model that it begins with. */
  #open(checkpoint: string | undefined): void {
    const { model, device, groupSize, seed, template } = this.#recipe;
    const { base, tokenizer, train, ptx } = this.#options;
    if (checkpoint) {
      const { trainer, state } = readSnapshot<GymState>(checkpoint, this.#trainerConfig, device);
      this.#trainer = trainer;
      this.#step = state.step;
      this.#tokens = state.tokens;
      this.#curriculum.state = state.order.curriculum;
      this.#guard.state = state.order.collapse;
      this.#agreement.state = state.order.critic;
      this.#backs = state.order.backs;
      if (state.order.ptx) ptx?.restore(state.order.ptx);
    } else
      this.#trainer = new Trainer(loadModel(resolve(base, model), { device, dtype: "float32" }), this.#trainerConfig);
    this.#learner = new Learner(this.#trainer, this.#recipe);
    // The engine reads the trainer's own weights: an update of them is an update of the engine.
    this.#engine = openRolloutEngine(this.#trainer.model, tokenizer, this.#recipe);
    this.#rollouts = new Rollouts(playerOf(this.#engine, this.#recipe), train, {
      tokenizer,
      template,
      groupSize,
      seed,
    });
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
    else if (!readEvaluations(this.#run.dir).length) {
      await this.#baselines();
      this.#run.metrics({ step: 0, ...(await this.#evaluate(0, evaluation.lastEpisodes)) });
    }
    while (this.#step < steps && !signal?.aborted) {
      const facts = await this.#one();
      if (facts) stage.update(this.#step, facts);
    }
    const finished = this.#step >= steps;
    // A checkpoint holds no half episodes: where some wait, the last one stands.
    const whole = this.#rollouts.pending === 0;
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
    const update = this.#learner.update(sequences, { rate, temperature, random, sides: this.#sideLosses() });
    await this.#engine.updateWeights();
    const updated = performance.now();

    this.#step = step;
    this.#tokens += tokens;
    const all = [...groups, ...without];
    const sides = successByKind(all);
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
    const locked = this.#guard.judge(sides);
    if (locked) this.#run.event({ event: "lock-in", step, why: locked });
    const trouble = locked ?? (update && !Number.isFinite(update.gradNorm) ? "a gradient is not finite" : undefined);
    if (trouble) {
      await this.#back(trouble);
      return undefined;
    }
    const evaluated =
      last || step % evaluation.every === 0
        ? await this.#evaluate(step, last ? evaluation.lastEpisodes : evaluation.episodes)
        : {};
    this.#run.metrics({ step, ...row, ...evaluated });
    if (update && update.mismatch > MISMATCH_BAR)
      this.#run.event({ event: "mismatch", step, most: update.mismatch, bar: MISMATCH_BAR });
    // What a run goes back to must be good: none while a side is falling.
    if (last || (due && this.#guard.calm)) await this.#checkpoint();
    return [
      `success ${row.success.toFixed(3)}`,
      ...Object.entries(sides).map(([kind, success]) => `${kind} ${success.toFixed(2)}`),
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
      const collected = await this.#rollouts.collect(tasks, { iteration, temperature, tokens });
      const written = this.#rollouts.tokens;
      await this.#criticize(collected, step, Random.of(this.#recipe.seed, "critic", iteration));
      for (const group of collected) {
        this.#curriculum.saw(group.task, meanOf(group.answers.map(({ outcome }) => outcome)));
        const learns = hasSignal(this.#rewards(group, step).map(totalOf));
        (learns ? found.groups : found.without).push(group);
      }
      found.tokens += written;
      found.refills = round;
    }
    return found;
  }

  /** The critic is examined on pairs of answers of which one is right and one is wrong; where it passes, it ranks. */
  async #criticize(groups: readonly Group[], step: number, random: Random): Promise<void> {
    const { weight, learn, examined, opponents } = this.#recipe.critic;
    if (!weight) return;
    const player = playerOf(this.#engine, this.#recipe);
    const known = groups.flatMap(({ answers }) => {
      const [right, wrong] = [1, 0].map((outcome) => answers.filter((answer) => answer.outcome === outcome));
      if (!right!.length || !wrong!.length) return [];
      const two = [lastWords(random.pick(right!)), lastWords(random.pick(wrong!))];
      const truth: "a" | "b" = random.float() < 0.5 ? "a" : "b";
      const [a, b] = truth === "a" ? two : two.toReversed();
      return [{ truth, pair: { request: requestOf(answers[0]!), a: a!, b: b! } }];
    });
    const exam = random.shuffle(known).slice(0, examined);
    const verdicts = await Promise.all(exam.map(({ pair }) => judge(player, pair)));
    const before = this.#agreement.trusted;
    for (const [i, { truth }] of exam.entries()) this.#agreement.saw(verdicts[i]!, truth);
    if (learn) this.#lessons.push(...exam.flatMap(({ pair, truth }) => lessons(pair, truth)));
    const { trusted, rate } = this.#agreement;
    if (trusted !== before)
      this.#run.event({ event: trusted ? "critic-trusted" : "critic-distrusted", step, agreement: rate });
    if (!trusted) return;
    await Promise.all(
      groups.map(async ({ answers }) => {
        const ranks = await rank(player, answers.map(lastWords), { request: requestOf(answers[0]!), opponents });
        for (const [i, answer] of answers.entries()) answer.rank = ranks[i]!;
      }),
    );
  }

  /** PTX, and what the critic learns of this step's pairs. */
  #sideLosses(): SideLoss[] {
    const { ptx, critic, template, batch } = this.#recipe;
    const { ptx: order, tokenizer } = this.#options;
    // Prompts of comparisons are long: rows grow to hold them.
    const options = {
      tokenizer,
      template,
      keepReasoning: true,
      seqLen: this.#trainer.model.config.maxPositionEmbeddings,
    };
    const learned = this.#lessons.splice(0).flatMap((lesson) => examplesOf(lesson, options));
    return [
      ...(order ? [{ name: "ptx", weight: ptx.weight, next: () => [order.next(ptx.rows)] }] : []),
      ...(learned.length
        ? [{ name: "critic", weight: critic.learn, next: () => layOut(learned, batch).map(({ rows }) => rows) }]
        : []),
    ];
  }

  #rewards({ answers }: Group, step: number): Record<string, number>[] {
    const { budget, length, critic } = this.#recipe;
    return rewardsOf(answers, {
      budgetPenalty: budget.penalty,
      lengthWeight: step > length.warmup ? length.weight : 0,
      criticWeight: critic.weight,
    });
  }

  #sequences(groups: readonly Group[], step: number): Sequence[] {
    const { stale } = this.#recipe.partial;
    const { version } = this.#engine;
    return groups.flatMap((group) => {
      const advantages = this.#learner.advantage(this.#rewards(group, step).map(totalOf));
      return group.answers.map(({ trajectory }, i) => sequenceOf(trajectory, advantages[i]!, { version, stale }));
    });
  }

  #measures(groups: readonly Group[], step: number) {
    const answers = groups.flatMap((group) => group.answers);
    const rewards = groups.flatMap((group) => this.#rewards(group, step));
    const { groupSize: n } = this.#recipe;
    const wins = groups.map((group) => group.answers.reduce((sum, { outcome }) => sum + outcome, 0));
    const components = [...new Set(rewards.flatMap(Object.keys))];
    const sides = successByKind(groups);
    return {
      reward: meanOf(rewards.map(totalOf)),
      ...Object.fromEntries(components.map((name) => [`reward/${name}`, meanOf(rewards.map((r) => r[name] ?? 0))])),
      success: meanOf(answers.map(({ outcome }) => outcome)),
      ...Object.fromEntries(Object.entries(sides).map(([kind, success]) => [`success/${kind}`, success])),
      passAtK: meanOf(wins.map((c) => passAtK(c, n, n))),
      passHatK: meanOf(wins.map((c) => passHatK(c, n, n))),
      shortcut: shareOf(answers, ({ shortcut }) => shortcut),
      truncated: shareOf(answers, ({ truncated }) => truncated),
      length: meanOf(answers.map(({ length }) => length)),
      episodes: answers.length,
      tasks: this.#curriculum.rates,
      ...(this.#recipe.critic.weight && {
        criticAgreement: this.#agreement.rate,
        criticTrusted: Number(this.#agreement.trusted),
      }),
    };
  }

  /** Other checkpoints on the same held-out tasks. */
  async #baselines(): Promise<void> {
    const { evaluation, device } = this.#recipe;
    const scores: Baselines = readBaselines(this.#run.dir);
    for (const [name, folder] of Object.entries(evaluation.baselines)) {
      const path = resolve(this.#options.base, folder);
      const tokenizer = await loadTokenizer(path);
      const model = loadModel(path, { device, dtype: "float32" });
      try {
        using engine = openRolloutEngine(model, tokenizer, this.#recipe);
        scores[name] = (await this.#play(engine, tokenizer, evaluation.lastEpisodes)).scores;
      } finally {
        model.dispose();
      }
    }
    writeFileSync(join(this.#run.dir, "baselines.json"), JSON.stringify(scores));
  }

  #play(engine: Engine, tokenizer: Tokenizer, episodes: number) {
    const { seed, template, worlds, evaluation } = this.#recipe;
    const names = worlds.map(({ world }) => world);
    const maxTokens = Math.max(...worlds.map((world) => world.maxTokens));
    const config = RolloutConfig.parse({ worlds: names, episodes, maxTokens, split: evaluation.split });
    return rollOut(playerOf(engine, this.#recipe), config, { seed }, { tokenizer, template });
  }

  /** Held-out tasks, the same every time, as SFT evaluates on: metrics for the row of the step. */
  async #evaluate(step: number, episodes: number): Promise<{ evalSuccess: number; worlds: Score[] }> {
    const { dir } = this.#run;
    const { scores, trajectories } = await this.#play(this.#engine, this.#options.tokenizer, episodes);
    // The next rollouts find no prefix of these: a resumed run has none, and what is cached is summed in another order.
    await this.#engine.updateWeights();
    mkdirSync(join(dir, "rollouts"), { recursive: true });
    const kept = trajectories.filter((_, i) => i % episodes < 4);
    await writeJsonl(join(dir, `rollouts/step-${step}.jsonl`), kept);
    for (const { world, wins, n, kinds } of scores) {
      const { value, low, high } = wilson(wins, n);
      const parts = Object.entries(kinds).map(([kind, count]) => `${kind} ${(count.wins / count.n).toFixed(3)}`);
      this.#options.progress.print(
        `  step ${step}: ${world} ${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}] of ${n} held out; ${parts.join(", ")}`,
      );
    }
    return { evalSuccess: meanOf(scores.map(({ wins, n }) => wins / n)), worlds: scores };
  }

  async #checkpoint(): Promise<void> {
    const order: GymState = {
      curriculum: this.#curriculum.state,
      collapse: this.#guard.state,
      critic: this.#agreement.state,
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
    this.#run.event({ event: "rollback", step: this.#step, why, to: to?.step ?? 0 });
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
    this.#tokens = 0;
    this.#guard.state = { sides: [] };
    this.#open(to?.dir);
    this.#curriculum.state = { ...this.#curriculum.state, random: tasks };
    this.#backs = backs;
    this.#run.rewind(this.#step);
    // Killed now, the run must not come back the way it went.
    await this.#checkpoint();
  }

  [Symbol.dispose](): void {
    this.#close();
  }
}

/** What float32 owes: the same kernels in the same process (anchors.md §17.4). */
const MISMATCH_BAR = 1e-5;

function openRolloutEngine(model: Model, tokenizer: Tokenizer, { seed, groups, groupSize }: RlRecipe): Engine {
  return openEngine({
    model,
    tokenizer,
    random: Random.of(seed, "engine"),
    maxRunning: Math.min(256, groups * groupSize),
    // Partial rollouts leave many waiting.
    maxWaiting: Number.MAX_SAFE_INTEGER,
    tokenBudget: 2048,
  });
}

/** Unenforced: an answer held to a grammar comes from another distribution than the one that is trained. */
const playerOf = (engine: Engine, { template }: RlRecipe): LanguageModel =>
  engineModel(engine, { template, enforce: false, sampling: { temperature: 1 } });

const requestOf = ({ trajectory }: Answer): string =>
  textOf(trajectory.messages.find(({ role }) => role === "user")?.content ?? "");

/** What the user is told at the end. */
const lastWords = ({ trajectory }: Answer): string =>
  textOf(trajectory.messages.findLast(({ role }) => role === "assistant")?.content ?? "");

function successByKind(groups: readonly Group[]): Partial<Record<Kind, number>> {
  const kinds = [...new Set(groups.map(({ kind }) => kind))].sort();
  const of = (kind: Kind) => groups.filter((group) => group.kind === kind).flatMap(({ answers }) => answers);
  return Object.fromEntries(kinds.map((kind) => [kind, meanOf(of(kind).map(({ outcome }) => outcome))]));
}

/** Side losses as `ptxLoss`, `criticLoss`. */
function flat(update: UpdateReport | undefined): Partial<Omit<UpdateReport, "sideLosses">> {
  if (!update) return {};
  const { sideLosses, ...rest } = update;
  return { ...rest, ...Object.fromEntries(Object.entries(sideLosses).map(([name, loss]) => [`${name}Loss`, loss])) };
}
