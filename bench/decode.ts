/** Greedy decoding over the latent cache against eager PyTorch's, absorbed on both sides: prompt 64, 128 new tokens.
 *
 *    node bench/decode.ts [--preset small|base] [--batch 1,16] [--new 128] [--weights float32|bfloat16|int4]
 *      [--rounds 9] [--threads 2] [--peer-env default] [--json FILE] [--profile]
 *
 *  Both sides have the same weights, the peer's always in float32; ours are packed once, before the prompt. In float32 the
 *  ids must agree, or the bench fails; otherwise it says how much of them does. Tokens a second are those of the steps after
 *  the prompt. `--profile` prints our operators instead. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../packages/massif/src/common/index.ts";
import {
  decode,
  LatentCache,
  type PackOptions,
  packedExperts,
  quantizeInt4,
} from "../packages/massif/src/model/index.ts";
import { saveSafetensors, torch } from "../packages/torch/src/index.ts";
import { alternate, begin, introduce, Peer } from "./harness.ts";
import { agreement, checkAgreement, decided, peerConfig, preset } from "./presets.ts";
import { profile } from "./profile.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  batch: { type: "string", default: "1,16" },
  prompt: { type: "string", default: "64" },
  new: { type: "string", default: "128" },
  weights: { type: "string", default: "float32" },
  profile: { type: "boolean" },
});
const { config } = preset(own.preset);
const [length, fresh] = [Number(own.prompt), Number(own.new)];

const folder = mkdtempSync(join(tmpdir(), "massif-bench-"));
const weights = join(folder, "model.safetensors");
const model = decided(config);
saveSafetensors(weights, model.parameters);

const pack: PackOptions = {
  narrow: own.weights !== "float32",
  ...(own.weights === "int4" && {
    experts: (name: string) => {
      const w = model.parameter(name);
      return packedExperts(
        w.unbind(0).map((one) => quantizeInt4(one)),
        w.shape,
      );
    },
  }),
};

/** Continues prompts by the likeliest ids [B][new]; the seconds of all steps but the prompt's. */
function greedy(prompts: number[][]): { ids: number[][]; seconds: number } {
  using _ = torch.scope();
  using cache = new LatentCache(model, prompts.length, length + fresh, pack);
  const next = (ids_BT: number[][]) => torch.tidy(() => decode(ids_BT, cache).argmax(-1).toArray());
  const steps = [next(prompts)];
  const began = performance.now();
  while (steps.length < fresh) steps.push(next(steps.at(-1)!.map((id) => [id])));
  const seconds = (performance.now() - began) / 1e3;
  return { ids: prompts.map((_, b) => steps.map((step) => step[b]!)), seconds };
}

const random = new Random(3);
const batches = own.batch
  .split(",")
  .map((batch) =>
    Array.from({ length: Number(batch) }, () => Array.from({ length }, () => random.int(config.vocabSize))),
  );
if (own.profile) {
  for (const prompts of batches) {
    greedy(prompts);
    profile(`${length} + ${fresh} ids, ${own.preset}, batch ${prompts.length}`, 2, () => greedy(prompts));
  }
} else {
  using peer = new Peer("peer_side.py", settings);
  introduce(settings);
  for (const prompts of batches) await compare(prompts, peer);
}
rmSync(folder, { recursive: true });
model.dispose();

async function compare(prompts: number[][], peer: Peer): Promise<void> {
  const job = { job: "decode", config: peerConfig(config), weights, threads: settings.threads, new: fresh };
  const theirs = () => peer.ask<{ ids: number[][]; seconds: number }>({ ...job, ids: prompts });
  const name = `decode ${own.preset}, ${own.weights}, batch ${prompts.length}`;
  const expected = (await theirs()).ids;
  const share = agreement(greedy(prompts).ids, expected);
  checkAgreement(name, share, own.weights);
  if (share < 1) console.log(`${name}: ${(100 * share).toFixed(0)} % of the texts agree`);
  await alternate(settings, {
    name,
    peer,
    amount: prompts.length * (fresh - 1),
    unit: "tokens/s",
    ours: () => [greedy(prompts).seconds],
    theirs: async () => [(await theirs()).seconds],
  });
}
