import { torch, usePlain } from "@massif/torch";
import { afterEach, expect, test } from "vitest";
import { Model } from "../model/index.ts";
import { collect, tinyConfig, tinyEngine, tinyModel } from "./testing.ts";

afterEach(() => usePlain(false));

test("a step is one operator, or goes block by block and says why; both say the same", async () => {
  using model = disposable(tinyModel());
  const wide = new Model(model.config, new Map(model.parameters), { wideAttention: true });
  using double = disposable(Model.init(tinyConfig(), 1, { dtype: "float64" }));
  const request = { prompt: [5, 6, 7, 8], maxTokens: 12, temperature: 0 };
  const said = async (of: Model) => {
    using engine = tinyEngine({ model: of });
    return [engine.path, (await collect(engine.generate(request))).ids] as const;
  };
  const [path, ids] = await said(model);
  expect(path).toBe("one operator a step");
  expect(await said(wide)).toEqual(["one operator a step", ids]);
  expect((await said(double))[0]).toBe("block by block: weights in float64");
  usePlain(true);
  expect(await said(model)).toEqual(["block by block: ATen's operators (MASSIF_OPS=plain)", ids]);
});

test("an engine that cannot be opened leaves nothing", () => {
  using model = disposable(tinyModel());
  const before = torch.memory();
  expect(() => tinyEngine({ model, cacheBytes: 100 })).toThrow("100 bytes for the cache");
  expect(() => tinyEngine({ model, weights: "bfloat16", exact: true })).toThrow('"bfloat16" of an exact engine');
  expect(() => tinyEngine({ model, weights: "int4" })).toThrow("not the engine's own");
  expect(torch.memory()).toEqual(before);
});

const disposable = (model: Model): Model & Disposable =>
  Object.assign(model, { [Symbol.dispose]: () => model.dispose() });
