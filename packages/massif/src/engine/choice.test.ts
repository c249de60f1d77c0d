/** What a request may ask of its tokens beside the sampler's own options. */
import { afterAll, expect, test } from "vitest";
import { compileSchema, vocabularyOf } from "../enforcer/index.ts";
import { byteTokenizer, collect, tinyEngine, tinyModel } from "./testing.ts";

const model = tinyModel();
const tokenizer = byteTokenizer();
const engine = tinyEngine({ model, tokenizer, exact: true, maxRunning: 2 });
afterAll(() => {
  expect(engine.metrics().blocks.held).toBe(0);
  engine[Symbol.dispose]();
  model.dispose();
});
const prompt = [...Buffer.from("what is to be said")];
const vocabulary = vocabularyOf(tokenizer, model.config.vocabSize);
const think = tokenizer.idOf("<think>");
const thinkEnd = tokenizer.idOf("</think>");
const letters = new Map(Array.from({ length: 26 }, (_, i) => [97 + i, 50]));
const textOf = async (request: Partial<Parameters<typeof engine.generate>[0]>) => {
  const { tokens } = await collect(engine.generate({ prompt, maxTokens: 40, seed: 1, ...request }));
  return { tokens, text: tokens.map(({ text }) => text).join(""), ids: tokens.map(({ id }) => id) };
};

test("only allowed tokens come", async () => {
  const { ids } = await textOf({ allowedIds: [97, 98, 99], temperature: 1 });
  expect(new Set(ids)).toEqual(new Set([97, 98, 99]));
});

test("bad words are never finished, at the beginning and within, and whatever the seed", async () => {
  const allowedIds = [97, 98];
  const found = new Set<string>();
  for (let seed = 0; seed < 20; seed++) {
    const { text } = await textOf({ allowedIds, badWords: ["aab", "bb"], seed });
    expect(text).not.toMatch(/aab|bb/);
    for (const three of text.match(/(?=(...))/g) ?? []) found.add(three);
    found.add(text.slice(0, 3));
  }
  expect(found).toContain("aba");
});

test("a request that forbids every token fails by name, and no other with it", async () => {
  const other = textOf({});
  await expect(textOf({ allowedIds: [97], badWords: ["aa"] })).rejects.toMatchObject({
    code: "engine.nothing-allowed",
  });
  expect((await other).tokens).toHaveLength(40);
});

test("stop strings and stop tokens are kept where asked", async () => {
  const { text } = await textOf({ logitBias: letters });
  const stop = text.slice(10, 13);
  const at = text.indexOf(stop);
  expect((await textOf({ logitBias: letters, stop: [stop] })).text).toBe(text.slice(0, at));
  const kept = await textOf({ logitBias: letters, stop: [stop], includeStop: true });
  expect(kept.text).toBe(text.slice(0, at) + stop);
  const id = text.charCodeAt(5);
  const first = text.indexOf(text[5]!);
  expect((await textOf({ logitBias: letters, stopIds: [id] })).text).toBe(text.slice(0, first));
  expect((await textOf({ logitBias: letters, stopIds: [id], includeStop: true })).text).toBe(text.slice(0, first + 1));
});

test("before so many tokens nothing stops; a complete grammar may", async () => {
  const stopIds = [97, 98];
  for (let seed = 0; seed < 5; seed++) {
    const { ids } = await textOf({ allowedIds: [97, 98, 99], stopIds, minTokens: 7, seed });
    expect(ids.slice(0, 7)).toEqual(Array(7).fill(99));
  }
  const end = tokenizer.idOf("<|im_end|>");
  const grammar = compileSchema({ const: 7 }, vocabulary, { end: [end] });
  expect((await textOf({ grammar, stopIds: [end], minTokens: 20 })).ids).toEqual([55, end]);
});

