import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { torch, usePlain } from "@massif/torch";
import { afterAll, expect, test } from "vitest";
import { saveInt4 } from "../model/index.ts";
import { openEngine } from "./open.ts";
import { byteTokenizer, collect, tinyModel } from "./testing.ts";

const folder = mkdtempSync(join(tmpdir(), "massif-int4-"));
// A model whose routing bf16 does not change: one token with another expert outweighs all rounding.
const model = tinyModel(4, { moeIntermediateSize: 32, initializerRange: 0.1 });
saveInt4(model, folder);
const cacheBytes = 1 << 20;
afterAll(() => {
  usePlain(false);
  model.dispose();
  rmSync(folder, { recursive: true });
});

/** Log-probabilities of a prompt. */
async function told(options: Partial<Parameters<typeof openEngine>[0]>): Promise<number[]> {
  using engine = openEngine({ model: folder, cacheBytes, ...options });
  const prompt = Array.from({ length: 40 }, (_, i) => (i * 37) % 256);
  const generation = engine.generate({ prompt, maxTokens: 0, promptLogprobs: true });
  await collect(generation);
  return Array.from(generation.promptLogprobs!.subarray(1));
}

test("INT4 as it computes is INT4 as its values, within what bf16 rounds", async () => {
  const values = await told({ dtype: "float32" });
  const bf16 = await told({ dtype: "bfloat16" });
  const packed = await told({ dtype: "bfloat16", weights: "int4" });
  const whole = await told({ model });
  usePlain(true);
  const blocks = await told({ dtype: "bfloat16", weights: "int4" });
  usePlain(false);
  const rms = (a: number[], b: number[]) => Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0) / a.length);
  // bf16 keeps 8 bits; packed experts may cost no more than twice what bf16 costs, and less than what INT4 costs.
  expect(rms(packed, values)).toBeLessThan(2 * rms(bf16, values));
  // The path through the blocks rounds more often.
  expect(rms(packed, values)).toBeLessThan(1.2 * rms(blocks, values));
  // A model in float32 from a copy in bfloat16.
  const narrow = await told({ dtype: "float32", weights: "bfloat16" });
  expect(rms(narrow, values)).toBeLessThan(1.2 * rms(bf16, values));
  expect(narrow).not.toEqual(values);
  expect(rms(packed, values)).toBeLessThan(0.5 * rms(whole, values));
});

test("an engine with packed experts writes tokens, frees all, and says what it cannot", async () => {
  const before = torch.memory().bytes;
  const options = {
    model: folder,
    cacheBytes,
    dtype: "bfloat16",
    weights: "int4",
    tokenizer: byteTokenizer(),
  } as const;
  const engine = openEngine(options);
  const { ids } = await collect(engine.generate({ prompt: [1, 2, 3], maxTokens: 8, n: 2, seed: 1 }));
  expect(ids.map(({ length }) => length)).toEqual([8, 8]);
  await expect(engine.updateWeights(folder)).rejects.toMatchObject({ code: "engine.weights" });
  engine[Symbol.dispose]();
  // The rotary table of a model stays until the garbage collector comes.
  expect(torch.memory().bytes - before).toBeLessThan(20_000);
  expect(() => openEngine({ ...options, dtype: "float32" })).toThrow("weights in float32");
  expect(() => openEngine({ ...options, model })).toThrow("not the engine's own");
});
