import { type Tensor, torch, usePlain } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ModelConfig } from "./config.ts";
import { decode, LatentCache } from "./decode.ts";
import { dequantizeInt4, quantizeInt4 } from "./int4.ts";
import { Model } from "./model.ts";
import { PackedModel, packedExperts } from "./packed.ts";
import { BlockSteps, cacheType, type Steps, type Stretch } from "./step.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
});
afterEach(() => {
  usePlain(false);
  scope.end();
});

const make = (more: object = {}, dtype: "float32" | "bfloat16" = "float32"): Model => {
  const model = Model.init(
    ModelConfig.parse({
      ...{ vocabSize: 107, hiddenSize: 38, numHiddenLayers: 3, intermediateSize: 50, moeIntermediateSize: 18 },
      ...{ numAttentionHeads: 3, qLoraRank: 14, kvLoraRank: 34, qkNopeHeadDim: 6, qkRopeHeadDim: 4, vHeadDim: 10 },
      ...{ nRoutedExperts: 6, numExpertsPerTok: 2, initializerRange: 0.2, ...more },
    }),
    2,
  );
  for (const { name, kind } of model.specs) {
    const w = model.parameter(name);
    if (kind === "norm") w.normal_(1, 0.1);
    if (kind === "buffer") w.normal_(0, 0.1);
  }
  if (dtype === "float32") return model;
  const buffers = new Set(model.specs.flatMap(({ kind, name }) => (kind === "buffer" ? [name] : [])));
  const rounded = [...model.parameters].map(([name, w]) => [name, buffers.has(name) ? w : w.to(dtype)] as const);
  return new Model(model.config, new Map(rounded));
};

/** Largest difference, as a share of the largest. */
const apart = (a: Tensor, b: Tensor): number => a.sub(b).abs().max().div(b.abs().max()).item();
const plainly = (model: Model, ids_BT: Tensor): Tensor => {
  usePlain(true);
  const logits = torch.noGrad(() => model.logits(model.forward(ids_BT))).to("float32");
  usePlain(false);
  return logits;
};
const BLOCK = 4;
const cacheOf = (model: Model, blocks: number, dtype = cacheType(model)): Tensor => {
  const { numHiddenLayers, kvLoraRank, qkRopeHeadDim } = model.config;
  return torch.zeros([numHiddenLayers, blocks * BLOCK, kvLoraRank + qkRopeHeadDim], { dtype });
};
/** Over the same weights, with attention in float64. */
const widened = ({ config, parameters }: Model): Model =>
  new Model(config, new Map(parameters), { wideAttention: true });

const shapes: [string, object][] = [
  ["odd widths", {}],
  ["no query rank", { qLoraRank: null }],
  ["YaRN", { ropeScaling: { type: "yarn", factor: 4, originalMaxPositionEmbeddings: 8, mscale: 1, mscaleAllDim: 1 } }],
  ["expert groups", { nRoutedExperts: 12, nGroup: 4, topkGroup: 2, numExpertsPerTok: 3 }],
  ["no shared experts, weights not normalized", { nSharedExperts: 0, normTopkProb: false }],
  ["two shared experts, all layers with experts", { nSharedExperts: 2, firstKDenseReplace: 0 }],
  ["dense layers only", { firstKDenseReplace: 3 }],
  ["one expert a token of many, most of them empty", { nRoutedExperts: 40, numExpertsPerTok: 1 }],
  ["many heads", { numAttentionHeads: 20 }],
];

// float32 against the plain twin, which rebuilds keys and values: both round, in different orders.
test.for(shapes)("float32: logits are those of the plain path (%s)", ([, more]) => {
  const model = make(more);
  const ids_BT = torch.randint(0, 107, [2, 21], { dtype: "int64" });
  const whole_BTC = plainly(model, ids_BT);
  for (const cuts of [[21], [1, 1, 1, 18], [7, 5, 1, 1, 7]]) {
    using cache = new LatentCache(model, 2, 2); // grows on the way
    expect(cache.steps).toBeInstanceOf(PackedModel);
    let at = 0;
    for (const n of cuts) {
      const logits_BC = decode(ids_BT.narrow(1, at, n).tolist() as number[][], cache);
      at += n;
      expect(apart(logits_BC, whole_BTC.select(1, at - 1))).toBeLessThan(1e-5);
    }
  }
});