test.each([0, 3, 9])("reasoning ends after %i tokens of it, and the answer goes on", async (budget) => {
  const thinking = { budget, begin: think, end: thinkEnd, open: true };
  const never = new Map([thinkEnd, think].map((id) => [id, -100]));
  const { ids } = await textOf({ thinking, logitBias: never });
  expect(ids.indexOf(thinkEnd)).toBe(budget);
  expect(ids.lastIndexOf(thinkEnd)).toBe(budget);
  expect(ids).toHaveLength(40);
  // The same where the model begins to think by itself.
  const late = await textOf({
    thinking: { ...thinking, open: false },
    logitBias: new Map([
      [thinkEnd, -100],
      [think, 100],
    ]),
  });
  expect(late.ids.slice(0, budget + 2).filter((id) => id === think).length).toBeGreaterThan(0);
  expect(late.ids[0]).toBe(think);
});

test("a more urgent request goes before those that wait, and before none of its own", async () => {
  const done: string[] = [];
  const ask = async (name: string, priority: number) => {
    await collect(engine.generate({ prompt, maxTokens: 4, seed: 1, priority }));
    done.push(name);
  };
  await Promise.all([ask("a", 0), ask("b", 0), ask("c", 5), ask("d", 0), ask("e", -1)]);
  expect(done.indexOf("e")).toBeLessThan(done.indexOf("d"));
  expect(done.at(-1)).toBe("c");
});

test("a prefix is found under its salt only", async () => {
  const long = Array.from({ length: 64 }, (_, i) => 30 + i);
  const cached = async (salt?: string) => {
    const generation = engine.generate({ prompt: long, maxTokens: 1, seed: 1, ...(salt && { salt }) });
    await collect(generation);
    return generation.cachedTokens;
  };
  expect([await cached(), await cached(), await cached("mine"), await cached("mine"), await cached("yours")]).toEqual([
    0, 48, 0, 48, 0,
  ]);
});

test("the likeliest of the prompt: rank, and the same log-probabilities as without", async () => {
  const generation = engine.generate({ prompt, maxTokens: 0, promptLogprobs: true, topPromptLogprobs: 3 });
  await collect(generation);
  const seen = generation.promptTokensSeen!;
  expect(seen).toHaveLength(prompt.length);
  for (let i = 1; i < prompt.length; i++) {
    const { id, logprob, rank, top } = seen[i]!;
    expect([id, logprob]).toEqual([prompt[i], generation.promptLogprobs![i]]);
    expect(top.map(({ logprob: other }) => other > logprob).filter(Boolean)).toHaveLength(Math.min(rank - 1, 3));
    if (rank <= 3) expect(top[rank - 1]!.id).toBe(id);
  }
});

test("a trace tells arrival, first step, first token and end, blocks found, and the masks' work", async () => {
  const request = { prompt: Array.from({ length: 40 }, (_, i) => 50 + i), maxTokens: 30, seed: 1 };
  await collect(engine.generate(request));
  const grammar = compileSchema({ type: "array", items: { enum: ["abc"] }, minItems: 2, maxItems: 2 }, vocabulary);
  const generation = engine.generate({ ...request, grammar });
  const { tokens } = await collect(generation);
  const { arrived, admitted, firstToken, finished, blocksFound, preemptions, masks } = generation.trace;
  expect([arrived, admitted!, firstToken!, finished!]).toEqual(
    [arrived, admitted!, firstToken!, finished!].toSorted((a, b) => a - b),
  );
  expect([blocksFound, preemptions]).toEqual([2, 0]);
  const [{ asked, forced, computed }] = masks as [(typeof masks)[0]];
  expect(asked).toBe(tokens.length + 1);
  expect(forced).toBeGreaterThan(0);
  expect(computed).toBeGreaterThan(0);
});

test("a grammar that turns out ambiguous in the middle of an answer ends that answer by name, and no other", async () => {
  // Every branch reads the same brackets, so the ways to read them double with each level.
  const node = (n: number) => ({ type: "array", items: { $ref: "#/$defs/node" }, maxItems: n });
  const grammar = compileSchema(
    { $ref: "#/$defs/node", $defs: { node: { anyOf: [3, 4, 5, 6].map(node) } } },
    vocabulary,
  );
  const bracket = new Map([[91, 100]]);
  const other = textOf({ seed: 5 });
  await expect(textOf({ grammar, logitBias: bracket, maxTokens: 60 })).rejects.toMatchObject({
    code: "schema.ambiguous",
  });
  expect((await other).tokens).toHaveLength(40);
});
