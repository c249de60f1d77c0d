/** The main job from text to agent: pre-training, SFT, RL, the comparison of what they made. */
export { type Evaluated, readEvaluated } from "./evaluation.ts";
export * from "./recipe.ts";
export { type StoryOptions, tellStory } from "./story.ts";
export { writeWorldText } from "./world-text.ts";
