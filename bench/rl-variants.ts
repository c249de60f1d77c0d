/**
 * One change at a time, at equal rollouts or equal demonstrations (issue 5): the same model, the same tasks and seeds.
 *   node_modules/.bin/node bench/rl-variants.ts MODEL [--world ledger] [--tables objectives,terms,optimizers]
 *     [--seeds 1,2,3] [--steps 20] [--groups 16] [--episodes 512] [--only pmd/1,grpo/4] [--threads 1]
 *     [--budget 32] [--out rl-variants.jsonl]
 *   objectives   every objective with 1, 4 and 16 updates of each batch of answers (its staleness)
 *   terms        K2's additions and our guards, each by itself beside the plain recipe
 *   optimizers   Muon and AdamW at three rates
 *   sft-optimizers  the same in SFT, on --demonstrations 3000 (--noise 0: by an oracle that errs never) for --epochs 2,
 *     then --episodes of rollouts
 * MODEL is a checkpoint after SFT in the world (bench/rl-worlds.ts --until sft makes one); for sft-optimizers one before it
 * (--until base). One JSON line a run, in --out; what is there with the same settings is not run again. `--markdown` prints
 * the tables of --out and runs nothing.
 */
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { torch } from "@massif/torch";
import { FinetuneRecipe, finetune, type Score } from "../packages/massif/src/agent/index.ts";
import { loadConfig, MassifError, Progress, wilson } from "../packages/massif/src/common/index.ts";
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
    demonstrations: { type: "string", default: "3000" },
    epochs: { type: "string", default: "2" },
    noise: { type: "string", default: "0" },
    budget: { type: "string", default: "32" },
    only: { type: "string" },
    threads: { type: "string", default: "1" },
    out: { type: "string", default: "rl-variants.jsonl" },
    markdown: { type: "boolean", default: false },
  },
});

type Change = (plain: RlRecipe) => Record<string, unknown>;
interface Rated {
  optimizer: { learningRate: number };
}
const rate = ({ optimizer }: Rated, factor: number) => ({
  "optimizer.learningRate": optimizer.learningRate * factor,
});
const optimizers = Object.fromEntries(
  ["muon", "adamw"].flatMap((matrices) =>
    [0.3, 1, 3].map((factor) => [
      `${matrices} × ${factor}`,
      (plain: Rated) => ({ "optimizer.matrices": matrices, ...rate(plain, factor) }),
    ]),
  ),
);

const tables: Record<string, Record<string, Change>> = {
  objectives: Object.fromEntries(
    [1, 4, 16].flatMap((staleness) =>
      Object.keys(algorithms).map((name): [string, Change] => [
        `${name}/${staleness}`,
        // The fewer answers an update has, the noisier it is: its rate goes with the root of how many.
        (plain) => ({
          "objective.name": name,
          minibatches: staleness,
          ...rate(plain, Math.sqrt(plain.minibatches / staleness)),
        }),
      ]),
    ),
  ),
  terms: {
    plain: () => ({}),
    // A model this small answers no comparison before about eight steps of being taught them; a short memory, so that
    // without a gate its answers weigh from there on.
    "critic with its gate": () => ({ "critic.weight": 0.5, "critic.learn": 1, "critic.memory": 16 }),
    "critic without gate": () => ({ "critic.weight": 0.5, "critic.learn": 1, "critic.memory": 16, "critic.bar": 0 }),
    "budget control": ({ worlds }) => ({
      worlds: worlds.map((world) => ({ ...world, maxTokens: Number(values.budget) })),
      "budget.penalty": 0.5,
    }),
    PTX: () => ({ "ptx.weight": 0.1 }),
    "temperature decay": () => ({ "temperature.first": 1.2, "temperature.last": 0.8 }),
    "length reward": () => ({ "length.weight": 0.2, "length.warmup": 0 }),
    "partial rollouts masked": (plain) => partial(plain, "mask"),
    "partial rollouts by ratio": (plain) => partial(plain, "ratio"),
    "no bound on an update": () => ({ "trust.bound": null, "trust.signalPower": 0 }),
    "tasks as they come": () => ({ "curriculum.priority": 0 }),
  },
  optimizers,
  "sft-optimizers": optimizers,
};

/** About half of what an iteration writes. */
const partial = ({ groups, groupSize }: RlRecipe, stale: "mask" | "ratio") => ({
  "partial.tokens": groups * groupSize * 12,
  "partial.stale": stale,
});

