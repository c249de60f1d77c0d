import { torch } from "@massif/torch";
import { expect, test } from "vitest";
import { byteTokenizer, collect, tinyEngine, tinyModel } from "./testing.ts";

const prompt = Array.from({ length: 70 }, (_, i) => (i * 37) % 250);
const greedy = { maxTokens: 8, temperature: 0 };

test("a vector is the unit mean of the model's last hidden states", () => {
  const model = tinyModel();
  using engine = tinyEngine({ model });
  const vector = engine.embed(prompt);
  const expected = torch.tidy(() => {
    const ids = torch.tensor(Int32Array.from(prompt), { shape: [1, prompt.length] });
    const mean = model.finalNorm(model.forward(ids)).mean([1]).squeeze(0);
    return mean.div(mean.norm()).toTypedArray();
  });
  for (const [i, x] of vector.entries()) expect(x).toBeCloseTo(expected[i] as number, 5);
  expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
  expect(() => engine.embed([])).toThrow("empty prompt");
  expect(() => engine.embed([9999])).toThrow("token 9999");
  model.dispose();
});

test("a pinned prefix outlives what is asked after it, and gives way to who needs the room", async () => {
  const model = tinyModel();
  // 12 blocks of 16 positions: a few requests wash everything else out.
  const perBlock = 3 * 24 * 4 * 16;
  using engine = tinyEngine({ model, exact: true, cacheBytes: 12 * perBlock });
  const other = (salt: number) => prompt.map((id) => (id + salt) % 250);
  const cached = async (ids: number[]) => {
    const generation = engine.generate({ prompt: ids, ...greedy });
    await collect(generation);
    return generation.cachedTokens;
  };
  expect(await cached(prompt)).toBe(0);
  const pin = await engine.pin(prompt);
  expect(pin.tokens).toBe(64);
  for (let i = 1; i < 6; i++) await cached(other(i));
  expect([await cached(prompt), pin.held]).toEqual([64, true]);
  // 10 of 12 blocks: more than the pin leaves.
  expect(await cached([...other(7), ...other(8), ...other(9).slice(0, 10)])).toBe(0);
  expect(pin.held).toBe(false);
  const again = await engine.pin(prompt);
  again[Symbol.dispose]();
  expect(engine.metrics().blocks.held).toBe(0);
  const third = await engine.pin(prompt);
  await engine.updateWeights();
  expect([third.held, await cached(prompt)]).toEqual([false, 0]);
  model.dispose();
});

test("an engine that slept answers to the bit as before; while it sleeps its memory is gone and requests are refused", async () => {
  const model = tinyModel();
  using engine = tinyEngine({ model, tokenizer: byteTokenizer(), exact: true });
  const answer = async () => (await collect(engine.generate({ prompt, ...greedy }))).tokens;
  const before = await answer();
  const running = collect(engine.generate({ prompt, ...greedy, maxTokens: 30 }));
  await new Promise(setImmediate);
  await engine.sleep({});
  expect((await running).tokens).toHaveLength(30);
  expect(engine.asleep).toEqual(["kv_cache", "weights"]);
  expect([...model.parameters.values()].reduce((sum, tensor) => sum + tensor.nbytes, 0)).toBe(0);
  expect(() => engine.generate({ prompt, ...greedy })).toThrow("sleep");
  expect(() => engine.embed(prompt)).toThrow("sleep");
  await expect(engine.updateWeights()).rejects.toThrow("asleep");
  engine.wake({ cache: false });
  expect(engine.asleep).toEqual(["kv_cache"]);
  engine.wake();
  expect(await answer()).toEqual(before);
  model.dispose();
});

test("stopping ends what is under way or aborts it; what comes later waits", async () => {
  const model = tinyModel();
  using engine = tinyEngine({ model });
  const first = collect(engine.generate({ prompt, ...greedy, maxTokens: 30 }));
  await new Promise(setImmediate);
  await engine.stop("finish");
  expect((await first).tokens).toHaveLength(30);
  const second = collect(engine.generate({ prompt, ...greedy }));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(engine.metrics().waiting).toBe(1);
  const ended = expect(second).rejects.toMatchObject({ code: "engine.cancelled" });
  await engine.stop("abort");
  await ended;
  engine.resume();
  expect((await collect(engine.generate({ prompt, ...greedy }))).tokens).toHaveLength(8);
  model.dispose();
});
