/** How a training step's CPU time grows with tokens, experts, layers and the length of rows: each alone, from the `small` model.
 *
 *    node bench/scaling.ts [--precision float32|bfloat16] [--rounds 5] [--threads 2] [--svg FILE]
 *
 *  A sweep's settings take turns, round by round; the best round of each counts, since others can only slow one down, and of
 *  CPU time, which they do not take. The growth printed is the slope between neighbours on logarithmic scales: 1 is linear.
 *  Experts and their hidden width are chosen k of E with E growing, so that the work of a token stays the same; rows grow
 *  longer at the same number of tokens, where only attention, quadratic in their length, grows. */
import { writeFileSync } from "node:fs";
import { Random } from "../packages/massif/src/common/index.ts";
import { Model, ModelConfig } from "../packages/massif/src/model/index.ts";
import { MuonClipConfig } from "../packages/massif/src/optim/index.ts";
import { type Rows, Trainer } from "../packages/massif/src/train/index.ts";
import { begin, machine } from "./harness.ts";
import { presets } from "./presets.ts";

const { own, ...settings } = await begin({
  precision: { type: "string", default: "float32" },
  svg: { type: "string", default: "" },
});
const precision = own.precision === "bfloat16" ? "bfloat16" : "float32";
const small = presets.small.config;

interface Setting {
  at: number;
  batch: number;
  seqLen: number;
  config: ModelConfig;
}
const settingsOf = (values: number[], setting: (value: number) => Omit<Setting, "at">) =>
  values.map((at) => ({ at, ...setting(at) }));
const sweeps: [name: string, Setting[]][] = [
  ["tokens", settingsOf([512, 1024, 2048, 4096], (n) => ({ batch: n / 256, seqLen: 256, config: small }))],
  ["layers", settingsOf([2, 4, 8, 16], (n) => ({ batch: 8, seqLen: 256, config: { ...small, numHiddenLayers: n } }))],
  ["experts", settingsOf([8, 16, 32, 64], (n) => ({ batch: 8, seqLen: 256, config: { ...small, nRoutedExperts: n } }))],
  [
    "row length, 4096 tokens",
    settingsOf([128, 512, 1024, 2048], (n) => ({ batch: 4096 / n, seqLen: n, config: small })),
  ],
];

/** One step's seconds of CPU time, forward to optimizer. */
function step(trainer: Trainer, { batch, seqLen, config }: Setting, random: Random): number {
  const draw = () => Int32Array.from({ length: batch * seqLen }, () => random.int(config.vocabSize));
  const rows: Rows = { batch, seqLen, ids: draw(), targets: draw(), docStart: new Int32Array(batch * seqLen) };
  const began = process.cpuUsage();
  trainer.apply(trainer.gradients([rows]), 1, 1e-3);
  const { user, system } = process.cpuUsage(began);
  return (user + system) / 1e6;
}

/** The best seconds of a step of each setting. */
function measure(sweep: Setting[]): number[] {
  const trainers = sweep.map(
    ({ config }) =>
      new Trainer(Model.init(ModelConfig.parse(config), 1), {
        optimizer: MuonClipConfig.parse({ newtonSchulz: precision }),
        precision,
        activations: "keep",
        balanceLoss: 0,
      }),
  );
  const random = new Random(1);
  const best = sweep.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round <= settings.rounds; round++)
    for (const [i, setting] of sweep.entries()) {
      const seconds = step(trainers[i]!, setting, random);
      if (round > 0) best[i] = Math.min(best[i]!, seconds);
    }
  for (const trainer of trainers) trainer.dispose();
  return best;
}

const { date, cpu, threads } = machine(settings);
console.log(`${date.slice(0, 16)}, ${cpu}, ${threads} threads, ${precision}, the best of ${settings.rounds}\n`);
console.log("| sweep | at | CPU ms a step | growth |\n| --- | ---: | ---: | ---: |");
const measured = sweeps.map(([name, sweep]) => {
  const seconds = measure(sweep);
  for (const [i, { at }] of sweep.entries()) {
    const growth = i ? Math.log(seconds[i]! / seconds[i - 1]!) / Math.log(at / sweep[i - 1]!.at) : undefined;
    console.log(`| ${name} | ${at} | ${(1e3 * seconds[i]!).toFixed(1)} | ${growth?.toFixed(2) ?? ""} |`);
  }
  return { name, points: sweep.map(({ at }, i): [number, number] => [at, 1e3 * seconds[i]!]) };
});
if (own.svg) writeFileSync(own.svg, svg(measured));

/** Panels side by side, both scales from zero. */
function svg(panels: { name: string; points: [number, number][] }[]): string {
  const [wide, high, left, top] = [260, 170, 44, 24];
  const drawn = panels.map(({ name, points }, panel) => {
    const [mostX, mostY] = [0, 1].map((axis) => Math.max(...points.map((p) => p[axis]!))) as [number, number];
    const at = ([x, y]: [number, number]) => [left + (x / mostX) * (wide - 60), top + high * (1 - y / mostY)] as const;
    const marks = points.map((p) => {
      const [x, y] = at(p);
      return `<circle cx="${x}" cy="${y}" r="3"/><text x="${x}" y="${top + high + 14}" text-anchor="middle">${p[0]}</text>`;
    });
    return `<g transform="translate(${panel * wide} 0)"><text x="${left}" y="14">${name}</text>
<path d="M${left} ${top}V${top + high}H${wide - 8}" fill="none" stroke="#999"/>
<text x="${left - 4}" y="${top + 8}" text-anchor="end">${mostY.toFixed(0)}</text><text x="${left - 4}" y="${top + high}" text-anchor="end">0 ms</text>
<polyline points="${points.map((p) => at(p).join(",")).join(" ")}" fill="none" stroke="#2563eb"/>${marks.join("")}</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${panels.length * wide} ${top + high + 24}" font-family="sans-serif" font-size="11">
${drawn.join("\n")}
</svg>
`;
}
