import { type DType, type Tensor, torch, usePlain } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { checkpointTensors, expertLoad, Model, ModelConfig, sequenceBalance } from "../model/index.ts";
import { MuonClipConfig } from "../optim/index.ts";
import { IGNORE, type Rows } from "./data/index.ts";
import { Trainer, type TrainerConfig } from "./trainer.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
});
afterEach(() => scope.end());

const config = ModelConfig.parse({
  vocabSize: 50,
  hiddenSize: 16,
  numHiddenLayers: 3,
  intermediateSize: 24,
  moeIntermediateSize: 8,
  numAttentionHeads: 2,
  qLoraRank: 12,
  kvLoraRank: 8,
  qkNopeHeadDim: 6,
  qkRopeHeadDim: 4,
  vHeadDim: 5,
  nRoutedExperts: 6,
  numExpertsPerTok: 2,
  initializerRange: 0.3,
});

function make(more: Partial<TrainerConfig> = {}, dtype: DType = "float32"): Trainer {
  return new Trainer(Model.init(config, 11, { dtype }), {
    optimizer: MuonClipConfig.parse({ learningRate: 0.01 }),
    precision: "float32",
    activations: "keep",
    balanceLoss: 0,
    ...more,
  });
}

/** Random tokens; documents of the given lengths in every row, whose last token is no context for the next one's first. */
function rows(batch: number, documents: number[], seed = 1): Rows {
  const seqLen = documents.reduce((a, b) => a + b, 0);
  const random = Random.of(seed, "rows");
  const ids = Int32Array.from({ length: batch * seqLen }, () => random.int(config.vocabSize));
  const targets = Int32Array.from(ids, () => random.int(config.vocabSize));
  const starts = documents.flatMap((length, i) => {
    const start = documents.slice(0, i).reduce((a, b) => a + b, 0);
    return Array.from({ length }, () => start);
  });
  const docStart = Int32Array.from(ids, (_, i) => starts[i % seqLen]!);
  for (let i = 1; i < targets.length; i++) if (i % seqLen && docStart[i] !== docStart[i - 1]) targets[i - 1] = IGNORE;
  return { batch, seqLen, ids, targets, docStart };
}

/** The sequences [from, to) of `whole`. */
function slice({ seqLen, ...whole }: Rows, from: number, to: number): Rows {
  const part = (data: Int32Array) => data.slice(from * seqLen, to * seqLen);
  const { ids, targets, docStart } = whole;
  return { batch: to - from, seqLen, ids: part(ids), targets: part(targets), docStart: part(docStart) };
}

const grads = (trainer: Trainer): Map<string, Tensor> =>
  new Map(
    trainer.optimizer.groups.flatMap(({ members }) =>
      members.map(({ spec, grad }): [string, Tensor] => [spec.name, grad.clone()]),
    ),
  );

/** ‖a − b‖ / ‖b‖ of the worst parameter. */
function apart(a: Map<string, Tensor>, b: Map<string, Tensor>): number {
  expect([...a.keys()]).toEqual([...b.keys()]);
  return Math.max(...[...a].map(([name, g]) => g.sub(b.get(name)!).norm().item() / b.get(name)!.norm().item()));
}

