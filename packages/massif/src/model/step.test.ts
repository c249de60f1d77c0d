import { type Tensor, torch } from "@massif/torch";
import { expect, test } from "vitest";
import { ModelConfig } from "./config.ts";
import { Model } from "./model.ts";
import { PackedModel } from "./packed.ts";
import { BlockSteps, type Steps, type Stretch } from "./step.ts";

const config = ModelConfig.parse({
  ...{ vocabSize: 61, hiddenSize: 16, numHiddenLayers: 3, intermediateSize: 24, moeIntermediateSize: 8 },
  ...{ numAttentionHeads: 2, qLoraRank: 12, kvLoraRank: 8, qkNopeHeadDim: 6, qkRopeHeadDim: 4, vHeadDim: 4 },
  ...{ nRoutedExperts: 6, numExpertsPerTok: 2, initializerRange: 0.3 },
});

// float32 summed in other orders.
test.each([false, true])(
  "through the blocks and by one operator: the same logits, experts and cache (exact: %s)",
  (exact) => {
    using _ = torch.scope();
    const model = Model.init(config, 2);
    using packed = new PackedModel(model);
    using blocks = new BlockSteps(model, { exact });
    const ids = Array.from({ length: 40 }, (_, i) => (i * 37) % 61);
    // A prompt, a chunk of another, a token that decodes: in an order in which the blocks do not compute them.
    const steps: Stretch[][] = [
      [{ tokens: ids.slice(0, 9), start: 0, blocks: [3, 1, 4], wanted: 0 }],
      [
        { tokens: ids.slice(20, 26), start: 0, blocks: [0, 5], wanted: 2 },
        { tokens: ids.slice(9, 12), start: 9, blocks: [3, 1, 4], wanted: 3 },
        { tokens: ids.slice(30, 31), start: 0, blocks: [6], wanted: 1 },
      ],
      [
        { tokens: ids.slice(12, 13), start: 12, blocks: [3, 1, 4, 2], wanted: 1 },
        { tokens: ids.slice(31, 32), start: 1, blocks: [6], wanted: 0 },
      ],
    ];
    const run = (by: Steps) => {
      const cache_LSW = torch.zeros([3, 7 * 4, 12]);
      const all = steps.map((stretches) => by.step(stretches, cache_LSW, 4));
      const hidden = by.step([{ tokens: ids, start: 0, blocks: [0], wanted: 40 }], torch.zeros([3, 40, 12]), 40, {
        hidden: true,
      });
      return { logits: all.map(([logits]) => logits), experts: all.map(([, experts]) => experts), cache_LSW, hidden };
    };
    const [own, other] = [run(blocks), run(packed)];
    const near = (a: Tensor, b: Tensor) => expect(torch.allclose(a, b, 1e-4, 1e-5)).toBe(true);
    expect(own.logits.map(({ shape }) => shape)).toEqual([
      [0, 61],
      [6, 61],
      [1, 61],
    ]);
    for (const [i, logits] of own.logits.entries()) near(logits, other.logits[i]!);
    for (const [i, experts] of own.experts.entries())
      expect(experts.sort(-1)[0].tolist()).toEqual(other.experts[i]!.sort(-1)[0].tolist());
    near(own.cache_LSW, other.cache_LSW);
    near(own.hidden[0], other.hidden[0]);
    model.dispose();
  },
);
