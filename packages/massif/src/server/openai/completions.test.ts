/** Bare texts, on our own engine and through the gateway, whose upstream is the same engine. */
import type OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { byteTokenizer, type EngineAndGateway, engineAndGateway } from "../testing-model.ts";

const tokenizer = byteTokenizer();
let pair: EngineAndGateway;
beforeAll(async () => {
  pair = await engineAndGateway();
});
afterAll(() => pair[Symbol.asyncDispose]());

const letters = { logit_bias: Object.fromEntries(Array.from({ length: 26 }, (_, i) => [String(97 + i), 50])) };

describe.each(["engine", "gateway"] as const)("%s", (via) => {
  const base = { model: "k2", prompt: "the cat and the dog and the cat", max_tokens: 16, seed: 4, temperature: 0.8 };
  /** The answer as a whole, which must be what the stream makes. */
  const ask = async (fields: object, streams = true): Promise<OpenAI.Completion> => {
    const body = { ...base, ...fields } as typeof base;
    const answer = await pair[via].client.completions.create(body);
    if (!streams) return answer;
    const texts: string[] = answer.choices.map(() => "");
    for await (const { choices } of await pair[via].client.completions.create({ ...body, stream: true }))
      for (const { index, text } of choices) texts[index] += text;
    expect(texts).toEqual(answer.choices.map(({ text }) => text));
    return answer;
  };
  const direct = async (fields: object) =>
    (await pair.engine.client.completions.create({ ...base, ...fields } as typeof base)).choices.map(
      ({ text }) => text,
    );

  test("texts, ids and several of them, the same through both", async () => {
    const ids = Array.from(tokenizer.encode(base.prompt));
    for (const fields of [
      {},
      { prompt: ids },
      { prompt: ["a", "b"], n: 2 },
      { prompt: [ids, [65]] },
      { n: 3, ...letters },
    ]) {
      const { choices, usage } = await ask(fields);
      expect(choices.map(({ index }) => index)).toEqual(choices.keys().toArray());
      expect(choices.map(({ text }) => text)).toEqual(await direct(fields));
      expect(usage!.completion_tokens).toBeLessThanOrEqual(16 * choices.length);
      expect(usage!.prompt_tokens).toBeGreaterThan(0);
    }
  });

  test("echo, and a text that is scored", async () => {
    expect((await ask({ echo: true })).choices[0]!.text).toBe(base.prompt + (await direct({}))[0]);
    for (const max_tokens of [0, 5]) {
      const scored = await ask({ echo: true, logprobs: 2, max_tokens, ...letters }, via === "engine");
      const { text, logprobs } = scored.choices[0]!;
      const bytes = Buffer.from(base.prompt);
      expect(text.startsWith(base.prompt)).toBe(true);
      expect(logprobs!.tokens!).toHaveLength(bytes.length + max_tokens);
      expect(logprobs!.token_logprobs![0]).toBeNull();
      expect(logprobs!.token_logprobs!.slice(1).every((one) => one! <= 0)).toBe(true);
      expect(logprobs!.tokens!.join("")).toBe(text);
    }
  });

  test("engines' own fields", async () => {
    const [text] = (await direct(letters)) as [string];
    const id = text.charCodeAt(4);
    const until = text.slice(0, text.indexOf(text[4]!));
    expect((await ask({ ...letters, stop_token_ids: [id] })).choices[0]!.text).toBe(until);
    const stop = text.slice(6, 8);
    const kept = await ask({ ...letters, stop, include_stop_str_in_output: true });
    expect(kept.choices[0]!.text).toBe(text.slice(0, text.indexOf(stop) + 2));
    const eos = { logit_bias: { [String(tokenizer.idOf("[EOS]"))]: 100 } };
    const spent = async (fields: object) => (await ask({ ...eos, ...fields })).usage!.completion_tokens;
    expect([await spent({}), await spent({ min_tokens: 5 }), await spent({ ignore_eos: true })]).toEqual([1, 6, 16]);
    expect((await ask({ allowed_token_ids: [97] })).choices[0]!.text).toBe("a".repeat(16));
    expect((await ask({ truncate_prompt_tokens: 4 })).usage!.prompt_tokens).toBe(4);
    const named = await ask({ logprobs: 1, return_tokens_as_token_ids: true, return_token_ids: true });
    const choice = named.choices[0] as OpenAI.CompletionChoice & { token_ids: number[] };
    expect(choice.logprobs!.tokens).toEqual(choice.token_ids.map((one) => `token_id:${one}`));
  });

  test("the likeliest of several candidates", async () => {
    const all = await ask({ n: 6, logprobs: 0 });
    const mean = ({ logprobs }: OpenAI.CompletionChoice) => {
      const own = logprobs!.token_logprobs as number[];
      return own.reduce((sum, one) => sum + one, 0) / own.length;
    };
    const expected = all.choices.toSorted((a, b) => mean(b) - mean(a)).slice(0, 2);
    const best = await ask({ n: 2, best_of: 6 }, false);
    expect(best.choices.map(({ text }) => text)).toEqual(expected.map(({ text }) => text));
    expect(best.choices[0]!.logprobs).toBeNull();
    expect(best.usage!.completion_tokens).toBe(all.usage!.completion_tokens);
    await expect(ask({ n: 3, best_of: 2 })).rejects.toThrow("best_of");
  });

  test("refused by field", async () => {
    for (const [field, value] of [
      ["suffix", "x"],
      ["prompt_logprobs", 1],
      ["min_tokens", 99],
      ["unheard", 1],
    ] as const)
      await expect(ask({ [field]: value })).rejects.toMatchObject({ status: 400, param: field });
  });
});
