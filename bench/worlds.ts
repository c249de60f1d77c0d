/**
 * Worlds: tasks generated and proven a minute, trajectories re-verified a second (issue 5; bars 2,000 and 2,000).
 *   node_modules/.bin/node bench/worlds.ts [tasks per world = 200]
 * One JSON line a world on standard output. Proven: drawn from its seed, planned, its end state unique or the task open.
 * Re-verified: parsed from JSON, hash of the row checked, replayed from the seed message by message, judged.
 */

import { Random } from "../packages/massif/src/common/index.ts";
import {
  mutations,
  openWorld,
  oracle,
  plan,
  play,
  Replayer,
  record,
  shippedWorlds,
  WorldEnvironment,
} from "../packages/massif/src/worlds/index.ts";

const n = Number(process.argv[2] ?? 200);
const replayer = new Replayer(openWorld);
const seconds = (from: number): number => (performance.now() - from) / 1000;

for (const name of shippedWorlds()) {
  const env = new WorldEnvironment(openWorld(name));
  let proven = 0;
  let start = performance.now();
  for (let seed = 0; seed < n; seed++) {
    env.reset(seed);
    const found = plan(env.inside.task);
    if (!("why" in found) && (found.ends === 1 || env.inside.task.type.open)) proven++;
  }
  const planning = seconds(start);
  const rows: string[] = [];
  let [killed, mutants] = [0, 0];
  for (let seed = 0; seed < n; seed++) {
    const row = record(env, await play(env, seed, oracle));
    rows.push(JSON.stringify(row));
    if (seed >= 20) continue;
    for (const [what, mutate] of Object.entries(mutations)) {
      const mutant = await mutate(row, env, Random.of(seed, what));
      if (!mutant) continue;
      mutants++;
      if (!replayer.verify(JSON.parse(JSON.stringify(mutant))).accepted) killed++;
    }
  }
  for (const row of rows) replayer.verify(JSON.parse(row)); // warm
  start = performance.now();
  let accepted = 0;
  for (const row of rows) if (replayer.verify(JSON.parse(row)).accepted) accepted++;
  const replaying = seconds(start);
  console.log(
    JSON.stringify({
      world: name,
      tasks: n,
      proven,
      provenPerMinute: Math.round((proven / planning) * 60),
      accepted,
      verifiedPerSecond: Math.round(n / replaying),
      mutants,
      killed,
    }),
  );
}
