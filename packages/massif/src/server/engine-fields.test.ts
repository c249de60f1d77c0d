/** What engines take beyond OpenAI: on our own engine, streamed as whole, and through the gateway, whose upstream is the
 *  same engine, so that every field that gets lost on the way shows. */
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Engine, openEngine } from "../engine/index.ts";
import { Model, ModelConfig } from "../model/index.ts";
import { k2Specials, Tokenizer } from "../tokenizer/index.ts";
import { engineBackend } from "./engine.ts";
import { type Gateway, openGateway } from "./gateway/gateway.ts";
import { type Listening, listen } from "./listen.ts";
import { Service } from "./service.ts";
import { post } from "./testing.ts";

const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
const tokenizer = new Tokenizer({ tokens, specials: k2Specials.map((token, i) => ({ ...token, id: 256 + i })) });
const end = tokenizer.idOf("<|im_end|>");
let engine: Engine;
let model: Model;
let gateway: Gateway;
const servers: Listening[] = [];
const clients: Record<string, OpenAI> = {};
beforeAll(async () => {
  const config = ModelConfig.parse({
    ...{ vocabSize: tokenizer.vocabSize, hiddenSize: 32, numHiddenLayers: 2, intermediateSize: 48 },
    ...{ moeIntermediateSize: 16, numAttentionHeads: 2, qLoraRank: 16, kvLoraRank: 16, qkNopeHeadDim: 8 },
    ...{ qkRopeHeadDim: 8, vHeadDim: 8, nRoutedExperts: 4, numExpertsPerTok: 2, maxPositionEmbeddings: 4096 },
    initializerRange: 0.3,
  });
  model = Model.init(config, 5);
  engine = openEngine({ model, tokenizer, cacheBytes: 8 << 20, exact: true, speculate: { ngram: 3, max: 4 } });
  const service = new Service();
  service.add(await engineBackend(engine, { names: ["k2"], template: "instruct", pace: 0 }));
  service.add(await engineBackend(engine, { names: ["k2-thinking"], template: "thinking", pace: 0 }));
  servers.push(await listen({ service, grace: 500, debug: true }));
  const front = new Service();
  for (const name of ["k2", "k2-thinking"]) {
    const opened = await openGateway({ urls: [`${servers[0]!.url}/v1`], model: name, metrics: front.metrics });
    front.add(opened.backend);
    gateway = opened;
  }
  servers.push(await listen({ service: front, grace: 500 }));
  const [own, gate] = servers.map(({ url }) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 }));
  Object.assign(clients, { engine: own, gateway: gate });
});
afterAll(async () => {
  for (const server of servers.toReversed()) await server.close();
  gateway[Symbol.dispose]();
  expect(engine.metrics().blocks.held).toBe(0);
  engine[Symbol.dispose]();
  model.dispose();
});

const plain = { model: "k2", messages: [{ role: "user" as const, content: "Ulm?" }], max_tokens: 24, seed: 3 };
type Choice = OpenAI.ChatCompletion.Choice & { stop_reason?: unknown; token_ids?: number[] };
const letters = { logit_bias: Object.fromEntries(Array.from({ length: 26 }, (_, i) => [String(97 + i), 50])) };

