import { torch } from "@massif/torch";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../../common/index.ts";
import { Model, ModelConfig } from "../../model/index.ts";
import { MuonClipConfig } from "../../optim/index.ts";
import { IGNORE, type Rows } from "../data/index.ts";
import { Trainer } from "../trainer.ts";
import { type Example, layOut } from "./index.ts";

/** Learned from token `from` on. */
const example = (ids: number[], from: number): Example => ({
  ids: Int32Array.from(ids),
  learn: Uint8Array.from(ids, (_, i) => Number(i >= from)),
});

test("what examples begin with stands once, before them, as far as none of them learns it", () => {
  const examples = [
    example([1, 2, 3, 4, 5], 4),
    example([9, 8], 1),
    example([1, 2, 3, 6], 3),
    example([1, 2, 3, 7], 3),
  ];
  const [only, ...others] = layOut(examples, examples.keys(), { rows: 2, seqLen: 7 });
  expect(others).toEqual([]);
  const { rows, places } = only!;
  expect([...rows.ids]).toEqual([1, 2, 3, 4, 3, 3, 9]);
  expect([...rows.targets]).toEqual([IGNORE, IGNORE, IGNORE, 5, 6, 7, 8]);
  expect([...rows.docStart]).toEqual([0, 0, 2, 2, 4, 5, 6]);
  expect([...rows.shared!]).toEqual([0, 0, 0, 0, 0, 2, 0, 2, 0, 2, 0, 2, 0, 0]);
  expect(places).toEqual([
    { example: 0, from: 2, at: 2 },
    { example: 2, from: 2, at: 4 },
    { example: 3, from: 2, at: 5 },
    { example: 1, from: 0, at: 6 },
  ]);
});

const tree = fc.array(
  fc.record({ world: fc.nat(2), task: fc.nat(2), own: fc.integer({ min: 2, max: 9 }), learnt: fc.nat(14) }),
  { minLength: 1, maxLength: 24 },
);
const grown = fc
  .record({ seeds: tree, rows: fc.integer({ min: 1, max: 3 }), seqLen: fc.integer({ min: 8, max: 60 }) })
  .map(({ seeds, ...batch }) => ({
    batch,
    examples: seeds.map(({ world, task, own, learnt }, i) => {
      const random = Random.of(i, "own");
      const ids = [
        ...Array.from({ length: 5 }, (_, t) => 10 * world + t),
        ...Array.from({ length: 3 }, (_, t) => 30 + 5 * task + t),
        ...Array.from({ length: own }, () => random.int(60)),
      ];
      return example(ids, 1 + (learnt % (ids.length - 1)));
    }),
  }));

const longest = (examples: readonly Example[]) => Math.max(...examples.map(({ ids }) => ids.length - 1));

/** The tokens that a position sees, itself the last. */
function seen({ ids: all, seqLen, docStart, shared }: Rows, at: number): number[] {
  const row = at - (at % seqLen);
  const ids = all.subarray(row, row + seqLen);
  const before = shared ? ids.subarray(shared[2 * at], shared[2 * at + 1]) : [];
  return [...before, ...ids.subarray(docStart[at], at - row + 1)];
}

test("every target is predicted once, from all that its example has before it; rows are as long as allowed", () => {
  fc.assert(
    fc.property(grown, ({ examples, batch }) => {
      const found: string[] = [];
      for (const { rows, places } of layOut(examples, examples.keys(), batch)) {
        if (places.length > rows.batch)
          expect(rows.seqLen).toBeLessThanOrEqual(Math.max(batch.seqLen, longest(examples)));
        expect(rows.batch).toBeLessThanOrEqual(batch.rows);
        for (const [at, target] of rows.targets.entries())
          if (target !== IGNORE) found.push(`${seen(rows, at)}→${target}`);
      }
      const expected = examples.flatMap(({ ids, learn }) =>
        [...ids].flatMap((id, t) => (t && learn[t] ? [`${[...ids.subarray(0, t)]}→${id}`] : [])),
      );
      expect(found.sort()).toEqual(expected.sort());
    }),
  );
});

test("loss and gradients are those of the examples one by one", () => {
  const config = ModelConfig.parse({
    ...{ vocabSize: 60, hiddenSize: 32, numHiddenLayers: 2, intermediateSize: 64, moeIntermediateSize: 16 },
    ...{ numAttentionHeads: 2, qLoraRank: 16, kvLoraRank: 16, qkNopeHeadDim: 8, qkRopeHeadDim: 4, vHeadDim: 8 },
    ...{ nRoutedExperts: 4, numExpertsPerTok: 2, firstKDenseReplace: 1, maxPositionEmbeddings: 64 },
  });
  const examples = fc.sample(grown, { numRuns: 8, seed: 3 }).flatMap(({ examples }) => examples);
  const trainer = new Trainer(Model.init(config, 1), {
    ...{ optimizer: MuonClipConfig.parse({}), precision: "float32", activations: "keep", balanceLoss: 0 },
    attention: "float64",
  });
  const alone = examples.flatMap((_, i) => layOut(examples, [i], { rows: 1, seqLen: 64 }).map(({ rows }) => rows));
  const together = layOut(examples, examples.keys(), { rows: 1, seqLen: 140 }).map(({ rows }) => rows);
  const tokens = (all: Rows[]) => all.reduce((n, { batch, seqLen }) => n + batch * seqLen, 0);
  expect(tokens(together)).toBeLessThan(0.95 * tokens(alone));
  const [one, all] = [alone, together].map((rows) => {
    const { loss } = trainer.gradients(rows);
    return { loss, grads: trainer.optimizer.groups.map(({ grad }) => torch.keep(grad.clone())) };
  });
  expect(all!.loss).toBeCloseTo(one!.loss, 6);
  for (const [i, grad] of all!.grads.entries()) {
    const expected = one!.grads[i]!;
    expect(grad.sub(expected).norm().item()).toBeLessThan(1e-5 * (expected.norm().item() + 1e-3));
  }
  for (const { grads } of [one!, all!]) for (const grad of grads) grad.dispose();
  trainer.dispose();
});
