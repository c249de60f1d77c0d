import { expect, test } from "vitest";
import { trajectory } from "../chat/index.ts";
import { Random } from "../common/index.ts";
import { mutations } from "./mutate.ts";
import { oracle } from "./oracle.ts";
import { play, record } from "./play.ts";
import { Replayer } from "./replay.ts";
import { openWorld, shippedWorlds } from "./shipped.ts";
import { WorldEnvironment } from "./world-environment.ts";

const replayer = new Replayer((name) => (shippedWorlds().includes(name) ? openWorld(name) : undefined));
const wire = (row: unknown): unknown => JSON.parse(JSON.stringify(row));

test("gold is accepted, mutants are not: kill rate at least 0.98, over all worlds", async () => {
  const killed: Record<string, [number, number]> = {};
  let gold = 0;
  let rows = 0;
  for (const name of shippedWorlds()) {
    const env = new WorldEnvironment(openWorld(name));
    for (let seed = 1000; seed < 1012; seed++) {
      const row = record(env, await play(env, seed, oracle));
      rows++;
      const verdict = replayer.verify(wire(row));
      if (verdict.accepted) gold++;
      for (const [what, mutate] of Object.entries(mutations)) {
        const mutant = await mutate(row, env, Random.of(seed, what));
        if (!mutant) continue;
        const tally = (killed[what] ??= [0, 0]);
        tally[1]++;
        if (!replayer.verify(wire(mutant)).accepted) tally[0]++;
      }
    }
  }
  expect(gold).toBe(rows);
  const [dead, all] = Object.values(killed).reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
  console.log(`mutants killed: ${dead} of ${all} (${JSON.stringify(killed)}); gold accepted: ${gold} of ${rows}`);
  expect(dead / all).toBeGreaterThanOrEqual(0.98);
  // Every kind of mutant was made.
  expect(Object.keys(killed).sort()).toEqual(Object.keys(mutations).sort());
});

test("the first reason is told", async () => {
  const env = new WorldEnvironment(openWorld("ledger"), "heldout");
  const row = record(env, await play(env, 7, oracle));
  expect(replayer.verify(wire(row))).toEqual({ accepted: true });
  const { schema: _, id: __, ...content } = row;
  const wrong = (change: Partial<typeof content>) => replayer.verify(wire(trajectory({ ...content, ...change })));
  expect(replayer.verify({ ...row, id: "0" })).toMatchObject({ gate: "row" });
  expect(replayer.verify("nonsense")).toMatchObject({ gate: "row" });
  expect(wrong({ task: { ...content.task!, world: "nowhere" } })).toMatchObject({
    gate: "world",
    why: "no world 'nowhere' here",
  });
  expect(wrong({ task: { ...content.task!, version: "1+0" } })).toMatchObject({ gate: "world" });
  expect(wrong({ task: { ...content.task!, seed: 8 } })).toMatchObject({ gate: "start" });
  expect(wrong({ task: { ...content.task!, split: "train" } })).toMatchObject({ gate: "start" });
  expect(wrong({ messages: content.messages.slice(0, -1) })).toMatchObject({
    gate: "structure",
    why: "it stops before the end",
  });
  expect(wrong({ tools: content.tools.slice(1) })).toMatchObject({ gate: "start" });
  expect(wrong({ reward: { ...content.reward!, total: 0 } })).toMatchObject({ gate: "record" });
});
