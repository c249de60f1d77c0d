/** The engine's greedy decoding, scheduler, paged cache, sampler, events and all, against eager PyTorch's with nothing
 *  around it: prompt 64, 128 new tokens.
 *
 *    node bench/engine-decode.ts [--preset small|base] [--batch 1,16,64] [--new 128] [--weights float32|bfloat16|int4]
 *      [--exact] [--rounds 9] [--threads 2] [--peer-env default] [--json FILE]
 *
 *  Both sides have the same weights, the peer's always in float32. In float32 the ids must agree, or the bench fails;
 *  otherwise it says how much of them does. Tokens a second are those of the steps after the prompts, on both sides. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../packages/massif/src/common/index.ts";
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { saveInt4 } from "../packages/massif/src/model/index.ts";
import { saveSafetensors } from "../packages/torch/src/index.ts";
import { alternate, begin, introduce, Peer } from "./harness.ts";
import { agreement, checkAgreement, decided, peerConfig, preset } from "./presets.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  batch: { type: "string", default: "1,16,64" },
  prompt: { type: "string", default: "64" },
  new: { type: "string", default: "128" },
  weights: { type: "string", default: "float32" },
  exact: { type: "boolean" },
});
const { config } = preset(own.preset);
const [length, fresh] = [Number(own.prompt), Number(own.new)];

const folder = mkdtempSync(join(tmpdir(), "massif-bench-"));
const weights = join(folder, "model.safetensors");
const model = decided(config);
saveSafetensors(weights, model.parameters);

const int4 = join(folder, "int4");
if (own.weights === "int4") saveInt4(model, int4);
const source = {
  float32: { model },
  bfloat16: { model, weights: "bfloat16" },
  int4: { model: int4, dtype: "bfloat16", weights: "int4" },
} as const;

const random = new Random(3);
using peer = new Peer("peer_side.py", settings);
introduce(settings);
for (const batch of own.batch.split(",").map(Number)) {
  const prompts = Array.from({ length: batch }, () => Array.from({ length }, () => random.int(config.vocabSize)));
  // The prompts of a round are computed in one step, so that the steps after it are all decoding.
  const engine = openEngine({
    ...source[own.weights as keyof typeof source],
    ...{ exact: Boolean(own.exact), maxRunning: batch, tokenBudget: batch * length },
    cacheBytes: 256 << 20,
  });
  const greedy = async () => {
    const ids: number[][] = prompts.map(() => []);
    let began = 0;
    // Another salt each round: no prefix is found.
    const salt = String(random.uint32());
    await Promise.all(
      prompts.map(async (prompt, b) => {
        for await (const { id } of engine.generate({ prompt, maxTokens: fresh, temperature: 0, salt })) {
          if (ids[b]!.push(id) === 1) began = performance.now();
        }
      }),
    );
    return { ids, seconds: (performance.now() - began) / 1e3 };
  };
  const job = { job: "decode", config: peerConfig(config), weights, threads: settings.threads, new: fresh };
  const theirs = () => peer.ask<{ ids: number[][]; seconds: number }>({ ...job, ids: prompts });
  const name = `engine decode ${own.preset}, ${own.weights}${own.exact ? ", exact" : ""}, batch ${batch}`;
  const share = agreement((await greedy()).ids, (await theirs()).ids);
  checkAgreement(name, share, own.weights);
  if (share < 1) console.log(`${name}: ${(100 * share).toFixed(0)} % of the texts agree`);
  await alternate(settings, {
    name,
    peer,
    amount: batch * (fresh - 1),
    unit: "tokens/s",
    ours: async () => [(await greedy()).seconds],
    theirs: async () => [(await theirs()).seconds],
  });
  engine[Symbol.dispose]();
}
rmSync(folder, { recursive: true });
model.dispose();
