import { torch } from "@massif/torch";
import { afterAll, expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { compileSchema, vocabularyOf } from "../enforcer/index.ts";
import type { Engine } from "./engine.ts";
import type { OpenOptions } from "./open.ts";
import type { GeneratedToken, GenerateRequest } from "./request.ts";
import { byteTokenizer, collect, tinyEngine, tinyModel } from "./testing.ts";

const model = tinyModel();
const tokenizer = byteTokenizer();
const open: Engine[] = [];
const engineOf = (options: Partial<OpenOptions> = {}): Engine => {
  const engine = tinyEngine({ model, tokenizer, ...options });
  open.push(engine);
  return engine;
};
afterAll(() => {
  for (const engine of open) {
    expect(engine.metrics().blocks.held).toBe(0);
    engine[Symbol.dispose]();
  }
  model.dispose();
});

const promptOf = (length: number, seed = 0) => {
  const random = new Random(seed);
  return Array.from({ length }, () => random.int(256));
};
const run = async (engine: Engine, request: GenerateRequest) => collect(engine.generate(request));
/** All that a reader sees of a token. */
const seen = ({ tokens }: { tokens: GeneratedToken[] }) => tokens;

const requests: GenerateRequest[] = [
  { prompt: promptOf(14, 7), maxTokens: 40, seed: 8 },
  { prompt: promptOf(90, 1), maxTokens: 12, temperature: 0, topLogprobs: 3, experts: true },
  { prompt: promptOf(45, 2), maxTokens: 20, seed: 1 },
  { prompt: promptOf(3, 3), maxTokens: 30, seed: 2, temperature: 0.7, topP: 0.9 },
  {
    prompt: promptOf(64, 4),
    maxTokens: 9,
    seed: 3,
    topK: 20,
    minP: 0.02,
    repetitionPenalty: 1.2,
    presencePenalty: 0.5,
  },
  { prompt: promptOf(17, 5), maxTokens: 25, seed: 4, frequencyPenalty: 0.4, logitBias: new Map([[7, 3]]) },
  { prompt: promptOf(33, 6), maxTokens: 24, seed: 5, n: 3, topLogprobs: 1 },
];
const alone = async (exact: boolean) => {
  const all: GeneratedToken[][] = [];
  for (const request of requests) {
    const engine = engineOf({ exact });
    all.push(seen(await run(engine, request)));
  }
  return all;
};
/** Tokens of one choice after another: choices of one request come interleaved, and preemption changes how. */
const byChoice = (tokens: GeneratedToken[]) => tokens.toSorted((a, b) => a.choice - b.choice);

test("exact: alone, in a batch, cached, chunked and preempted are the same to the last bit", async () => {
  const expected = (await alone(true)).map(byChoice);
  const variants = {
    batch: { options: {}, warm: 0 },
    chunked: { options: { tokenBudget: 7 }, warm: 0 },
    cached: { options: {}, warm: 1 },
    preempted: { options: { cacheBytes: 16 * 288 * 7 }, warm: 0 },
  };
  for (const [name, { options, warm }] of Object.entries(variants)) {
    const engine = engineOf({ exact: true, ...options });
    for (let i = 0; i < warm; i++) await Promise.all(requests.map((request) => run(engine, request)));
    const order = name === "preempted" ? requests.toReversed() : requests;
    const all = await Promise.all(order.map((request) => run(engine, request)));
    for (const [i, got] of all.entries())
      expect(byChoice(seen(got)), `${name} ${i}`).toEqual(expected[requests.indexOf(order[i]!)]);
    const { preemptions, hitRate } = engine.metrics();
    if (name === "preempted") expect(preemptions).toBeGreaterThan(0);
    if (name === "cached") expect(hitRate).toBeGreaterThan(0.3);
  }
});

test("exact: one thread and two give the same bits", async () => {
  const threads = torch.getNumThreads();
  const results: GeneratedToken[][] = [];
  for (const n of [1, 2]) {
    torch.setNumThreads(n);
    results.push(seen(await run(engineOf({ exact: true }), requests[1]!)));
  }
  torch.setNumThreads(threads);
  expect(results[1]).toEqual(results[0]);
});

// Sums in another order change the last bits of float32; through three layers they stay below 1e-4 of log-probabilities.
test("fast: the same tokens' log-probabilities within 1e-4, alone or in a batch", async () => {
  const forced = requests.map(({ prompt }) => ({ prompt, maxTokens: 0, promptLogprobs: true }));
  const single = engineOf();
  const exact = engineOf({ exact: true });
  const batch = engineOf({ tokenBudget: 50 });
  const together = forced.map((request) => batch.generate(request));
  for (const [i, request] of forced.entries()) {
    const one = single.generate(request);
    const truth = exact.generate(request);
    for (const generation of [one, truth, together[i]!]) expect((await collect(generation)).tokens).toEqual([]);
    for (const [t, logprob] of truth.promptLogprobs!.entries()) {
      if (t === 0) continue;
      expect(Math.abs(one.promptLogprobs![t]! - logprob)).toBeLessThan(1e-4);
      expect(Math.abs(together[i]!.promptLogprobs![t]! - logprob)).toBeLessThan(1e-4);
    }
  }
});

test("log-probabilities are those of the model: what it says and what the prompt is told", async () => {
  const prompt = promptOf(20, 8);
  const engine = engineOf();
  const { tokens, ids } = await run(engine, { prompt, maxTokens: 10, seed: 9, temperature: 0.5 });
  const whole = [...prompt, ...ids[0]!];
  const logprobs = torch.tidy(() => {
    const ids_BT = torch.tensor([whole]);
    return model.logits(model.forward(ids_BT)).log_softmax(-1).squeeze(0).tolist() as number[][];
  });
  for (const [i, { id, logprob, sampledLogprob }] of tokens.entries()) {
    const row = logprobs[prompt.length + i - 1]!;
    expect(Math.abs(logprob - row[id]!)).toBeLessThan(1e-4);
    const cold = row.map((l, id) => (id < tokenizer.vocabSize ? Math.exp(l / 0.5) : 0));
    const total = cold.reduce((a, b) => a + b, 0);
    expect(Math.abs(sampledLogprob - Math.log(cold[id]! / total))).toBeLessThan(1e-3);
  }
  const scored = engine.generate({ prompt: whole, maxTokens: 0, promptLogprobs: true });
  await collect(scored);
  for (let t = 1; t < whole.length; t++)
    expect(Math.abs(scored.promptLogprobs![t]! - logprobs[t - 1]![whole[t]!]!)).toBeLessThan(1e-4);
  expect(scored.promptLogprobs![0]).toBeNaN();
});

test("choices of one request differ from each other, and are each what a request for fewer gives", async () => {
  const engine = engineOf({ exact: true });
  const request = { prompt: promptOf(30, 12), maxTokens: 8, seed: 6 };
  const three = await run(engine, { ...request, n: 3 });
  const two = await run(engine, { ...request, n: 2 });
  expect(two.ids).toEqual(three.ids.slice(0, 2));
  expect(new Set(three.ids.map(String)).size).toBe(3);
  expect(engine.metrics().promptTokens).toBe(60);
});

test("texts of a choice are the decoded text, with no part of a character and no stop string", async () => {
  const engine = engineOf();
  const { tokens, ids } = await run(engine, { prompt: promptOf(9, 1), maxTokens: 60, seed: 3 });
  expect(tokens.map(({ text }) => text).join("")).toBe(tokenizer.decode(ids[0]!, { skipSpecial: true }));
});

test("stop strings: for any seed what comes is the text before the first of them", async () => {
  const engine = engineOf({ exact: true });
  // Two likely letters, so that stop strings of both come up within tokens and across them.
  const logitBias = new Map([97, 98, 260, 262].map((id) => [id, 40]));
  let stopped = 0;
  for (let seed = 0; seed < 25; seed++) {
    const request = { prompt: [1, 2, 3], maxTokens: 24, seed, logitBias };
    const free = (await run(engine, request)).tokens.map(({ text }) => text).join("");
    const stop = ["abba", "anre", "bbb", "rea"];
    const { tokens } = await run(engine, { ...request, stop });
    const found = stop.map((s) => free.indexOf(s)).filter((at) => at >= 0);
    const text = tokens.map((token) => token.text).join("");
    const { finish } = tokens.at(-1)!;
    if (found.length) {
      stopped++;
      expect(finish!.reason).toBe("stop");
      expect(stop).toContain(finish!.stop);
      // The one that ends first stops it; it begins at or before wherever the first to begin would.
      expect(free.startsWith(text + String(finish!.stop))).toBe(true);
      for (const s of stop) expect(text).not.toContain(s);
    } else {
      expect(text).toBe(free);
      expect(finish).toEqual({ reason: "length" });
    }
  }
  expect(stopped).toBeGreaterThan(5);
});

test("stop ids end a choice, not before minTokens", async () => {
  const engine = engineOf();
  const stopIds = [42];
  const logitBias = new Map([[42, 100]]);
  const first = await run(engine, { prompt: [1], maxTokens: 9, seed: 1, stopIds, logitBias });
  expect(first.tokens).toMatchObject([{ id: 42, text: "", finish: { reason: "stop", stop: 42 } }]);
  const later = await run(engine, { prompt: [1], maxTokens: 9, seed: 1, stopIds, logitBias, minTokens: 4 });
  expect(later.ids[0]).toHaveLength(5);
  expect(later.ids[0]!.indexOf(42)).toBe(4);
});

test("a grammar holds every choice to a complete answer", async () => {
  const engine = engineOf();
  const vocabulary = vocabularyOf(tokenizer, model.config.vocabSize);
  const schema = {
    type: "object",
    properties: { a: { type: "integer" }, b: { enum: ["x", "yy"] } },
    required: ["a", "b"],
  };
  const grammar = compileSchema({ ...schema, additionalProperties: false }, vocabulary);
  const { tokens } = await run(engine, { prompt: [1, 2], maxTokens: 40, n: 4, seed: 1, grammar });
  for (let choice = 0; choice < 4; choice++) {
    const own = tokens.filter((token) => token.choice === choice);
    const value = JSON.parse(own.map(({ text }) => text).join(""));
    expect(Number.isInteger(value.a)).toBe(true);
    expect(["x", "yy"]).toContain(value.b);
    expect(own.at(-1)!.finish!.reason).toBe("stop");
  }
  expect(() => engine.generate({ prompt: [1], maxTokens: 3, grammar })).toThrow("no complete answer");
});

test("leaving, cancelling and aborting free slots and blocks at once", async () => {
  const engine = engineOf({ maxRunning: 2 });
  const request = { prompt: promptOf(40, 1), maxTokens: 500 };
  for await (const token of engine.generate(request)) if (token.text.length >= 0) break;
  expect(engine.metrics()).toMatchObject({ running: 0, waiting: 0, blocks: { held: 0 } });

  const first = engine.generate(request);
  const reader = collect(first);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(engine.metrics().blocks.held).toBeGreaterThan(0);
  first.cancel();
  expect(engine.metrics().blocks.held).toBe(0);
  await expect(reader).rejects.toMatchObject({ code: "engine.cancelled" });

  const control = new AbortController();
  const second = collect(engine.generate({ ...request, n: 2, signal: control.signal }));
  await new Promise((resolve) => setTimeout(resolve, 20));
  control.abort(new Error("gone"));
  expect(engine.metrics().blocks.held).toBe(0);
  await expect(second).rejects.toMatchObject({ code: "engine.cancelled", cause: { message: "gone" } });
});

test("a full queue refuses, a paused engine holds, a closed one ends everything", async () => {
  const engine = tinyEngine({ model, tokenizer, maxWaiting: 2 });
  engine.pause();
  const waiting = [1, 2].map((seed) => collect(engine.generate({ prompt: [seed], maxTokens: 3, seed })));
  expect(() => engine.generate({ prompt: [3], maxTokens: 3 })).toThrow("2 requests are waiting");
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(engine.metrics()).toMatchObject({ waiting: 2, steps: 0, paused: true });
  engine.resume();
  for (const { ids } of await Promise.all(waiting)) expect(ids[0]).toHaveLength(3);
  const last = collect(engine.generate({ prompt: [3], maxTokens: 3 }));
  engine[Symbol.dispose]();
  await expect(last).rejects.toMatchObject({ code: "engine.cancelled" });
  expect(() => engine.generate({ prompt: [3], maxTokens: 3 })).toThrow("closed");
});

test("requests that cannot be are refused by name", () => {
  const engine = engineOf();
  const refused = (request: Partial<GenerateRequest>) => () =>
    engine.generate({ prompt: [1], maxTokens: 2, ...request });
  expect(refused({ prompt: [] })).toThrow("an empty prompt");
  expect(refused({ prompt: [1, 320] })).toThrow("token 320");
  expect(refused({ temperature: -1 })).toThrow("temperature is -1");
  expect(refused({ topP: 1.5 })).toThrow("topP is 1.5");
  expect(refused({ n: 0 })).toThrow("n is 0");
  expect(refused({ n: 65 })).toThrow("n is 65");
  expect(refused({ maxTokens: 1024 })).toThrow("at most 1024 together");
  expect(refused({ stop: [""] })).toThrow("an empty stop string");
  expect(refused({ logitBias: new Map([[400, 1]]) })).toThrow("logitBias of 1 for token 400");
});

test("an update of the weights: what runs ends under the old, what waits begins under the new, no prefix crosses", async () => {
  const served = tinyModel(1);
  const other = tinyModel(2);
  const engine = tinyEngine({ model: served, tokenizer, exact: true, maxRunning: 1 });
  const request = { prompt: promptOf(40, 3), maxTokens: 12, temperature: 0 };
  const before = engineOf({ exact: true });
  const after = tinyEngine({ model: other, tokenizer, exact: true });
  const [old, fresh] = [await run(before, request), await run(after, request)];
  expect(fresh.ids).not.toEqual(old.ids);

  const running = collect(engine.generate(request));
  const waiting = collect(engine.generate(request));
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  const updated = engine.updateWeights(new Map(other.parameters));
  await expect(engine.updateWeights()).rejects.toMatchObject({ code: "engine.updating" });
  expect(await updated).toBe(1);
  expect(await running).toEqual(old);
  const late = await waiting;
  expect(late.ids).toEqual(fresh.ids);
  expect(late.tokens.every(({ version }) => version === 1)).toBe(true);
  expect(engine.metrics().cachedTokens).toBe(0);

  await expect(engine.updateWeights(new Map())).rejects.toMatchObject({ code: "engine.weights" });
  expect(engine.version).toBe(1);
  const stuck = collect(engine.generate(request));
  await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
  engine.pause();
  await expect(engine.updateWeights()).rejects.toMatchObject({ code: "engine.paused" });
  expect(await engine.updateWeights(undefined, { underWay: "abort" })).toBe(2);
  await expect(stuck).rejects.toMatchObject({ code: "engine.cancelled" });
  engine[Symbol.dispose]();
  after[Symbol.dispose]();
  served.dispose();
  other.dispose();
});

test("no tensor is left after a request, and none but the weights after an engine", async () => {
  const before = torch.memory();
  const engine = tinyEngine({ model, tokenizer });
  await run(engine, requests[6]!);
  const between = torch.memory();
  await Promise.all(requests.map((request) => run(engine, request)));
  expect(torch.memory()).toEqual(between);
  engine[Symbol.dispose]();
  expect(torch.memory()).toEqual(before);
});

test("logits that are no numbers end their request, not the engine", async () => {
  const broken = tinyModel(1);
  torch.tidy(() => void broken.parameter("lm_head.weight").select(0, 5).fill_(NaN));
  const engine = tinyEngine({ model: broken, tokenizer });
  await expect(run(engine, { prompt: [1, 2], maxTokens: 3 })).rejects.toMatchObject({ code: "sample.nothing" });
  expect(engine.metrics()).toMatchObject({ running: 0, blocks: { held: 0 } });
  engine[Symbol.dispose]();
  broken.dispose();
});
