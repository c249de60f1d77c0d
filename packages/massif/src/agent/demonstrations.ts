/** Demonstrations: episodes of worlds played by oracles, or by sloppy ones, so that later a strategy is left to change. */
import { z } from "zod";
import type { Trajectory } from "../chat/index.ts";
import { MassifError, Random } from "../common/index.ts";
import {
  noisy,
  openEnvironment,
  oracle,
  play,
  quizNoisy,
  quizOracle,
  readSplit,
  type Slip,
  type Splits,
  WorldEnvironment,
} from "../worlds/index.ts";
import { recordOf } from "./record.ts";

const slips = ["skip", "swap", "amount", "flip", "nowrite", "tell", "unconfirmed"] as const satisfies readonly Slip[];

export const DemonstrationConfig = z.strictObject({
  worlds: z.array(z.string()).default([]).describe("Shipped worlds by name, or files of worlds"),
  count: z.int().min(0).default(2000).describe("Episodes, over all worlds in turn"),
  split: z.string().default("train").describe("train, heldout, or names=…,wordings=…,pairs=…"),
  noise: z.number().min(0).max(1).default(0).describe("Share of episodes in which the oracle errs in one way"),
  slips: z.array(z.enum(slips)).min(1).default(["skip"]).describe("The ways in which it errs"),
});
export type DemonstrationConfig = z.output<typeof DemonstrationConfig>;

/** A split by its text. Throws `agent.split`. */
export function splitOf(text: string): Splits {
  const split = readSplit(text);
  if (split) return split;
  throw new MassifError("agent.split", {
    found: `split ${JSON.stringify(text)}`,
    expected: "train, heldout, or names=train,wordings=heldout,pairs=train",
  });
}

/** Seeds of tasks for a purpose: those of different purposes have nothing to do with each other. */
export const taskSeed = (seed: number, purpose: string, world: string, i: number): number =>
  Random.of(seed, purpose, world, i).uint32();

/** Played episodes, good and bad, as records; their verdict is their reward. Throws what opening a world throws. */
export async function* demonstrate(
  { worlds, count, split, noise, slips }: DemonstrationConfig,
  seed: number,
): AsyncGenerator<Trajectory> {
  const environments = worlds.map((name) => ({ name, env: openEnvironment(name, splitOf(split)) }));
  const clerk = noise > 0 ? noisy(noise, slips) : oracle;
  const pupil = noise > 0 ? quizNoisy : quizOracle;
  for (let i = 0; environments.length && i < count; i++) {
    const { name, env } = environments[i % environments.length]!;
    const at = taskSeed(seed, "demonstration", name, Math.floor(i / environments.length));
    const played = env instanceof WorldEnvironment ? await play(env, at, clerk) : await play(env, at, pupil);
    const player = env instanceof WorldEnvironment ? clerk : pupil;
    yield recordOf(env, { ...played, ended: "done" }, { agent: { model: player.name } });
  }
}
