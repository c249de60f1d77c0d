/** The groups of a step: those that teach something, and in place of the others new tasks, as often as the recipe says. */
import { Random } from "../common/index.ts";
import { hasSignal } from "./advantages.ts";
import type { Critique } from "./critique.ts";
import type { Curriculum, DrawnTask } from "./curriculum.ts";
import type { Policy } from "./policy.ts";
import type { RlRecipe } from "./recipe.ts";
import { rewardsOf, totalOf, weightsAt } from "./rewards.ts";
import type { Group } from "./rollouts.ts";
import { meanOf } from "./statistics.ts";

export interface Collection {
  /** With signal, and without. */
  groups: Group[];
  without: Group[];
  refills: number;
  /** Tokens written. */
  tokens: number;
}

export interface CollectOptions {
  step: number;
  /** Ways back so far: they too make new samples. */
  backs: number;
  temperature: number;
  /** Plays every episode to its end, as before a checkpoint: that holds no half ones. */
  drain: boolean;
}

export async function collect(
  recipe: RlRecipe,
  { policy, curriculum, critique }: { policy: Policy; curriculum: Curriculum; critique: Critique },
  { step, backs, temperature, drain }: CollectOptions,
): Promise<Collection> {
  const { rollouts, player } = policy;
  const weights = weightsAt(recipe, step);
  const tokens = drain ? null : recipe.partial.tokens;
  const found: Collection = { groups: [], without: [], refills: 0, tokens: 0 };
  for (let round = 0; round <= recipe.curriculum.refill; round++) {
    const missing = recipe.groups - (round ? found.groups.length : rollouts.pending);
    if (missing <= 0 && round) break;
    const tasks: DrawnTask[] = Array.from({ length: Math.max(0, missing) }, () => curriculum.next());
    const iteration = (backs * 1e6 + step) * 100 + round;
    const collected = await rollouts.collect(tasks, { iteration, temperature, tokens });
    const written = rollouts.tokens;
    await critique.criticize(player, collected, { step, random: Random.of(recipe.seed, "critic", iteration) });
    for (const group of collected) {
      curriculum.saw(group.task, meanOf(group.answers.map(({ outcome }) => outcome)));
      const learns = hasSignal(rewardsOf(group.answers, weights).map(totalOf));
      (learns ? found.groups : found.without).push(group);
    }
    found.tokens += written;
    found.refills = round;
  }
  return found;
}