const asInt4 = (w_EOI: Tensor) =>
  packedExperts(
    w_EOI.unbind(0).map((w) => quantizeInt4(w)),
    w_EOI.shape,
  );

test("a row has the same bits alone, in a batch, in any chunks, in any blocks, on any number of threads", () => {
  for (const weights of ["float32", "float64 attention", "bfloat16", "int4"]) {
    // Groups of 32; five and six panels, which do not go into tiles evenly.
    const sizes = weights === "int4" ? { hiddenSize: 160, moeIntermediateSize: 96 } : { hiddenSize: 40 };
    const plain = make({ ...sizes, numAttentionHeads: 4 });
    const model = weights === "float64 attention" ? widened(plain) : plain;
    using packed = new PackedModel(model, {
      narrow: weights === "bfloat16" || weights === "int4",
      ...(weights === "int4" && { experts: (name: string) => asInt4(model.parameter(name)) }),
    });
    const tokens = torch.randint(0, 107, [300], { dtype: "int64" }).toArray();
    const others = Array.from({ length: 9 }, (_, i) => tokens.slice(i, 2 * i + 1));
    const run = (cuts: number[], blocks: number[], mates: boolean) => {
      const cache = cacheOf(model, 120);
      const out: number[] = [];
      let start = 0;
      for (const n of cuts) {
        const own: Stretch = { tokens: tokens.slice(start, start + n), start, blocks, wanted: n };
        const beside = others.map((tokens, i) => ({
          tokens,
          start: 0,
          blocks: [90 + 3 * i, 91 + 3 * i, 92 + 3 * i],
          wanted: 0,
        }));
        const stretches = mates ? [...beside, own] : [own];
        out.push(...packed.step(stretches, cache, BLOCK)[0].toArray());
        start += n;
      }
      return out;
    };
    const inOrder = Array.from({ length: 80 }, (_, i) => i);
    const shuffled = inOrder.map((i) => (i * 37) % 80);
    const expected = run([300], inOrder, false);
    expect(run([300], shuffled, true)).toEqual(expected);
    expect(run([...Array.from({ length: 20 }, () => 1), 3, 130, 17, 130], shuffled, true)).toEqual(expected);
    const threads = torch.getNumThreads();
    for (const n of [1, 2, 3]) {
      torch.setNumThreads(n);
      expect(run([100, 1, 1, 198], inOrder, true)).toEqual(expected);
    }
    torch.setNumThreads(threads);
  }
});

// Beside attention both sum in float32, in different orders. Latents wider than a panel; more heads than look together.
test.for([...shapes, ["wide latents", { kvLoraRank: 300 }], ["65 heads", { numAttentionHeads: 65 }]] as [
  string,
  object,
][])("attention in float64: logits, experts and latents are those of the blocks (%s)", ([, more]) => {
  const model = widened(make(more));
  using packed = new PackedModel(model);
  using blocks = new BlockSteps(model);
  const tokens = torch.randint(0, 107, [2, 30], { dtype: "int64" }).tolist() as number[][];
  const caches = [cacheOf(model, 16), cacheOf(model, 16)] as const;
  expect(caches[0].dtype).toBe("float64");
  let start = 0;
  for (const n of [13, 1, 1, 15]) {
    const stretches = tokens.map((ids, b) => ({
      ...{ tokens: ids.slice(start, start + n), start, wanted: n },
      blocks: Array.from({ length: 8 }, (_, i) => 8 * b + ((i * 3) % 8)),
    }));
    const [a, experts] = packed.step(stretches, caches[0], BLOCK);
    const [b, expected] = blocks.step(stretches, caches[1], BLOCK);
    expect(a.dtype).toBe("float32");
    expect(apart(a, b)).toBe(0);
    expect(experts.sort(-1)[0].tolist()).toEqual(expected.sort(-1)[0].tolist());
    start += n;
  }
  expect(apart(caches[0], caches[1])).toBeLessThan(1e-12);
});

