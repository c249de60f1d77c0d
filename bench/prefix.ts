/** An agent's prefix: prefilled tokens of a session of many turns, with the prefix cache and without it.
 *
 *    node bench/prefix.ts [--preset small|base] [--turns 300] [--tokens 750000] [--real 300] [--threads 2] [--json FILE]
 *
 *  Every turn's prompt is all that came before: a system prompt with tools, then call and observation, turn by turn, until
 *  the prompts of the session sum up to `--tokens`. Two parts:
 *  - the whole session through the scheduler and its blocks, with a model that costs nothing (virtual: no weights);
 *  - its first `--real` turns by the engine over random weights, whose table of positions is as long as it takes; times too.
 *  “Without” gives every turn another salt, so that nothing is found. What counts is tokens, so other processes disturb the
 *  first part in nothing. */
import { appendFileSync } from "node:fs";
import { Random } from "../packages/massif/src/common/index.ts";
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { Pages } from "../packages/massif/src/engine/pages.ts";
import { Scheduler } from "../packages/massif/src/engine/scheduler.ts";
import { ModelConfig } from "../packages/massif/src/model/index.ts";
import { begin, machine } from "./harness.ts";
import { decided, preset } from "./presets.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  turns: { type: "string", default: "300" },
  tokens: { type: "string", default: "750000" },
  real: { type: "string", default: "300" },
});
const [turns, sum] = [Number(own.turns), Number(own.tokens)];
const random = new Random(11);
const long = plan(turns, sum);
const config = ModelConfig.parse({
  ...preset(own.preset).config,
  maxPositionEmbeddings: long.lengths.at(-1)! + 64,
});
/** Most tokens that a turn says. */
const SAID = 24;

interface Session {
  /** Tokens of the prompt, turn by turn, and all tokens at the end. */
  lengths: number[];
  prompted: number;
}

/** The tokens of each turn: the first has the system prompt, a sixth of what prompts have on average; then an equal share
 *  each turn, so that all prompts together have `sum`. */
function plan(turns: number, sum: number): Session {
  const mean = sum / turns;
  const first = Math.round(mean / 6);
  const more = Math.round((2 * (mean - first)) / (turns - 1));
  const lengths = Array.from({ length: turns }, (_, i) => first + i * more);
  return { lengths, prompted: lengths.reduce((a, b) => a + b, 0) };
}

/** A session whose prompts grow; `say` says half of a turn, `SAID` tokens at most; the rest is what it observes. */
async function play({ lengths }: Session, say: (prompt: number[], most: number) => number[] | Promise<number[]>) {
  const text: number[] = [];
  const grow = (to: number) => {
    while (text.length < to) text.push(random.int(config.vocabSize));
  };
  for (const [turn, length] of lengths.entries()) {
    grow(length);
    const room = (lengths[turn + 1] ?? length + SAID) - length;
    text.push(...(await say([...text], Math.max(1, Math.min(SAID, room >> 1)))));
  }
}

/** The session through scheduler and blocks alone: tokens that a model would have computed, of prompts. */
async function virtual(session: Session, cached: boolean): Promise<number> {
  const blockSize = 16;
  const blocks = Math.ceil((session.lengths.at(-1)! + SAID) / blockSize) + 64;
  const scheduler = new Scheduler(new Pages(blocks, blockSize), { tokenBudget: 512, maxRunning: 64, maxWaiting: 1024 });
  let computed = 0;
  let turn = 0;
  await play(session, (prompt, most) => {
    const salt = cached ? "" : `${turn++}`;
    const job = scheduler.submit(prompt, { maxTokens: most, salt });
    const said: number[] = [];
    while (said.length < most) {
      const plan = scheduler.next()!;
      scheduler.commit(plan);
      for (const { from, to } of plan.slices) computed += Math.max(0, Math.min(to, prompt.length) - from);
      if (job.seq.computed < job.seq.tokens.length) continue;
      said.push(random.int(config.vocabSize));
      job.seq.tokens.push(said.at(-1)!);
    }
    scheduler.end(job);
    return said;
  });
  return computed;
}

/** The session through the engine: tokens of prompts that it computed, seconds until the first tokens, and in all. */
async function real(session: Session, cached: boolean) {
  const model = decided(config);
  using engine = openEngine({ model, cacheBytes: 256 << 20 });
  let [first, turn] = [0, 0];
  const began = performance.now();
  await play(session, async (prompt, most) => {
    const said: number[] = [];
    const asked = performance.now();
    const salt = cached ? "" : `${turn++}`;
    for await (const { id } of engine.generate({ prompt, maxTokens: most, temperature: 0, salt }))
      if (said.push(id) === 1) first += (performance.now() - asked) / 1e3;
    return said;
  });
  const { promptTokens, cachedTokens } = engine.metrics();
  const seconds = (performance.now() - began) / 1e3;
  model.dispose();
  return { computed: promptTokens - cachedTokens, first, seconds };
}

const { date, ...rest } = machine(settings);
console.log(`${date.slice(0, 16)}, ${rest.cpu}, ${rest.threads} threads`);
console.log("| session | tokens of prompts | computed without | with | less | to first tokens, without / with |");
console.log("| --- | --- | --- | --- | --- | --- |");
const show = (n: number) => Math.round(n).toLocaleString("en");
const tell = (name: string, session: Session, without: number, withCache: number, times = "", more: object = {}) => {
  const less = without / withCache;
  console.log(
    `| ${name}, ${session.lengths.length} turns | ${show(session.prompted)} | ${show(without)} | ${show(withCache)} | **${less.toFixed(1)}×** | ${times} |`,
  );
  const result = { name, turns: session.lengths.length, prompted: session.prompted, without, withCache, less };
  if (settings.json) appendFileSync(settings.json, `${JSON.stringify({ ...result, ...machine(settings), ...more })}\n`);
};

tell("agent, virtual", long, await virtual(long, false), await virtual(long, true));

const lengths = long.lengths.slice(0, Number(own.real));
const short = { lengths, prompted: lengths.reduce((a, b) => a + b, 0) };
const [without, withCache] = [await real(short, false), await real(short, true)];
tell(
  `agent, ${own.preset}`,
  short,
  without.computed,
  withCache.computed,
  `${without.first.toFixed(1)} / ${withCache.first.toFixed(1)} s`,
  { seconds: { without, withCache } },
);
