/** The policy of a run: weights that learn, and the engine that plays with these same weights. */

import { Random } from "../common/index.ts";
import { type Engine, engineModel, openEngine } from "../engine/index.ts";
import type { LanguageModel } from "../llm/index.ts";
import type { Model } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Trainer } from "../train/index.ts";
import { Learner, type UpdateOptions, type UpdateReport } from "./learner.ts";
import type { RlRecipe } from "./recipe.ts";
import { type RewardOptions, rewardsOf, totalOf } from "./rewards.ts";
import { type Arena, type Group, Rollouts } from "./rollouts.ts";
import { sequenceOf } from "./sequences.ts";

export class Policy implements Disposable {
  readonly trainer: Trainer;
  /** Reads the trainer's own weights: an update of them is an update of the engine. */
  readonly engine: Engine;
  readonly player: LanguageModel;
  readonly rollouts: Rollouts;
  readonly #learner: Learner;
  readonly #stale: RlRecipe["partial"]["stale"];

  /** Owns `trainer` from here on. */
  constructor(
    trainer: Trainer,
    recipe: RlRecipe,
    { tokenizer, train }: { tokenizer: Tokenizer; train: readonly Arena[] },
  ) {
    const { template, groupSize, seed } = recipe;
    this.trainer = trainer;
    this.#stale = recipe.partial.stale;
    this.#learner = new Learner(trainer, recipe);
    this.engine = openRolloutEngine(trainer.model, tokenizer, recipe);
    this.player = playerOf(this.engine, recipe);
    this.rollouts = new Rollouts(this.player, train, { tokenizer, template, groupSize, seed });
  }

  /** Undefined where the groups teach nothing. What is played from here on is played with the new weights. */
  async learn(
    groups: readonly Group[],
    weights: RewardOptions,
    options: UpdateOptions,
  ): Promise<UpdateReport | undefined> {
    const { version } = this.engine;
    const sequences = groups.flatMap(({ answers }) => {
      const advantages = this.#learner.advantage(rewardsOf(answers, weights).map(totalOf));
      return answers.map(({ trajectory, experts }, i) =>
        sequenceOf(trajectory, advantages[i]!, { version, stale: this.#stale, experts }),
      );
    });
    const report = this.#learner.update(sequences, options);
    await this.engine.updateWeights();
    return report;
  }

  [Symbol.dispose](): void {
    this.engine[Symbol.dispose]();
    this.trainer.dispose();
  }
}

export function openRolloutEngine(model: Model, tokenizer: Tokenizer, { seed, groups, groupSize }: RlRecipe): Engine {
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
export const playerOf = (engine: Engine, { template }: RlRecipe): LanguageModel =>
  engineModel(engine, { template, enforce: false, experts: true, sampling: { temperature: 1 } });
