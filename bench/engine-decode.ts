/** The engine's greedy decoding, scheduler, paged cache, sampler, events and all, against eager PyTorch's with nothing
 *  around it: prompt 64, 128 new tokens.
 *
 *    node bench/engine-decode.ts [--preset small|base] [--batch 1,16,64] [--new 128] [--exact] [--rounds 9] [--threads 2]
 *      [--peer-env default] [--json FILE]
 *
 *  Both sides have the same weights and must say the same ids, or the bench fails. Tokens a second are those of the steps
 *  after the prompts, on both sides. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../packages/massif/src/common/index.ts";
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { saveSafetensors } from "../packages/torch/src/index.ts";
import { alternate, begin, introduce, Peer } from "./harness.ts";
import { decided, peerConfig, preset } from "./presets.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  batch: { type: "string", default: "1,16,64" },
  prompt: { type: "string", default: "64" },
  new: { type: "string", default: "128" },
  exact: { type: "boolean" },
});
const { config } = preset(own.preset);
const [length, fresh] = [Number(own.prompt), Number(own.new)];

const folder = mkdtempSync(join(tmpdir(), "massif-bench-"));
const weights = join(folder, "model.safetensors");
const model = decided(config);
saveSafetensors(weights, model.parameters);

const random = new Random(3);
using peer = new Peer("peer_side.py", settings);
introduce(settings);
for (const batch of own.batch.split(",").map(Number)) {
  const prompts = Array.from({ length: batch }, () => Array.from({ length }, () => random.int(config.vocabSize)));
  // The prompts of a round are computed in one step, so that the steps after it are all decoding.
  const engine = openEngine({
    ...{ model, exact: Boolean(own.exact), maxRunning: batch, tokenBudget: batch * length },
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
  const expected = JSON.stringify((await theirs()).ids);
  const check = ({ ids, seconds }: { ids: number[][]; seconds: number }) => {
    if (JSON.stringify(ids) !== expected) throw new Error(`batch ${batch}: the sides say different ids`);
    return [seconds];
  };
  await alternate(settings, {
    name: `engine decode ${own.preset}${own.exact ? ", exact" : ""}, batch ${batch}`,
    peer,
    amount: batch * (fresh - 1),
    unit: "tokens/s",
    ours: async () => check(await greedy()),
    theirs: async () => check(await theirs()),
  });
  engine[Symbol.dispose]();
}
rmSync(folder, { recursive: true });
model.dispose();
