/**
 * One change at a time, at equal rollouts (issue 5): the same model after SFT, the same tasks and samples' seeds.
 *   node_modules/.bin/node bench/rl-variants.ts MODEL [--world ledger] [--tables objectives,terms,optimizers]
 *     [--seeds 1,2,3] [--steps 20] [--groups 16] [--episodes 512] [--only pmd/1,grpo/4] [--threads 1] [--out rl-variants.jsonl]
 *   objectives   every objective with 1, 4 and 16 updates of each batch of answers (its staleness)
 *   terms        K2's additions and our guards, each by itself beside the plain recipe
 *   optimizers   Muon and AdamW at three rates
 * MODEL is a checkpoint after SFT in the world (bench/rl-worlds.ts --until sft makes one). One JSON line a run, in --out;
 * what is there is not run again. `--markdown` prints the tables of --out and runs nothing.
 */
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { torch } from "@massif/torch";
import type { Score } from "../packages/massif/src/agent/index.ts";
import { loadConfig, Progress, wilson } from "../packages/massif/src/common/index.ts";
import { algorithms, gym, RlRecipe } from "../packages/massif/src/rl/index.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    world: { type: "string", default: "ledger" },
    tables: { type: "string", default: "objectives,terms,optimizers" },
    seeds: { type: "string", default: "1,2,3" },
    steps: { type: "string", default: "20" },
    groups: { type: "string", default: "16" },
    episodes: { type: "string", default: "512" },
    only: { type: "string" },
    threads: { type: "string", default: "1" },
    out: { type: "string", default: "rl-variants.jsonl" },
    markdown: { type: "boolean", default: false },
  },
});

type Change = (plain: RlRecipe) => Record<string, unknown>;
const rate = (plain: RlRecipe, factor: number) => ({ "optimizer.learningRate": plain.optimizer.learningRate * factor });

const tables: Record<string, Record<string, Change>> = {
  objectives: Object.fromEntries(
    [1, 4, 16].flatMap((staleness) =>
      Object.keys(algorithms).map((name): [string, Change] => [
        `${name}/${staleness}`,
        // Many updates of one batch move as far together as one does.
        (plain) => ({ "objective.name": name, minibatches: staleness, ...rate(plain, 1 / staleness) }),
      ]),
    ),
  ),
  terms: {
    plain: () => ({}),
    "critic, gated": () => ({ "critic.weight": 0.5, "critic.learn": 0.1 }),
    "critic, not gated": () => ({ "critic.weight": 0.5, "critic.learn": 0.1, "critic.bar": 0 }),
    "budget control": ({ worlds }) => ({
      worlds: worlds.map((world) => ({ ...world, maxTokens: Math.ceil(world.maxTokens / 2) })),
      "budget.penalty": 0.5,
    }),
    PTX: () => ({ "ptx.weight": 0.1 }),
    "temperature decay": () => ({ "temperature.first": 1.2, "temperature.last": 0.8 }),
    "length reward": () => ({ "length.weight": 0.2, "length.warmup": 0 }),
    "partial rollouts, masked": () => ({ "partial.tokens": 3000 }),
    "partial rollouts, by ratio": () => ({ "partial.tokens": 3000, "partial.stale": "ratio" }),
    "no bound on an update": () => ({ "trust.bound": null, "trust.signalPower": 0 }),
    "tasks as they come": () => ({ "curriculum.priority": 0 }),
  },
  optimizers: Object.fromEntries(
    ["muon", "adamw"].flatMap((matrices) =>
      [0.3, 1, 3].map((factor): [string, Change] => [
        `${matrices}, rate × ${factor}`,
        (plain) => ({ "optimizer.matrices": matrices, ...rate(plain, factor) }),
      ]),
    ),
  ),
};

interface Row {
  table: string;
  variant: string;
  world: string;
  seed: number;
  before: Score;
  after: Score;
  lastFive: number;
  moved: number;
  kl: number;
  mismatch: number;
  seconds: number;
  cpu: number;
}
const rowsIn = (file: string): Row[] =>
  existsSync(file)
    ? readFileSync(file, "utf8")
        .trim()
        .split("\n")
        .filter(Boolean)
        .map((row) => JSON.parse(row) as Row)
    : [];
const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