// What all scores have in common changes no softmax. In float32 it leaves nothing of what they differ by.
test("attention in float64: scores of a million are as good as small ones", () => {
  const model = make();
  const { numAttentionHeads: H, kvLoraRank: C, qkNopeHeadDim: nope, vHeadDim: V } = model.config;
  for (const { name } of model.specs)
    if (name.endsWith("kv_b_proj.weight"))
      model.parameter(name).view([H, -1, C]).narrow(1, nope, V).select(2, 0).zero_();
  const wide = widened(model);
  using packed = new PackedModel(wide);
  using narrower = new PackedModel(model);
  using blocks = new BlockSteps(wide);
  const cache = cacheOf(wide, 4);
  packed.step([{ tokens: [1, 2, 3, 4, 5, 6, 7, 8], start: 0, blocks: [3, 1], wanted: 0 }], cache, BLOCK);
  cache.narrow(2, 0, 1).add_(2 ** 20);
  const next = (by: Steps, of: Tensor) =>
    by.step([{ tokens: [9], start: 8, blocks: [3, 1, 0], wanted: 1 }], of, BLOCK)[0];
  const expected = next(blocks, cache.clone());
  expect(apart(next(packed, cache.clone()), expected)).toBeLessThan(3e-6);
  expect(apart(next(narrower, cache.to("float32")), expected)).toBeGreaterThan(1e-3);
});

test("chosen experts are those of the router", () => {
  const model = make({ nRoutedExperts: 12, nGroup: 4, topkGroup: 2, numExpertsPerTok: 3 });
  using packed = new PackedModel(model);
  const tokens = torch.randint(0, 107, [30], { dtype: "int64" });
  const [, experts_LNk] = packed.step(
    [{ tokens: tokens.toArray(), start: 0, blocks: [0, 1, 2, 3, 4, 5, 6, 7], wanted: 0 }],
    ...([cacheOf(model, 8), BLOCK] as const),
  );
  const expected: number[][][] = [];
  torch.noGrad(() => {
    model.forward(tokens.unsqueeze(0), undefined, ({ idx_Nk }) => {
      if (idx_Nk) expected.push(idx_Nk.sort(-1)[0].tolist() as number[][]);
    });
  });
  expect(experts_LNk.sort(-1)[0].tolist()).toEqual(expected);
});

// bfloat16 keeps 8 bits: what it costs is measured by the plain path in bfloat16, against the same weights in float32.
test("bfloat16: no further from float32 than the plain path in bfloat16", () => {
  const narrow = make({}, "bfloat16");
  const wide = new Model(narrow.config, new Map([...narrow.parameters].map(([name, w]) => [name, w.to("float32")])));
  const ids_BT = torch.randint(0, 107, [1, 24], { dtype: "int64" });
  const truth = plainly(wide, ids_BT).squeeze(0);
  using packed = new PackedModel(narrow);
  const cache = cacheOf(narrow, 6, "bfloat16");
  const tokens = ids_BT.flatten().toArray();
  const [logits] = packed.step([{ tokens, start: 0, blocks: [0, 1, 2, 3, 4, 5], wanted: 24 }], cache, BLOCK);
  const far = (x: Tensor) => x.sub(truth).square().mean().sqrt().item();
  expect(far(logits)).toBeLessThan(1.1 * far(plainly(narrow, ids_BT).squeeze(0)));
  // The same weights packed from float32, and a cache in float32: closer still, or as close.
  using same = new PackedModel(wide, { narrow: true });
  const [again] = same.step([{ tokens, start: 0, blocks: [0, 1, 2, 3, 4, 5], wanted: 24 }], cacheOf(wide, 6), BLOCK);
  expect(apart(again, logits)).toBeLessThan(2e-2);
});