test("the block-by-block gradient is autograd's through the whole model, balance loss included", () => {
  const batch = rows(2, [5, 4]);
  const trainer = make({ balanceLoss: 0.5 });
  const { loss, targets, load } = trainer.gradients([batch]);
  const { model } = trainer;
  const of = (data: Int32Array) => torch.tensor(data, { shape: [2, 9] });
  let balance = torch.zeros([]);
  const counted: number[][] = [];
  const x = model.forward(
    of(batch.ids),
    model.context(9, { docStart_BT: of(batch.docStart), balance: 0.5 }),
    (output) => {
      if (output.balance) balance = balance.add(output.balance);
      if (output.idx_Nk) counted.push(expertLoad(output.idx_Nk, model.config).toArray());
    },
  );
  const mean = torch.cross_entropy_loss(model.logits(x).flatten(0, 1), of(batch.targets).to("int64").flatten());
  const names = [...trainer.model.parameters.keys()].filter((name) => !name.endsWith("bias"));
  const whole = torch.grad(
    mean.add(balance),
    names.map((name) => trainer.model.parameters.get(name)!),
  );
  const expected = new Map(names.map((name, i) => [name, whole[i]!]));
  const got = grads(trainer);
  // float32 sums in another order.
  for (const name of names)
    expect(
      got.get(name)!.sub(expected.get(name)!).norm().item() / expected.get(name)!.norm().item(),
      name,
    ).toBeLessThan(1e-5);
  expect(Math.abs(loss - mean.item())).toBeLessThan(1e-6);
  expect(targets).toBe(16);
  expect(load).toEqual(counted);
  expect(load.map((row) => row.reduce((a, b) => a + b, 0))).toEqual([36, 36]);
});

test("activations kept or recomputed: the same gradients, bit by bit", () => {
  const batch = rows(2, [7, 6]);
  const [keep, recompute] = (["keep", "recompute"] as const).map((activations) => {
    const trainer = make({ activations, balanceLoss: 0.1 });
    return { report: trainer.gradients([batch]), grads: grads(trainer) };
  });
  expect(recompute!.report).toEqual(keep!.report);
  for (const [name, g] of keep!.grads) expect(torch.equal(recompute!.grads.get(name)!, g), name).toBe(true);
});

test("two micro-batches, or three of unequal size, give the gradient of one batch", () => {
  const whole = rows(4, [6, 3]);
  const one = make({ balanceLoss: 0.5 });
  const report = one.gradients([whole]);
  for (const cuts of [
    [0, 2, 4],
    [0, 1, 2, 4],
  ]) {
    const parts = cuts.slice(1).map((to, i) => slice(whole, cuts[i]!, to));
    const many = make({ balanceLoss: 0.5 });
    const got = many.gradients(parts);
    // float32 sums in another order.
    expect(apart(grads(many), grads(one))).toBeLessThan(1e-5);
    expect(Math.abs(got.loss - report.loss)).toBeLessThan(1e-6);
    expect(Math.abs(got.gradNorm / report.gradNorm - 1)).toBeLessThan(1e-6);
    expect(got.load).toEqual(report.load);
    for (const [layer, heads] of got.maxLogits.entries())
      for (const [head, max] of heads.entries()) expect(max).toBeCloseTo(report.maxLogits[layer]![head]!, 5);
  }
});

test("a packed row gives each document the logits it has alone", () => {
  const model = Model.init(config, 11, { dtype: "float64" });
  const packed = rows(1, [4, 1, 6]);
  const int = (data: Int32Array) => torch.tensor(data, { shape: [1, data.length] });
  const logits = (ids: Int32Array, docStart: Int32Array | null) =>
    model.logits(model.forward(int(ids), model.context(ids.length, { docStart_BT: docStart && int(docStart) })));
  const together = logits(packed.ids, packed.docStart);
  for (const [start, length] of [
    [0, 4],
    [4, 1],
    [5, 6],
  ] as const) {
    const alone = logits(packed.ids.slice(start, start + length), null);
    // Rotary position is relative, so only rounding tells them apart: float64.
    expect(together.narrow(1, start, length).sub(alone).abs().max().item()).toBeLessThan(1e-12);
  }
  const blind = logits(packed.ids, null);
  expect(blind.sub(together).narrow(1, 5, 6).abs().max().item()).toBeGreaterThan(1e-3);
});