async function run(table: string, variant: string, change: Change, seed: number): Promise<Row> {
  const { world } = values;
  const recipes = resolve(import.meta.dirname, `../recipes/rl-${world}/recipe.json`);
  const fixed = [
    `model=${JSON.stringify(resolve(positionals[0]!))}`,
    `seed=${seed}`,
    `steps=${values.steps}`,
    `groups=${values.groups}`,
    `evaluation.every=${values.steps}`,
    `evaluation.lastEpisodes=${values.episodes}`,
  ];
  const changes = Object.entries(change(loadConfig(RlRecipe, recipes, fixed)));
  const recipe = loadConfig(RlRecipe, recipes, [...fixed, ...changes.map(([key, v]) => `${key}=${JSON.stringify(v)}`)]);
  const dir = mkdtempSync(join(tmpdir(), "rl-variants-"));
  const [began, used] = [performance.now(), process.cpuUsage()];
  await gym(recipe, { base: "/", dir: join(dir, "run"), progress: new Progress({ silent: true }) });
  const { user, system } = process.cpuUsage(used);
  const rows = readFileSync(join(dir, "run/metrics.jsonl"), "utf8").trim().split("\n");
  const steps = rows.map((row) => JSON.parse(row) as Record<string, unknown>);
  rmSync(dir, { recursive: true });
  const of = (key: string): number[] => steps.slice(1).map((step) => Number(step[key] ?? 0));
  const scoreOf = (step: Record<string, unknown>) => (step.worlds as Score[])[0]!;
  return {
    ...{ table, variant, world, seed, before: scoreOf(steps[0]!), after: scoreOf(steps.at(-1)!) },
    lastFive: mean(of("success").slice(-5)),
    ...{ moved: Math.max(...of("moved")), kl: Math.max(...of("kl")), mismatch: Math.max(...of("mismatch")) },
    ...{ seconds: (performance.now() - began) / 1000, cpu: (user + system) / 1e6 },
  };
}

/** A line a variant, over its seeds. */
function markdown(rows: readonly Row[]): string {
  const share = ({ wins, n }: { wins: number; n: number } = { wins: 0, n: 0 }) => (n ? wins / n : Number.NaN);
  return [...new Set(rows.map(({ table }) => table))]
    .map((table) => {
      const own = rows.filter((row) => row.table === table);
      const lines = [...new Set(own.map(({ variant }) => variant))].map((variant) => {
        const mine = own.filter((row) => row.variant === variant);
        const [wins, n] = mine.reduce(([w, m], { after }) => [w + after.wins, m + after.n], [0, 0]);
        const { value, low, high } = wilson(wins, n);
        const kinds = (["act", "refuse", "answer"] as const).map((kind) =>
          mean(mine.map(({ after }) => share(after.kinds[kind]))),
        );
        const cells = [
          variant,
          mean(mine.map(({ before }) => share(before))).toFixed(3),
          `${value.toFixed(3)} (${low.toFixed(3)} – ${high.toFixed(3)})`,
          mine.map(({ after }) => share(after).toFixed(3)).join(", "),
          ...kinds.map((value) => (Number.isNaN(value) ? "–" : value.toFixed(3))),
          Math.max(...mine.map(({ moved }) => moved)).toFixed(2),
          mean(mine.map(({ cpu }) => cpu)).toFixed(0),
        ];
        return `| ${cells.join(" | ")} |`;
      });
      const head = `| ${table} | before | after | by seed | act | refuse | answer | largest move | CPU s |\n|${" --- |".repeat(9)}`;
      return [head, ...lines].join("\n");
    })
    .join("\n\n");
}

if (values.markdown) console.log(markdown(rowsIn(values.out)));
else {
  if (!positionals[0]) throw new Error("which model? node bench/rl-variants.ts MODEL");
  torch.setNumThreads(Number(values.threads));
  const only = values.only?.split(",");
  const all = values.tables
    .split(",")
    .flatMap((table) =>
      Object.entries(tables[table] ?? {}).flatMap(([variant, change]) =>
        only?.includes(variant) === false ? [] : [{ table, variant, change }],
      ),
    );
  for (const seed of values.seeds.split(",").map(Number))
    for (const { table, variant, change } of all) {
      const done = rowsIn(values.out);
      const same = (row: Row) =>
        row.table === table && row.variant === variant && row.seed === seed && row.world === values.world;
      if (done.some(same)) continue;
      const row = await run(table, variant, change, seed);
      appendFileSync(values.out, `${JSON.stringify(row)}\n`);
      console.log(JSON.stringify(row));
    }
}
