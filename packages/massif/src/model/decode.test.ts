import { type Tensor, torch } from "@massif/torch";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ModelConfig } from "./config.ts";
import { decode, LatentCache } from "./decode.ts";
import { generateGreedy } from "./generate.ts";
import { Model } from "./model.ts";

let scope: ReturnType<typeof torch.scope>;
beforeEach(() => {
  scope = torch.scope();
});
afterEach(() => scope.end());

const make = (more: object = {}): Model =>
  Model.init(
    ModelConfig.parse({
      vocabSize: 60,
      hiddenSize: 16,
      numHiddenLayers: 3,
      intermediateSize: 24,
      moeIntermediateSize: 8,
      numAttentionHeads: 3,
      qLoraRank: 12,
      kvLoraRank: 8,
      qkNopeHeadDim: 6,
      qkRopeHeadDim: 4,
      vHeadDim: 5,
      nRoutedExperts: 6,
      numExpertsPerTok: 2,
      initializerRange: 0.3,
      ...more,
    }),
    2,
    { dtype: "float64" },
  );
const yarn = { type: "yarn", factor: 4, originalMaxPositionEmbeddings: 8, mscale: 1, mscaleAllDim: 1 };

test.for([{}, { qLoraRank: null }, { ropeScaling: yarn }])(
  "absorbed over the cache, in pieces of any length, gives the logits of the whole text (%o)",
  (more) => {
    const model = make(more);
    const ids_BT = torch.randint(0, 60, [2, 19], { dtype: "int64" });
    const whole_BTV = torch.noGrad(() => model.logits(model.forward(ids_BT)));
    for (const cuts of [[19], [1, 1, 1, 16], [7, 5, 1, 1, 5]]) {
      using cache = new LatentCache(model, 2, 2); // grows on the way
      let at = 0;
      for (const n of cuts) {
        const logits_BV: Tensor = decode(ids_BT.narrow(1, at, n).tolist() as number[][], cache);
        at += n;
        expect(cache.length).toBe(at);
        // Equal in exact arithmetic: float64's rounding.
        expect(
          logits_BV
            .sub(whole_BTV.select(1, at - 1))
            .abs()
            .max()
            .item(),
        ).toBeLessThan(1e-12);
      }
    }
  },
);

test("greedy continuations of a batch are those of each prompt alone, and leave nothing behind", () => {
  const model = make();
  const prompts = [Int32Array.of(1, 2, 3), Int32Array.of(9, 8, 7)];
  const together = generateGreedy(model, prompts, 12);
  const { tensors } = torch.memory();
  expect(together).toEqual(prompts.map((prompt) => generateGreedy(model, [prompt], 12)[0]));
  expect(together[0]).toHaveLength(12);
  expect(torch.memory().tensors).toBe(tensors);
});
