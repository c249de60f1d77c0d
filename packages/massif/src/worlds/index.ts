/** Environments that are proofs: worlds as data, their tools, users, faults, verdicts, planner and replay. */
export { examine, type Report, type Score, showReport } from "./check.ts";
export * from "./environment.ts";
export { CEILING, exploits } from "./exploits.ts";
export { SAY, worldServer } from "./mcp.ts";
export { type Mutation, mutations } from "./mutate.ts";
export { noisy, oracle, type Slip } from "./oracle.ts";
export { type Brief, type Person, PersonEnvironment } from "./person.ts";
export { isMinimal, type Plan, plan, type Unsolved } from "./planner.ts";
export { type Played, type Player, play, readSplit, record, say, showSplit, use, versionOf } from "./play.ts";
export { puzzles } from "./puzzles.ts";
export { type Gate, type Replayed, Replayer } from "./replay.ts";
export { type WorldFile, worldSchema } from "./schema.ts";
export { openEnvironment, openWorld, quizzes, shippedWorlds } from "./shipped.ts";
export { type Question, type Quiz, quizExploits, quizNoisy, quizOracle, SingleTurn, scoreQuiz } from "./single-turn.ts";
export { Source } from "./source.ts";
export { type Criterion, judgeStyle, styleRubric } from "./style-rubric.ts";
export { compileWorld, readWorld, type World } from "./world.ts";
export { WorldEnvironment } from "./world-environment.ts";