test("bfloat16 compute: the loss is near float32's, the masters stay float32 and learn", () => {
  const batch = rows(2, [16]);
  const [exact, reduced] = [make(), make({ precision: "bfloat16" })];
  const first = [exact, reduced].map((trainer) => trainer.gradients([batch]).loss);
  // Eight bits of mantissa in a model of three layers: well under a per cent of a loss of about 5 nats.
  expect(Math.abs(first[1]! / first[0]! - 1)).toBeLessThan(0.01);
  expect(first[1]).not.toBe(first[0]);
  let loss = first[1]!;
  for (let step = 0; step < 30; step++) {
    const found = reduced.gradients([batch]);
    loss = found.loss;
    reduced.apply(found, 1, 0);
  }
  expect(loss).toBeLessThan(first[1]! / 2);
  for (const [name, master] of reduced.master.parameters) expect(master.dtype, name).toBe("float32");
  for (const { grad } of reduced.optimizer.groups) expect(grad.dtype).toBe("float32");
});

test("bfloat16 gradients are float32's to 4e-2 with routing pinned, and no worse than ATen's own bfloat16", () => {
  // All experts are chosen, so that a rounding cannot choose others.
  const pinned = { ...config, hiddenSize: 64, numExpertsPerTok: config.nRoutedExperts, initializerRange: 0.1 };
  const batch = rows(2, [40, 23]);
  const [exact, fused, plain] = (
    [
      ["float32", false],
      ["bfloat16", false],
      ["bfloat16", true],
    ] as const
  ).map(([precision, off]) => {
    usePlain(off);
    const trainer = new Trainer(Model.init(pinned, 5), {
      optimizer: MuonClipConfig.parse({}),
      activations: "keep",
      balanceLoss: 0,
      precision,
    });
    const { loss } = trainer.gradients([batch]);
    return { loss, g: torch.cat([...grads(trainer).values()].map((g) => g.flatten())) };
  }) as [{ loss: number; g: Tensor }, { loss: number; g: Tensor }, { loss: number; g: Tensor }];
  usePlain(false);
  const error = ({ g }: { g: Tensor }) => g.sub(exact.g).norm().item() / exact.g.norm().item();
  expect(error(fused)).toBeGreaterThan(0);
  expect(error(fused)).toBeLessThan(4e-2);
  expect(error(fused)).toBeLessThan(1.1 * error(plain));
  expect(Math.abs(fused.loss - exact.loss)).toBeLessThan(4e-3);
});

test("a step reports γ times the maximum for clipped heads, and the next forward pass sees it", () => {
  const trainer = make({ optimizer: MuonClipConfig.parse({ qkClip: 0.5 }) });
  const batch = rows(2, [12]);
  const found = trainer.gradients([batch]);
  const above = found.maxLogits.flat().filter((max) => max > 0.5).length;
  expect(above).toBeGreaterThan(0);
  const { clippedHeads, maxLogitsAfter } = trainer.apply(found, 0, 0); // learning rate 0: only the clip
  expect(clippedHeads).toBe(above);
  for (const [layer, heads] of maxLogitsAfter.entries())
    for (const [head, max] of heads.entries())
      expect(max).toBeCloseTo(Math.min(0.5, found.maxLogits[layer]![head]!), 6);
  // The first layer's input has not changed.
  for (const [head, max] of trainer.gradients([batch]).maxLogits[0]!.entries())
    expect(max).toBeCloseTo(maxLogitsAfter[0]![head]!, 5);
});

test("the router's bias moves by its rate against the load, once for a step's micro-batches", () => {
  const trainer = make();
  const found = trainer.gradients([rows(2, [9], 1), rows(2, [9], 2)]);
  trainer.apply(found, 1, 0.1);
  for (const [i, load] of found.load.entries()) {
    const mean = load.reduce((a, b) => a + b, 0) / load.length;
    const signs = load.map((n) => Math.sign(mean - n));
    const drift = signs.reduce((a, b) => a + b, 0) / signs.length;
    const bias = trainer.master.parameter(`model.layers.${i + 1}.mlp.gate.e_score_correction_bias`).toArray();
    for (const [e, sign] of signs.entries()) expect(bias[e]).toBeCloseTo(0.1 * (sign - drift), 6);
  }
});