describe.each(["engine", "gateway"])("%s", (via) => {
  /** The answer as a whole, which must be what the stream makes. */
  const ask = async (fields: object): Promise<{ choice: Choice; answer: OpenAI.ChatCompletion; text: string }> => {
    const body = { ...plain, ...fields };
    const answer = await clients[via]!.chat.completions.create(body);
    const streamed = await clients[via]!.chat.completions.stream(body as never).finalChatCompletion();
    const strip = (c: OpenAI.ChatCompletion) => {
      const { message, finish_reason } = c.choices[0]!;
      return [message.content ?? "", message.tool_calls?.length ?? 0, finish_reason];
    };
    expect(strip(streamed)).toEqual(strip(answer));
    const [choice] = answer.choices as [Choice];
    return { choice, answer, text: choice.message.content ?? "" };
  };

  test("stops, ends, limits", async () => {
    const { text } = await ask(letters);
    expect(text).toMatch(/^[a-z]{24}$/);
    const stop = text.slice(8, 10);
    const at = text.indexOf(stop);
    const kept = await ask({ ...letters, stop, include_stop_str_in_output: true });
    expect(kept.text).toBe(text.slice(0, at) + stop);
    const late = await ask({ ...letters, stop, min_tokens: 20 });
    expect(late.text.length).toBeGreaterThanOrEqual(20);
    const id = text.charCodeAt(5);
    const byId = await ask({ ...letters, stop_token_ids: [id] });
    expect([byId.text, byId.choice.finish_reason, byId.choice.stop_reason]).toEqual([
      text.slice(0, text.indexOf(text[5]!)),
      "stop",
      id,
    ]);
    const ends = { logit_bias: { [String(end)]: 100 } };
    expect((await ask(ends)).answer.usage!.completion_tokens).toBe(1);
    expect((await ask({ ...ends, ignore_eos: true })).answer.usage!.completion_tokens).toBe(24);
    expect((await ask({ ...ends, min_tokens: 7 })).answer.usage!.completion_tokens).toBe(8);
  });

  test("allowed tokens and bad words", async () => {
    const { text } = await ask({ allowed_token_ids: [97, 98], bad_words: ["bb", "aaa"] });
    expect(text).toMatch(/^[ab]{24}$/);
    expect(text).not.toMatch(/bb|aaa/);
  });

  test("patterns, choices, grammars and schemas, under both names", async () => {
    const regex = "[a-f]{2}-\\d";
    const grammar = 'root ::= "(" root ")" | "x"';
    for (const [field, value, form] of [
      ["regex", regex, /^[a-f]{2}-\d$/],
      ["choice", ["left", "right"], /^(left|right)$/],
      ["grammar", grammar, /^\(*x\)*$/],
      ["json", { type: "array", items: { enum: [1, 2] }, minItems: 2, maxItems: 2 }, /^\[[12],[12]\]$/],
    ] as const) {
      expect((await ask({ structured_outputs: { [field]: value } })).text).toMatch(form);
      expect((await ask({ [`guided_${field}`]: value })).text).toMatch(form);
    }
    expect(JSON.parse((await ask({ structured_outputs: { json_object: true } })).text)).toBeTypeOf("object");
    const fail = post(`${servers[via === "engine" ? 0 : 1]!.url}/v1/chat/completions`, {
      ...plain,
      guided_grammar: "root ::= other",
    });
    const { error } = (await (await fail).json()) as { error: { message: string } };
    expect([(await fail).status, error.message]).toEqual([400, expect.stringContaining("other")]);
  });

  test("ids of tokens, log-probabilities of the prompt, and its end alone", async () => {
    const asked = { return_token_ids: true, return_tokens_as_token_ids: true, logprobs: true, top_logprobs: 2 };
    const { choice, answer } = await ask(asked);
    const told = choice.logprobs!.content!.map(({ token }) => token);
    expect(told).toEqual(choice.token_ids!.slice(0, told.length).map((id) => `token_id:${id}`));
    expect(choice.logprobs!.content![0]!.top_logprobs[0]!.token).toMatch(/^token_id:\d+$/);
    expect(choice.token_ids!).toHaveLength(answer.usage!.completion_tokens);

    const create = (fields: object) => clients[via]!.chat.completions.create({ ...plain, ...fields } as typeof plain);
    const seen = (await create({ prompt_logprobs: 1 })) as OpenAI.ChatCompletion & {
      prompt_logprobs: (Record<string, { logprob: number; rank: number }> | null)[];
    };
    expect(seen.prompt_logprobs).toHaveLength(seen.usage!.prompt_tokens);
    expect(seen.prompt_logprobs[0]).toBeNull();
    for (const row of seen.prompt_logprobs.slice(1)) expect(Object.values(row!).length).toBeGreaterThan(0);
    expect((await create({ truncate_prompt_tokens: 9 })).usage!.prompt_tokens).toBe(9);
  });

  test("reasoning: bounded by every name, shown or not, kept out of what is not it", async () => {
    const think = [tokenizer.idOf("<think>"), tokenizer.idOf("</think>")];
    const never = { logit_bias: Object.fromEntries(think.map((id) => [String(id), -100])), max_tokens: 60 };
    const base = { model: "k2-thinking", ...never, guided_regex: "[a-z]{3}" };
    const used = async (fields: object) => {
      const { answer, text } = await ask({ ...base, ...fields });
      expect(text).toMatch(/^[a-z]{3}$/);
      return answer.usage!.completion_tokens_details!.reasoning_tokens;
    };
    expect(await used({ thinking_token_budget: 9 })).toBe(9);
    expect(await used({ max_reasoning_tokens: 8 })).toBe(8);
    expect(await used({ thinking: { type: "enabled", budget_tokens: 7 } })).toBe(7);
    expect(await used({ reasoning_effort: "minimal" })).toBe(6);
    expect(await used({ chat_template_kwargs: { thinking: false } })).toBe(0);
    expect(await used({ thinking: { type: "disabled" } })).toBe(0);
    const { choice } = await ask({ ...base, thinking_token_budget: 5, include_reasoning: false });
    expect(choice.message).not.toHaveProperty("reasoning_content");
  });

  test("a salt keeps prefixes apart, echo begins with what was given", async () => {
    const words = "words ".repeat(30) + via;
    const cached = async (salt: string) => {
      const messages = [{ role: "user" as const, content: words }];
      const body = { ...plain, messages, max_tokens: 1, cache_salt: salt, priority: 3 };
      const { usage } = await clients[via]!.chat.completions.create(body as typeof plain);
      return usage!.prompt_tokens_details!.cached_tokens! > 0;
    };
    expect([await cached(`${via} a`), await cached(`${via} a`), await cached(`${via} b`)]).toEqual([
      false,
      true,
      false,
    ]);
    const messages = [...plain.messages, { role: "assistant" as const, content: "It is" }];
    const go = { messages, continue_final_message: true, add_generation_prompt: false };
    const [bare, whole] = [await ask(go), await ask({ ...go, echo: true })];
    expect(whole.text).toBe(`It is${bare.text}`);
  });

  test("tools that a message declares are called", async () => {
    const tool = {
      type: "function",
      function: { name: "late_one", parameters: { type: "object", properties: {}, additionalProperties: false } },
    };
    const messages = [...plain.messages, { role: "system", content: "", tools: [tool] }];
    const { choice } = await ask({ messages, tool_choice: "required", parallel_tool_calls: false, max_tokens: 60 });
    expect(choice.message.tool_calls).toMatchObject([{ function: { name: "late_one", arguments: "{}" } }]);
  });
});

