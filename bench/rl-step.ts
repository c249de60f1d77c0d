/**
 * One step of reinforcement learning, 32 tasks × 8 answers in `ledger`: seconds of rollouts and of the update, beside the
 * PyTorch study of notes/small-rl.md at the very same tokens (its model of the preset `small`, its decoding and learning
 * with the prefix shared), in turn.
 *   node_modules/.bin/node bench/rl-step.ts MODEL [--threads 1] [--rounds 5] [--narrow] [--precision bfloat16] [--python VENV/bin/python]
 *     [--study ../shared/prototypes]
 * MODEL is a checkpoint after SFT that plays the world; with the shape of recipes/speedrun both sides do equal work.
 * --narrow leaves attention in float32 (wideAttention: false); so does bfloat16. Without the study it prints our side alone. JSON.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { torch } from "@massif/torch";
import { Random } from "../packages/massif/src/common/index.ts";
import { loadModel } from "../packages/massif/src/model/index.ts";
import {
  Learner,
  openArena,
  openRolloutEngine,
  playerOf,
  RlRecipe,
  Rollouts,
  sequenceOf,
} from "../packages/massif/src/rl/index.ts";
import { loadTokenizer } from "../packages/massif/src/tokenizer/index.ts";
import { Trainer } from "../packages/massif/src/train/index.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "1" },
    rounds: { type: "string", default: "5" },
    narrow: { type: "boolean", default: false },
    precision: { type: "string", default: "float32" },
    python: { type: "string", default: join(process.env.VIRTUAL_ENV ?? ".venv", "bin/python") },
    study: { type: "string", default: resolve(import.meta.dirname, "../../shared/prototypes") },
  },
});
const [folder] = positionals;
if (!folder) throw new Error("which model? node bench/rl-step.ts MODEL");
const rounds = Number(values.rounds);
torch.setNumThreads(Number(values.threads));

const recipe = RlRecipe.parse({
  ...{ model: folder, steps: 1, worlds: [{ world: "ledger", maxTokens: 128 }], batch: { rows: 4, seqLen: 1024 } },
  ...{ optimizer: { learningRate: 1e-6 }, precision: values.precision },
});
const wide = !values.narrow && recipe.precision === "float32";
const { template, groups, groupSize, minibatches, optimizer, precision, activations } = recipe;
const tokenizer = await loadTokenizer(folder);
const trainer = new Trainer(loadModel(folder, { dtype: "float32" }), {
  ...{ optimizer, precision, activations, balanceLoss: 0 },
  ...(wide && { attention: "float64" }),
});
using engine = openRolloutEngine(trainer.model, tokenizer, recipe);
const player = playerOf(engine, recipe);
const arena = openArena(recipe.worlds[0]!, "train");
const rollouts = new Rollouts(player, [arena], { tokenizer, template, groupSize, seed: 1 });
const learner = new Learner(trainer, recipe);

/** Every answer is learned, as in the study: no group is left out for want of signal. */
async function step(iteration: number) {
  const tasks = Array.from({ length: groups }, (_, g) => ({ source: 0, seed: 1000 * iteration + g, type: "" }));
  const began = performance.now();
  const played = await rollouts.collect(tasks, { iteration, temperature: 1, tokens: null });
  const rolled = performance.now();
  const sequences = played.flatMap(({ answers }) =>
    answers.map(({ trajectory, experts }, i) =>
      sequenceOf(trajectory, i % 2 ? 1 : -1, { version: engine.version, experts }),
    ),
  );
  learner.update(sequences, { rate: 1, temperature: 1, random: new Random(iteration) });
  await engine.updateWeights();
  const seconds = { rollout: (rolled - began) / 1000, update: (performance.now() - rolled) / 1000 };
  return {
    seconds,
    sequences,
    trajectories: played.flatMap(({ answers }) => answers.map(({ trajectory }) => trajectory)),
  };
}

type Seconds = Awaited<ReturnType<typeof step>>["seconds"];
const warm = await step(0);
const ids = warm.trajectories.map(({ tokens }) => tokens!);
/** What all prompts begin with: tool declarations and the system prompt. */
const prefix = ids[0]!.ids.findIndex((id, i) => ids.some(({ ids }) => ids[i] !== id));
const sum = (of: (tokens: (typeof ids)[number]) => number) => ids.reduce((total, tokens) => total + of(tokens), 0);
const written = sum(({ sources }) => sources.filter((source) => source === "assistant").length);

async function* study(): AsyncGenerator<Seconds | undefined> {
  const child = spawn(values.python, [join(import.meta.dirname, "peers/rl_step.py"), values.study, values.threads], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const episodes = ids.map(({ ids, sources }) => ({
    ids: ids.slice(prefix),
    model: sources.slice(prefix).map((source) => source === "assistant"),
  }));
  const vocab = trainer.master.config.vocabSize;
  child.stdin.write(`${JSON.stringify({ prefix: ids[0]!.ids.slice(0, prefix), episodes, vocab, minibatches })}\n`);
  await lines.next();
  try {
    for (;;) {
      child.stdin.write("step\n");
      const { value, done } = await lines.next();
      if (done) return;
      yield JSON.parse(value) as Seconds;
    }
  } finally {
    child.kill();
  }
}

const own: Seconds[] = [];
const theirs: Seconds[] = [];
const peer = existsSync(join(values.study, "small-rl/proto.py")) ? study() : undefined;
await peer?.next(); // warm
for (let round = 1; round <= rounds; round++) {
  own.push((await step(round)).seconds);
  const { value } = (await peer?.next()) ?? {};
  if (value) theirs.push(value);
}
await peer?.return(undefined);
const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;
const shown = (all: Seconds[]) => ({
  rollout: median(all.map(({ rollout }) => rollout)),
  update: median(all.map(({ update }) => update)),
  step: median(all.map(({ rollout, update }) => rollout + update)),
});
console.log(
  JSON.stringify({
    ...{
      threads: Number(values.threads),
      rounds,
      precision: recipe.precision,
      wideAttention: wide,
      episodes: ids.length,
    },
    tokens: { prefix, episode: sum(({ ids }) => ids.length - prefix) / ids.length, written: written / ids.length },
    ours: shown(own),
    ...(theirs.length && {
      study: shown(theirs),
      ratio: median(own.map(({ rollout, update }, i) => (theirs[i]!.rollout + theirs[i]!.update) / (rollout + update))),
    }),
  }),
);
trainer.dispose();
process.exit(0);
