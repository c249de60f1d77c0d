/** What the operators are worth to the whole story: the seconds of a step of each of its stages, as it runs by itself, and by
 *  ATen's operators in float32 (MASSIF_OPS=plain), in turn; and of all steps that a finished story took.
 *
 *    node bench/story.ts RUN [--preset speedrun] [--rounds 3] [--threads 2]
 *
 *  RUN is the folder of a finished `npm start`: SFT begins with its pre-trained model, RL with that after SFT. A round of a
 *  stage is a few steps by `massif pretrain`, `sft` and `rl`; the median step of a round counts, and the median round.
 *  Set-up, demonstrations and evaluations are left out. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { median } from "./harness.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    preset: { type: "string", default: "speedrun" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
  },
});
if (!positionals[0]) throw new Error("which story? node bench/story.ts runs/speedrun");
const run = resolve(positionals[0]);

const recipe = (file: string) => resolve(import.meta.dirname, `../recipes/${values.preset}/${file}.json`);
const stages = {
  pretrain: ["pretrain", recipe("recipe"), "--set", "steps=40"],
  sft: [
    ...["sft", recipe("sft"), "--model", join(run, "pretrain"), "--set", "steps=60"],
    ...["--set", "demonstrations.count=600", "--set", "rollouts.episodes=1"],
  ],
  rl: [
    ...["rl", recipe("rl"), "--model", join(run, "sft"), "--set", "steps=6"],
    ...["--set", "evaluation.episodes=1", "--set", "evaluation.lastEpisodes=1"],
  ],
};
type Stage = keyof typeof stages;

const rowsOf = (dir: string): { step: number; seconds?: number }[] =>
  readFileSync(join(dir, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((row) => JSON.parse(row));
const main = resolve(import.meta.dirname, "../packages/massif/src/cli/main.ts");

/** Seconds of the median step. */
function secondsOf(stage: Stage, plain: boolean): number {
  const dir = mkdtempSync(join(tmpdir(), "massif-story-"));
  try {
    execFileSync(process.execPath, [main, ...stages[stage], "--run", join(dir, "run"), "--json"], {
      env: { ...process.env, OMP_NUM_THREADS: values.threads, ...(plain && { MASSIF_OPS: "plain" }) },
      stdio: ["ignore", "ignore", "inherit"],
    });
    return median(rowsOf(join(dir, "run")).flatMap(({ seconds }) => (seconds === undefined ? [] : [seconds])));
  } finally {
    rmSync(dir, { recursive: true });
  }
}

console.log("| stage | steps | as it runs, s a step | plain | ratio (least – most) |\n| --- | --- | --- | --- | --- |");
const total = { own: 0, plain: 0 };
for (const stage of Object.keys(stages) as Stage[]) {
  const rounds = Array.from({ length: Number(values.rounds) }, (_, i) => {
    const [first, second] = [i % 2 === 1, i % 2 === 0].map((plain) => secondsOf(stage, plain));
    return i % 2 ? { plain: first!, own: second! } : { own: first!, plain: second! };
  });
  const { step: steps } = rowsOf(join(run, stage)).at(-1)!;
  const [own, plain] = [median(rounds.map(({ own }) => own)), median(rounds.map(({ plain }) => plain))];
  total.own += steps * own;
  total.plain += steps * plain;
  const ratios = rounds.map(({ own, plain }) => plain / own);
  const shown = [median(ratios), Math.min(...ratios), Math.max(...ratios)].map((x) => x.toFixed(2));
  console.log(
    `| ${stage} | ${steps} | ${own.toFixed(3)} | ${plain.toFixed(3)} | ${shown[0]} (${shown[1]} – ${shown[2]}) |`,
  );
}
const ratio = (total.plain / total.own).toFixed(2);
console.log(`| all | | ${total.own.toFixed(0)} s | ${total.plain.toFixed(0)} s | ${ratio} |`);
