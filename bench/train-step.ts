/** A training step (forward, backward, MuonClip with QK-Clip, router biases) against eager PyTorch without QK-Clip.
 *
 *    node bench/train-step.ts [--preset small|base] [--precision float32|bfloat16] [--rounds 9] [--threads 2]
 *      [--peer eager|compile] [--peer-env default] [--moe grouped|loop|padded|auto] [--json FILE] [--profile]
 *
 *  Both sides begin with the same weights and see the same ids, so their losses agree: printed with the figures. The peer
 *  of float32 is eager float32; that of bfloat16 the faster of eager float32 and autocast, its Newton–Schulz in ours'
 *  precision. `--peer compile` is torch.compile: it wants a C++ compiler, and minutes to warm up. `--profile` prints our
 *  operators instead. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../packages/massif/src/common/index.ts";
import { Model } from "../packages/massif/src/model/index.ts";
import { MuonClipConfig } from "../packages/massif/src/optim/index.ts";
import { type Rows, Trainer } from "../packages/massif/src/train/index.ts";
import { linear, saveSafetensors, torch } from "../packages/torch/src/index.ts";
import { alternate, begin, introduce, median, Peer } from "./harness.ts";
import { peerConfig, preset } from "./presets.ts";
import { productsOfStep, profile } from "./profile.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  precision: { type: "string", default: "float32" },
  moe: { type: "string", default: "grouped" },
  peer: { type: "string", default: "eager" },
  profile: { type: "boolean" },
});
const { batch, seqLen, config } = preset(own.preset);
const precision = own.precision === "bfloat16" ? "bfloat16" : "float32";
const tokens = batch * seqLen;
/** Steps of a round: about a second, since the meter counts in ticks of 10 ms. */
const steps = own.preset === "small" ? 6 : 1;

const folder = mkdtempSync(join(tmpdir(), "massif-bench-"));
const weights = join(folder, "model.safetensors");
const model = Model.init(config, 1);
saveSafetensors(weights, model.parameters);
const optimizer = MuonClipConfig.parse({ gradClip: null, newtonSchulz: precision });
const trainer = new Trainer(model, { optimizer, precision, activations: "keep", balanceLoss: 0 });

/** A row is seqLen + 1 random ids: what is read, and what follows. */
const draw = (random: Random) =>
  Array.from({ length: batch }, () => Array.from({ length: seqLen + 1 }, () => random.int(config.vocabSize)));
const rowsOf = (ids: number[][]): Rows => ({
  batch,
  seqLen,
  ids: Int32Array.from(ids.flatMap((row) => row.slice(0, -1))),
  targets: Int32Array.from(ids.flatMap((row) => row.slice(1))),
  docStart: new Int32Array(tokens),
});

const times: { gradients: number; optimizer: number }[] = [];
const random = new Random(2);
function step(ids: number[][]): number {
  const rows = rowsOf(ids);
  const t0 = performance.now();
  const gradients = trainer.gradients([rows]);
  const t1 = performance.now();
  trainer.apply(gradients, 1, 1e-3);
  times.push({ gradients: (t1 - t0) / 1e3, optimizer: (performance.now() - t1) / 1e3 });
  return gradients.loss;
}

/** GFLOP/s of a 1024 × 1024 product here and now, by the clock or by CPU time: the best of half a second each of ATen's
 *  and our own. */
function peak(dtype: "float32" | "bfloat16", now: () => number = () => performance.now()): number {
  using _ = torch.scope();
  const [a, b] = [torch.randn([1024, 1024], { dtype }), torch.randn([1024, 1024], { dtype })];
  let best = Infinity;
  for (const product of [torch.linear, linear])
    for (const end = now() + 500; now() < end; ) {
      const began = now();
      product(a, b).dispose();
      best = Math.min(best, now() - began);
    }
  return (2 * 1024 ** 3) / best / 1e6;
}
const cpuTime = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e3;
};