test("INT4: the values that it stands for, within what bfloat16 rounds", () => {
  const model = make({ hiddenSize: 64, moeIntermediateSize: 32, vHeadDim: 10 });
  const quantized = new Map(
    model.specs
      .filter(({ routed }) => routed)
      .map(({ name }) => [
        name,
        model
          .parameter(name)
          .unbind(0)
          .map((w) => quantizeInt4(w)),
      ]),
  );
  const stands = new Map([...model.parameters].map(([name, w]) => [name, w]));
  for (const [name, parts] of quantized)
    stands.set(name, torch.stack(parts.map((part) => dequantizeInt4(part, "float32"))));
  const ids_BT = torch.randint(0, 107, [1, 24], { dtype: "int64" });
  const truth = plainly(new Model(model.config, stands), ids_BT).squeeze(0);
  using packed = new PackedModel(model, {
    narrow: true,
    experts: (name) => packedExperts(quantized.get(name)!, model.parameter(name).shape),
  });
  const tokens = ids_BT.flatten().toArray();
  const stretch = { tokens, start: 0, blocks: [0, 1, 2, 3, 4, 5], wanted: 24 };
  const [logits] = packed.step([stretch], cacheOf(model, 6), BLOCK);
  using rounded = new PackedModel(new Model(model.config, stands), { narrow: true });
  const [bf16] = rounded.step([stretch], cacheOf(model, 6), BLOCK);
  const far = (x: Tensor) => x.sub(truth).square().mean().sqrt().item();
  expect(far(logits)).toBeLessThan(1.2 * far(bf16));
});

test("weights that have changed are packed again, to the same bits as anew", () => {
  const model = make();
  using packed = new PackedModel(model);
  const stretch = { tokens: [1, 2, 3], start: 0, blocks: [0], wanted: 3 };
  const run = (by: PackedModel) => by.step([stretch], cacheOf(model, 1), BLOCK)[0].toArray();
  const before = run(packed);
  for (const w of model.parameters.values()) w.mul_(1.01);
  packed.refresh();
  using anew = new PackedModel(model);
  expect(run(packed)).toEqual(run(anew));
  expect(run(packed)).not.toEqual(before);
});

test("what is no number stays with its own sequence", () => {
  const model = make();
  model.parameter("model.embed_tokens.weight").select(0, 5).fill_(NaN);
  using packed = new PackedModel(model);
  const of = (tokens: number[], i: number) => ({ tokens, start: 0, blocks: [i], wanted: 1 });
  const [alone] = packed.step([of([1, 2, 3], 0)], cacheOf(model, 3), BLOCK);
  const [logits] = packed.step([of([4, 5], 2), of([1, 2, 3], 0), of([5], 1)], cacheOf(model, 3), BLOCK);
  expect(logits.select(0, 1).toArray()).toEqual(alone.toArray());
  expect(logits.isnan().sum(-1).toArray()).toEqual([107, 0, 107]);
});

test("what does not fit is refused by name", () => {
  const model = make();
  using packed = new PackedModel(model);
  const step = (more: Partial<Stretch>) => () =>
    packed.step([{ tokens: [1], start: 0, blocks: [0], wanted: 1, ...more }], cacheOf(model, 2), BLOCK);
  expect(step({ tokens: [107] })).toThrow("found token 107");
  expect(step({ blocks: [2] })).toThrow("found block 2 in a cache of 2");
  expect(step({ wanted: 2 })).toThrow("2 wanted");
  expect(PackedModel.obstacle(model)).toBeUndefined();
  expect(PackedModel.obstacle(Model.init(model.config, 1, { dtype: "float64" }))).toBe("weights in float64");
  const wide = widened(model);
  expect(PackedModel.obstacle(wide)).toBeUndefined();
  const beside = "attention in float64 beside weights in bfloat16";
  expect(PackedModel.obstacle(wide, true)).toBe(beside);
  expect(PackedModel.obstacle(widened(make({}, "bfloat16")))).toBe(beside);
  expect(
    PackedModel.obstacle(new Model(model.config, new Map(model.parameters), { linear: (x, w) => x.matmul(w.mT) })),
  ).toBe("a model whose blocks compute in their own way");
  using packedWide = new PackedModel(wide);
  expect(() => packedWide.step([{ tokens: [1], start: 0, blocks: [0], wanted: 1 }], cacheOf(model, 1), BLOCK)).toThrow(
    "expected float64",
  );
  const odd = make({ vHeadDim: 11 });
  expect(PackedModel.obstacle(odd)).toBeUndefined();
  expect(PackedModel.obstacle(odd, true)).toBe("an odd width in bfloat16: 11");
  usePlain(true);
  expect(PackedModel.obstacle(model)).toBe("ATen's operators (MASSIF_OPS=plain)");
});