describe.each(["engine", "gateway"])("bare text: %s", (via) => {
  const base = { model: "k2", prompt: "the cat and the dog and the cat", max_tokens: 16, seed: 4, temperature: 0.8 };
  /** The answer as a whole, which must be what the stream makes. */
  const ask = async (fields: object, streams = true): Promise<OpenAI.Completion> => {
    const body = { ...base, ...fields } as typeof base;
    const answer = await clients[via]!.completions.create(body);
    if (!streams) return answer;
    const texts: string[] = answer.choices.map(() => "");
    for await (const { choices } of await clients[via]!.completions.create({ ...body, stream: true }))
      for (const { index, text } of choices) texts[index] += text;
    expect(texts).toEqual(answer.choices.map(({ text }) => text));
    return answer;
  };
  const direct = async (fields: object) =>
    (await clients.engine!.completions.create({ ...base, ...fields } as typeof base)).choices.map(({ text }) => text);

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

describe.each([0, 1])("Anthropic and Responses, server %i", (at) => {
  const tools = [{ name: "go", input_schema: { type: "object", properties: {}, additionalProperties: false } }];
  const { messages } = plain;
  const ask = async (path: string, body: object) => {
    const response = await post(`${servers[at]!.url}${path}`, { model: "k2-thinking", ...body });
    return { status: response.status, answer: (await response.json()) as Record<string, unknown> };
  };
  test("thinking within its budget, then the call; a budget that leaves no answer is a 400", async () => {
    const body = { messages, tools, tool_choice: { type: "any", disable_parallel_tool_use: true }, max_tokens: 90 };
    const said = async (more: object) =>
      (await ask("/v1/messages", { ...body, ...more })).answer.content as { type: string; input?: object }[];
    const bounded = await said({ thinking: { type: "enabled", budget_tokens: 6 } });
    expect(bounded.at(-1)).toMatchObject({ type: "tool_use", input: {} });
    const off = await said({ thinking: { type: "disabled" } });
    expect(off.map(({ type }) => type)).toEqual(["tool_use"]);
    const adaptive = await said({ thinking: { type: "adaptive" }, output_config: { effort: "low" } });
    expect(adaptive.at(-1)).toMatchObject({ type: "tool_use" });
    const wrong = await ask("/v1/messages", { ...body, thinking: { type: "enabled", budget_tokens: 90 } });
    expect([wrong.status, JSON.stringify(wrong.answer)]).toEqual([400, expect.stringContaining("budget_tokens")]);
  });
  test("effort of Responses bounds reasoning", async () => {
    const body = { input: "Ulm?", max_output_tokens: 60, text: { format: { type: "json_object" } } };
    const { answer } = await ask("/v1/responses", { ...body, reasoning: { effort: "minimal" } });
    const usage = answer.usage as { output_tokens_details: { reasoning_tokens: number } };
    expect(usage.output_tokens_details.reasoning_tokens).toBeLessThanOrEqual(6);
    expect(answer.status).toBe("completed");
    const wrong = await ask("/v1/responses", { ...body, reasoning: { effort: "immense" } });
    expect([wrong.status, JSON.stringify(wrong.answer)]).toEqual([400, expect.stringContaining("reasoning.effort")]);
  });
});

test("explain tells queue, cache and masks", async () => {
  const body = { ...plain, explain: true, n: 2, guided_choice: ["certainly"] };
  const response = await post(`${servers[0]!.url}/v1/chat/completions`, body);
  expect(response.status, await response.clone().text()).toBe(200);
  const answer = (await response.json()) as { explain: { engine: Record<string, Record<string, number>>[] } };
  const { engine: told } = answer.explain;
  expect(told.map(({ choice }) => choice).toSorted()).toEqual([0, 1]);
  for (const { queue, masks, cache_blocks_hit } of told) {
    expect(cache_blocks_hit).toBeGreaterThan(0);
    expect(queue).toMatchObject({ arrived_ms: 0, preemptions: 0 });
    expect(queue!.finished_ms).toBeGreaterThanOrEqual(queue!.first_token_ms!);
    expect(masks!.forced_tokens).toBeGreaterThan(5);
    expect(masks!.asked).toBe(masks!.cached! + masks!.computed!);
  }
});