test("the balance loss that blocks add is the formula's, averaged over sequences", () => {
  const model = Model.init(config, 11, { dtype: "float64" });
  const scores = torch.rand([6, 6], { dtype: "float64" });
  const apartOf = [0, 1, 2].map((b) => sequenceBalance(scores.narrow(0, 2 * b, 2), 1, config).item());
  const mean = apartOf.reduce((a, b) => a + b, 0) / 3;
  expect(sequenceBalance(scores, 3, config).item()).toBeCloseTo(mean, 12);
  model.dispose();
});

test("evaluate sums what gradients average", () => {
  const trainer = make();
  const batch = rows(2, [5, 8]);
  const { loss, targets } = trainer.gradients([batch]);
  expect(trainer.evaluate(batch) / targets).toBeCloseTo(loss, 5);
});

test("a batch without targets has loss 0 and no gradient", () => {
  const trainer = make();
  const batch = rows(1, [4]);
  batch.targets.fill(IGNORE);
  const found = trainer.gradients([batch]);
  expect(found).toMatchObject({ loss: 0, targets: 0, gradNorm: 0 });
});

test.for(["keep", "recompute"] as const)(
  "a thousand steps leave as many tensors as one (activations: %s)",
  (activations) => {
    const trainer = make({ activations, balanceLoss: 0.01 });
    const parts = [rows(1, [2, 2], 1), rows(1, [4], 2)];
    const step = () => trainer.apply(trainer.gradients(parts), 0.01, 1e-3);
    step();
    const { tensors, bytes } = torch.memory();
    for (let i = 0; i < (activations === "keep" ? 1000 : 100); i++) step();
    trainer.gradients(parts); // a step that is skipped
    trainer.discard();
    trainer.evaluate(parts[0]!);
    expect(torch.memory()).toMatchObject({ tensors, bytes });
    for (const [name, tensor] of checkpointTensors(trainer.master))
      expect(tensor.isfinite().all().item(), name).toBeTruthy();
  },
);

test("an objective of one's own: its weights are dL/dlog p, and it sees log p at the temperature", () => {
  const [a, b] = [rows(2, [5, 3], 1), rows(1, [8], 2)];
  const trainer = make();
  const { optimizer } = trainer;
  const gradientOf = (...args: Parameters<Trainer["gradients"]>) => {
    const { targets } = trainer.gradients(...args);
    trainer.discard();
    return { targets, grads: optimizer.groups.map(({ grad }) => grad.toArray()) };
  };
  const plain = gradientOf([a, b]);
  // −1/targets is the mean loss's own weight, to the bit.
  const seen: Float32Array[] = [];
  const weigh = (scale: number) => (logp: Float32Array, micro: number) => {
    seen[micro] = logp;
    return logp.map(() => -scale / plain.targets);
  };
  expect(gradientOf([a, b], { weigh: weigh(1) }).grads).toEqual(plain.grads);
  // Doubling is exact in binary floating point.
  const doubled = gradientOf([a, b], { weigh: weigh(2) }).grads;
  expect(doubled).toEqual(plain.grads.map((grad) => grad.map((g) => 2 * g)));
  const hot = gradientOf([a, b], { weigh: weigh(1), temperature: 2 });
  expect(hot.grads).not.toEqual(plain.grads);
  const [cold, warm] = trainer.logProbs(a, [1, 2]);
  // With and without the graph kept: the same kernels.
  expect([...seen[0]!]).toEqual([...warm!].map((v) => expect.closeTo(v, 6)));
  expect(a.targets.every((target, i) => (target === IGNORE ? cold![i] === 0 : cold![i]! < 0))).toBe(true);
  // Softmax of halved logits: p₂ ∝ √p₁, by hand from all of the vocabulary's at one place.
  const each = Array.from({ length: config.vocabSize }, (_, target) => {
    const one = { ...a, targets: a.targets.map((_, i) => (i === 0 ? target : IGNORE)) };
    return trainer.logProbs(one, [1])[0]![0]!;
  });
  const norm = Math.log(each.reduce((sum, logp) => sum + Math.exp(logp / 2), 0));
  expect(warm![0]).toBeCloseTo(each[a.targets[0]!]! / 2 - norm, 4);
});
