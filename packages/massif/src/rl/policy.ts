/** The policy of a run: weights that learn, and the engine that plays with these same weights. */
import type { Trajectory } from "../chat/index.ts";
import { Random } from "../common/index.ts";
import { type Engine, engineModel, openEngine } from "../engine/index.ts";
import type { LanguageModel } from "../llm/index.ts";
import { type Model, PackedModel } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Trainer } from "../train/index.ts";
import { Learner, type UpdateOptions, type UpdateReport } from "./learner.ts";
import { OutsideEngine } from "./outside.ts";
import type { RlRecipe } from "./recipe.ts";
import { type RewardOptions, rewardsOf, totalOf } from "./rewards.ts";
import { type Arena, type Group, Rollouts } from "./rollouts.ts";
import { sequenceOf } from "./sequences.ts";

/** What plays: the engine in this process, or one outside. */
interface Rolling extends Disposable {
  readonly player: LanguageModel;
  readonly version: number | string;
  /** How a step is decoded, for people. */
  readonly path: string;
  /** Takes the weights as they are now. */
  update(): Promise<void>;
  /** Finds no prefix any more of what was played before. */
  forget(): Promise<void>;
  /** That these are answers of its weights. */
  check(trajectories: readonly Trajectory[]): Promise<void>;
}

export interface PolicyOptions {
  tokenizer: Tokenizer;
  train: readonly Arena[];
  /** The run folder. */
  dir: string;
}

export class Policy implements Disposable {
  readonly trainer: Trainer;
  readonly rollouts: Rollouts;
  readonly #rolling: Rolling;
  readonly #learner: Learner;
  readonly #stale: RlRecipe["partial"]["stale"];

  /** Owns `trainer` from here on. */
  constructor(trainer: Trainer, recipe: RlRecipe, options: PolicyOptions) {
    const { template, groupSize, seed } = recipe;
    const { tokenizer, train } = options;
    this.trainer = trainer;
    this.#stale = recipe.partial.stale;
    this.#learner = new Learner(trainer, recipe);
    this.#rolling = recipe.rollouts ? outside(trainer, recipe, options) : inside(trainer.model, recipe, tokenizer);
    this.rollouts = new Rollouts(this.player, train, { tokenizer, template, groupSize, seed });
  }

  get player(): LanguageModel {
    return this.#rolling.player;
  }

  /** How what is played is decoded, for people. */
  get path(): string {
    return this.#rolling.path;
  }

  /** After an evaluation: the next rollouts find no prefix of it. A resumed run has none, and what is cached is summed in
   *  another order. */
  async forget(): Promise<void> {
    await this.#rolling.forget();
  }

  /** Undefined where the groups teach nothing. What is played from here on is played with the new weights. */
  async learn(
    groups: readonly Group[],
    weights: RewardOptions,
    options: UpdateOptions,
  ): Promise<UpdateReport | undefined> {
    const { version } = this.#rolling;
    await this.#rolling.check(groups.flatMap(({ answers }) => answers.map(({ trajectory }) => trajectory)));
    const sequences = groups.flatMap(({ answers }) => {
      const advantages = this.#learner.advantage(rewardsOf(answers, weights).map(totalOf));
      return answers.map(({ trajectory, experts }, i) =>
        sequenceOf(trajectory, advantages[i]!, { version, stale: this.#stale, experts }),
      );
    });
    const report = this.#learner.update(sequences, options);
    await this.#rolling.update();
    return report;
  }

  [Symbol.dispose](): void {
    this.#rolling[Symbol.dispose]();
    this.trainer.dispose();
  }
}

/** Reads the trainer's own weights: an update of them is an update of the engine. */
function inside(model: Model, recipe: RlRecipe, tokenizer: Tokenizer): Rolling {
  const engine = openRolloutEngine(model, tokenizer, recipe);
  const update = async () => void (await engine.updateWeights());
  return {
    player: playerOf(engine, recipe),
    path: engine.path,
    get version() {
      return engine.version;
    },
    update,
    forget: update,
    check: async () => {},
    [Symbol.dispose]: () => engine[Symbol.dispose](),
  };
}

function outside(trainer: Trainer, recipe: RlRecipe, { tokenizer, dir }: PolicyOptions): Rolling {
  const { rollouts, template } = recipe;
  const engine = new OutsideEngine(rollouts!, { model: trainer.master, tokenizer, template, dir });
  return {
    player: engine,
    path: `by the engine at ${rollouts!.url}`,
    get version() {
      return engine.version;
    },
    update: () => engine.update(),
    forget: async () => {},
    check: (trajectories) => engine.check(trajectories),
    [Symbol.dispose]: () => engine[Symbol.dispose](),
  };
}

export function openRolloutEngine(model: Model, tokenizer: Tokenizer, recipe: RlRecipe): Engine {
  const { seed, groups, groupSize, precision } = recipe;
  const narrow = precision === "bfloat16" && PackedModel.obstacle(model, true) === undefined;
  return openEngine({
    ...{ model, tokenizer, ...(narrow && { weights: "bfloat16" }) },
    random: Random.of(seed, "engine"),
    maxRunning: Math.min(256, groups * groupSize),
    // Partial rollouts leave many waiting.
    maxWaiting: Number.MAX_SAFE_INTEGER,
    tokenBudget: 2048,
  });
}

/** Unenforced: an answer held to a grammar comes from another distribution than the one that is trained. */
export const playerOf = (engine: Engine, { template }: RlRecipe): LanguageModel =>
  engineModel(engine, { template, enforce: false, experts: true, sampling: { temperature: 1 } });