/** What a row was run with: rows of other settings are other rows. */
const settingsOf = (table: string) =>
  table === "sft-optimizers"
    ? { model: resolve(positionals[0]!), ...pick("demonstrations", "epochs", "noise", "episodes") }
    : { model: resolve(positionals[0]!), ...pick("steps", "groups", "episodes", "budget") };
const pick = (...names: (keyof typeof values)[]) => Object.fromEntries(names.map((name) => [name, values[name]]));

interface Row {
  table: string;
  variant: string;
  world: string;
  seed: number;
  settings: Record<string, unknown>;
  /** Absent for SFT, where nothing is known before. */
  before?: Score;
  /** Absent where the guard gave the run up. */
  after?: Score;
  /** Means over the steps, that show whether a variant did what its name says. */
  means: Record<string, number>;
  /** The largest of any step. */
  most: Record<string, number>;
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

const MEANS = [
  "signal",
  "updates",
  "truncated",
  "length",
  "ptxLoss",
  "criticLoss",
  "criticTrusted",
  "criticAgreement",
  "temperature",
];
const MOST = ["moved", "kl", "ratio", "mismatch", "pendingGroups", "scaledBack"];

async function run(table: string, variant: string, change: Change, seed: number): Promise<Row> {
  const dir = mkdtempSync(join(tmpdir(), "rl-variants-"));
  const [began, used] = [performance.now(), process.cpuUsage()];
  const at = join(dir, "run");
  const scored = await (table === "sft-optimizers" ? teach(optimizers[variant]!, seed, at) : learn(change, seed, at));
  const { user, system } = process.cpuUsage(used);
  rmSync(dir, { recursive: true });
  return {
    ...{ table, variant, world: values.world, seed, settings: settingsOf(table), ...scored },
    ...{ seconds: (performance.now() - began) / 1000, cpu: (user + system) / 1e6 },
  };
}

type Scored = Pick<Row, "before" | "after" | "means" | "most">;
const changed = (change: Record<string, unknown>) =>
  Object.entries(change).map(([key, v]) => `${key}=${JSON.stringify(v)}`);
const recipeOf = (name: string) => resolve(import.meta.dirname, `../recipes/rl-${values.world}/${name}.json`);
const rowsOf = (dir: string) =>
  readFileSync(join(dir, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((row) => JSON.parse(row) as Record<string, unknown>);
const scoreOf = (row: Record<string, unknown>) => (row.worlds as Score[])[0]!;

async function learn(change: Change, seed: number, dir: string): Promise<Scored> {
  const fixed = [
    `model=${JSON.stringify(resolve(positionals[0]!))}`,
    `seed=${seed}`,
    `steps=${values.steps}`,
    `groups=${values.groups}`,
    `evaluation.every=${values.steps}`,
    `evaluation.lastEpisodes=${values.episodes}`,
  ];
  const plain = loadConfig(RlRecipe, recipeOf("recipe"), fixed);
  const recipe = loadConfig(RlRecipe, recipeOf("recipe"), [...fixed, ...changed(change(plain))]);
  let collapsed = false;
  try {
    await gym(recipe, { base: "/", dir, progress: new Progress({ silent: true }) });
  } catch (error) {
    if (!(error instanceof MassifError && error.code === "rl.collapsed")) throw error;
    collapsed = true;
  }
  const [before, ...steps] = rowsOf(dir);
  const of = (key: string) => steps.flatMap((step) => (typeof step[key] === "number" ? [step[key]] : []));
  const facts = (keys: string[], fold: (values: number[]) => number) =>
    Object.fromEntries(keys.flatMap((key) => (of(key).length ? [[key, fold(of(key))]] : [])));
  return {
    before: scoreOf(before!),
    ...(!collapsed && { after: scoreOf(steps.at(-1)!) }),
    means: { ...facts(MEANS, mean), lastFive: mean(of("success").slice(-5)) },
    most: facts(MOST, (values) => Math.max(...values)),
  };
}

async function teach(change: (plain: Rated) => Record<string, unknown>, seed: number, dir: string): Promise<Scored> {
  const fixed = [
    `model=${JSON.stringify(resolve(positionals[0]!))}`,
    `seed=${seed}`,
    `demonstrations.count=${values.demonstrations}`,
    `demonstrations.noise=${values.noise}`,
    `epochs=${values.epochs}`,
    `rollouts.episodes=${values.episodes}`,
    // Once, at the end.
    "evaluation.every=1000000",
  ];
  const plain = loadConfig(FinetuneRecipe, recipeOf("sft"), fixed);
  const recipe = loadConfig(FinetuneRecipe, recipeOf("sft"), [...fixed, ...changed(change(plain))]);
  const { heldOutLoss, step } = await finetune(recipe, { base: "/", dir, progress: new Progress({ silent: true }) });
  const last = rowsOf(dir).findLast((row) => row.worlds);
  return { after: scoreOf(last!), means: { heldOutLoss: heldOutLoss ?? Number.NaN, steps: step }, most: {} };
}

const share = ({ wins, n }: { wins: number; n: number } = { wins: 0, n: 0 }) => (n ? wins / n : Number.NaN);
const number = (value: number | undefined, digits: number) =>
  value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(digits);

/** A line a variant, over its seeds: mean (least – most), and the Wilson interval of all episodes together. */
function markdown(rows: readonly Row[]): string {
  const groups = Map.groupBy(rows, ({ table, world, settings }) => JSON.stringify([table, world, settings]));
  return [...groups.values()]
    .map((own) => {
      const [{ table, world, settings }] = own as [Row];
      const lines = [...Map.groupBy(own, ({ variant }) => variant)].map(([variant, mine]) => {
        const ended = mine.filter((row): row is Row & { after: Score } => row.after !== undefined);
        const after = ended.map((row) => share(row.after));
        const [wins, n] = ended.reduce(([w, m], row) => [w + row.after.wins, m + row.after.n], [0, 0]);
        const { low, high } = wilson(wins, n);
        const most = (key: string) => Math.max(...mine.map((row) => row.most[key] ?? Number.NaN));
        const cells = [
          variant,
          mine.map(({ seed, after }) => (after ? seed : `${seed} collapsed`)).join(" "),
          number(mean(mine.map(({ before }) => share(before))), 3),
          `${number(mean(after), 3)} (${number(Math.min(...after), 3)} – ${number(Math.max(...after), 3)})`,
          `${number(low, 3)} – ${number(high, 3)} of ${n}`,
          ...(["act", "refuse", "answer"] as const).map((kind) =>
            number(mean(ended.map((row) => share(row.after.kinds[kind]))), 3),
          ),
          number(most("moved"), 2),
          number(most("kl"), 4),
          number(mean(mine.map(({ means }) => means.heldOutLoss ?? Number.NaN)), 3),
          number(mean(mine.map(({ cpu }) => cpu)), 0),
        ];
        return `| ${cells.join(" | ")} |`;
      });
      const columns = [
        ...[table, "seeds", "before", "after: mean (least – most)", "95 % of all", "act", "refuse", "answer"],
        ...["largest move", "largest KL", "held-out loss", "CPU s"],
      ];
      const told = Object.entries(settings).map(([name, value]) => `${name} ${value}`);
      return `${world}, ${told.join(", ")}\n\n| ${columns.join(" | ")} |\n|${" --- |".repeat(columns.length)}\n${lines.join("\n")}`;
    })
    .join("\n\n");
}

if (values.markdown) console.log(markdown(rowsIn(values.out)));
else {
  if (!positionals[0]) throw new Error("which model? node bench/rl-variants.ts MODEL");
  torch.setNumThreads(Number(values.threads));
  const only = values.only?.split(",");
  const all = values.tables.split(",").flatMap((table) => {
    if (!tables[table]) throw new Error(`no table ${table}: ${Object.keys(tables).join(", ")}`);
    return Object.entries(tables[table]).flatMap(([variant, change]) =>
      only?.includes(variant) === false ? [] : [{ table, variant, change }],
    );
  });
  for (const seed of values.seeds.split(",").map(Number))
    for (const { table, variant, change } of all) {
      const key = (row: Pick<Row, "table" | "variant" | "seed" | "world" | "settings">) =>
        JSON.stringify([row.table, row.variant, row.seed, row.world, row.settings]);
      const wanted = key({ table, variant, seed, world: values.world, settings: settingsOf(table) });
      if (rowsIn(values.out).some((row) => key(row) === wanted)) continue;
      const row = await run(table, variant, change, seed);
      appendFileSync(values.out, `${JSON.stringify(row)}\n`);
      console.log(JSON.stringify(row));
    }
}
