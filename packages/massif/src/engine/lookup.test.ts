import { afterAll, expect, test } from "vitest";
import { compileSchema, vocabularyOf } from "../enforcer/index.ts";
import type { Engine } from "./engine.ts";
import { lookUp } from "./lookup.ts";
import type { GeneratedToken, GenerateRequest } from "./request.ts";
import { byteTokenizer, collect, tinyEngine, tinyModel } from "./testing.ts";

const model = tinyModel();
const tokenizer = byteTokenizer();
const speculate = { ngram: 3, max: 6 };
const plain = tinyEngine({ model, tokenizer, exact: true });
const guessing = tinyEngine({ model, tokenizer, exact: true, speculate });
afterAll(() => {
  for (const engine of [plain, guessing]) {
    expect(engine.metrics().blocks.held).toBe(0);
    engine[Symbol.dispose]();
  }
  model.dispose();
});

test("what followed the last tokens before: the longest match, its latest place, at most so many", () => {
  const look = (text: string, max = 4, ngram = 3) =>
    lookUp([...Buffer.from(text)], { ngram, max })
      .map((byte) => String.fromCharCode(byte))
      .join("");
  expect(look("abcXabcYabc")).toBe("Yabc");
  expect(look("abcXabcYabc", 1)).toBe("Y");
  expect(look("abcXzzcYabc")).toBe("Xzzc");
  expect(look("abcXzzcYabc", 4, 1)).toBe("Yabc");
  expect(look("aaaa")).toBe("a");
  expect(look("abcdef")).toBe("");
  expect(look("a")).toBe("");
});

const byChoice = (tokens: GeneratedToken[]) => tokens.toSorted((a, b) => a.choice - b.choice);
const run = async (engine: Engine, requests: readonly GenerateRequest[]) =>
  (await Promise.all(requests.map((request) => collect(engine.generate(request))))).map(({ tokens }) =>
    byChoice(tokens),
  );

test("exact: with guesses and without, every token and number is the same to the last bit", async () => {
  const prompt = [...Buffer.from("the cat and the dog and the cat and the dog and the ")];
  const vocabulary = vocabularyOf(tokenizer, model.config.vocabSize);
  const schema = { type: "object", properties: { reasonable: { enum: ["certainly", "never"] } } };
  const grammar = compileSchema({ ...schema, required: ["reasonable"] }, vocabulary, { end: ["<|im_end|>"] });
  const requests: GenerateRequest[] = [
    // Greedy random weights soon go round in circles: guesses come true.
    { prompt, maxTokens: 60, temperature: 0, topLogprobs: 2, experts: true },
    { prompt, maxTokens: 60, seed: 1, temperature: 0.3 },
    { prompt, maxTokens: 40, seed: 2, temperature: 0.4, topP: 0.8, repetitionPenalty: 1.1, n: 2 },
    { prompt, maxTokens: 40, temperature: 0, frequencyPenalty: 0.2, minTokens: 5, stopIds: [97] },
    { prompt, maxTokens: 50, seed: 3, grammar },
    { prompt: prompt.slice(0, 3), maxTokens: 30, temperature: 0, stop: ["e"] },
  ];
  const expected = await run(plain, requests);
  expect(await run(guessing, requests)).toEqual(expected);
  for (const [i, request] of requests.entries()) expect(await run(guessing, [request])).toEqual([expected[i]]);
  const { drafts, draftTokens, acceptedTokens } = guessing.metrics();
  expect(drafts).toBeGreaterThan(10);
  expect(acceptedTokens).toBeGreaterThan(20);
  expect(acceptedTokens).toBeLessThanOrEqual(draftTokens);
  expect(plain.metrics().drafts).toBe(0);
});

test("a grammar's only way is guessed, and always right: fewer steps than tokens", async () => {
  const vocabulary = vocabularyOf(tokenizer, model.config.vocabSize);
  const grammar = compileSchema({ const: { a_long_name_without_choice: "and a long text" } }, vocabulary);
  const before = guessing.metrics();
  const { tokens } = await collect(guessing.generate({ prompt: [1, 2, 3], maxTokens: 80, seed: 1, grammar }));
  const after = guessing.metrics();
  expect(tokens.map(({ text }) => text).join("")).toBe('{"a_long_name_without_choice":"and a long text"}');
  expect(after.steps - before.steps).toBeLessThan(tokens.length / 2);
});

test("where blocks are short guesses wait: preempted and chunked answers stay the same", async () => {
  const prompts = [5, 6, 7, 8].map((n) => Array.from({ length: n }, (_, i) => 97 + (i % 3)));
  const requests = prompts.map((prompt, seed) => ({ prompt, maxTokens: 40, seed, temperature: 0.2 }));
  const expected = await run(plain, requests);
  const short = tinyEngine({
    ...{ model, tokenizer, exact: true, speculate, cacheBytes: 16 * 288 * 7, tokenBudget: 9 },
  });
  expect(await run(short, requests)).toEqual(expected);
  expect(short.metrics().preemptions).toBeGreaterThan(0);
  expect(short.metrics().acceptedTokens).toBeGreaterThan(0);
  expect(short.metrics().blocks.held).toBe(0);
  short[Symbol.dispose]();
});
