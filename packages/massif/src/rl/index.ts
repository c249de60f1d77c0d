/** Reinforcement learning: rollouts, rewards, objectives, updates, curriculum, guards. */
export * from "./advantages.ts";
export * from "./critic.ts";
export { Curriculum, type CurriculumState, type DrawnTask, type TaskSource } from "./curriculum.ts";
export { CollapseGuard, type CollapseState } from "./guard.ts";
export { type GymOptions, type GymResult, gym } from "./gym.ts";
export { Learner, type SideLoss, type UpdateOptions, type UpdateReport } from "./learner.ts";
export * from "./objectives.ts";
export { openRolloutEngine, playerOf } from "./policy.ts";
export * from "./recipe.ts";
export * from "./rewards.ts";
export { type Answer, type Arena, type Group, openArena, playOne, type RolloutOptions, Rollouts } from "./rollouts.ts";
export { type MicroBatch, microBatches, type Sequence, sequenceOf } from "./sequences.ts";
export * from "./statistics.ts";
