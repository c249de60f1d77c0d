/** Answers of training that people read: in the run's `rollouts/`, with their rewards by component. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Trajectory, trajectory } from "../chat/index.ts";
import { writeJsonl } from "../common/index.ts";
import { type RewardOptions, rewardsOf, totalOf } from "./rewards.ts";
import type { Group } from "./rollouts.ts";

type Component = NonNullable<Trajectory["reward"]>["components"][string];
const kinds: Record<string, Component["kind"]> = { budget: "budget", length: "budget", critic: "rubric" };

/** Of each task's world the group that teaches most: where about half of the answers succeed. */
export async function keepAnswers(
  dir: string,
  step: number,
  groups: readonly Group[],
  weights: RewardOptions,
): Promise<void> {
  const best = new Map<string, { group: Group; spread: number }>();
  for (const group of groups) {
    const world = group.answers[0]?.trajectory.task?.world;
    const wins = group.answers.reduce((sum, { outcome }) => sum + outcome, 0);
    const spread = Math.min(wins, group.answers.length - wins);
    if (world !== undefined && spread > (best.get(world)?.spread ?? -1)) best.set(world, { group, spread });
  }
  const rows = [...best.values()].flatMap(({ group: { answers } }) => {
    const rewards = rewardsOf(answers, weights);
    return answers.map(({ trajectory: { schema: _, id: __, ...content } }, i) =>
      trajectory({ ...content, reward: { ...content.reward, ...rewardOf(rewards[i]!, content.task?.version ?? "") } }),
    );
  });
  mkdirSync(join(dir, "rollouts"), { recursive: true });
  await writeJsonl(join(dir, `rollouts/train-step-${step}.jsonl`), rows);
}

const rewardOf = (parts: Record<string, number>, world: string): NonNullable<Trajectory["reward"]> => ({
  total: totalOf(parts),
  components: Object.fromEntries(
    Object.entries(parts).map(([name, value]) => {
      const kind = kinds[name] ?? "verifiable";
      return [name, { value, weight: 1, kind, evaluator: kind === "verifiable" ? world : `rl ${name}` }];
    }),
  ),
});