if (own.profile) {
  const ids = draw(random);
  step(ids);
  const flops = { ...productsOfStep(config, batch, seqLen), muon_update_: trainer.optimizer.newtonSchulzFlops };
  profile(`step, ${own.preset}, ${precision}`, 4 * steps, () => step(ids), { flops, peak: peak(precision, cpuTime) });
} else {
  await compare();
}
rmSync(folder, { recursive: true });
trainer.dispose();

async function compare(): Promise<void> {
  using peer = new Peer("peer_side.py", settings);
  interface Trained {
    loss: number[];
    seconds: number[];
    optimizer: number[];
  }
  const job = (moe: string, autocast: boolean, ids: number[][][]) =>
    peer.ask<Trained>({
      job: "train",
      config: peerConfig(config, { moe }),
      weights,
      threads: settings.threads,
      options: { autocast, ns_bf16: precision === "bfloat16", compile: own.peer === "compile" },
      ids,
    });

  const candidates = (own.moe === "auto" ? ["grouped", "loop", "padded"] : [own.moe]).flatMap((moe) =>
    (precision === "bfloat16" ? [false, true] : [false]).map((autocast) => ({ moe, autocast, seconds: 0 })),
  );
  if (candidates.length > 1) {
    for (const c of candidates) {
      const { seconds } = await job(
        c.moe,
        c.autocast,
        Array.from({ length: 1 + steps }, () => draw(new Random(1))),
      );
      c.seconds = Math.min(...seconds.slice(1));
      console.log(`peer, experts ${c.moe}, ${c.autocast ? "autocast" : "float32"}: ${c.seconds.toFixed(3)} s a step`);
    }
    await peer.ask({ job: "forget" });
  }
  const { moe, autocast } = candidates.toSorted((a, b) => a.seconds - b.seconds)[0]!;

  const tensors: number[] = [];
  const theirRandom = new Random(2);
  const theirTimes: number[] = [];
  const ourLosses: number[] = [];
  const theirLosses: number[] = [];
  let peakGflops: number | undefined;
  const peakBefore = peak(precision);
  introduce(settings);
  await alternate(settings, {
    name: `step ${own.preset}, ${precision}${own.peer === "compile" ? " (peer: torch.compile)" : autocast ? " (peer: autocast)" : ""}`,
    peer,
    amount: tokens,
    unit: "tokens/s",
    ours() {
      const from = times.length;
      for (let i = 0; i < steps; i++) ourLosses.push(step(draw(random)));
      tensors.push(torch.memory().tensors);
      return times.slice(from).map((t) => t.gradients + t.optimizer);
    },
    async theirs() {
      const { loss, seconds, optimizer } = await job(
        moe,
        autocast,
        Array.from({ length: steps }, () => draw(theirRandom)),
      );
      theirLosses.push(...loss);
      theirTimes.push(...optimizer);
      return seconds;
    },
    more: figures,
  });
  const told = Object.entries(figures()).map(([name, value]) => `${name} ${+value.toPrecision(4)}`);
  console.log(`\n${told.join(" · ")}`);

  function figures() {
    const seconds = median(times.map((t) => t.gradients + t.optimizer));
    const flops = trainer.flopsPerToken(seqLen) * tokens + trainer.optimizer.newtonSchulzFlops;
    const gflops = flops / seconds / 1e9;
    peakGflops ??= Math.max(peakBefore, peak(precision));
    return {
      forwardBackwardSeconds: median(times.map((t) => t.gradients)),
      optimizerSeconds: median(times.map((t) => t.optimizer)),
      peerOptimizerSeconds: median(theirTimes),
      gflops,
      peakGflops,
      shareOfPeak: gflops / peakGflops,
      lossDifference: Math.max(...ourLosses.map((loss, i) => Math.abs(loss - theirLosses[i]!))),
      steps: ourLosses.length,
      liveTensorsGrown: tensors.at(-1)! - tensors[0]!,
    };
  }
}
