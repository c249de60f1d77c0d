/** What engines take beyond OpenAI: on our own engine, streamed as whole, and through the gateway, whose upstream is the
 *  same engine, so that every field that gets lost on the way shows. */
import type OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { post } from "./testing.ts";
import { byteTokenizer, type EngineAndGateway, engineAndGateway } from "./testing-model.ts";

const tokenizer = byteTokenizer();
let pair: EngineAndGateway;
beforeAll(async () => {
  pair = await engineAndGateway();
});
afterAll(() => pair[Symbol.asyncDispose]());

const plain = { model: "k2", messages: [{ role: "user" as const, content: "Ulm?" }], max_tokens: 24, seed: 3 };
type Choice = OpenAI.ChatCompletion.Choice & { stop_reason?: unknown; token_ids?: number[] };
const letters = { logit_bias: Object.fromEntries(Array.from({ length: 26 }, (_, i) => [String(97 + i), 50])) };

describe.each(["engine", "gateway"] as const)("%s", (via) => {
  /** The answer as a whole, which must be what the stream makes. */
  const ask = async (fields: object): Promise<{ choice: Choice; answer: OpenAI.ChatCompletion; text: string }> => {
    const body = { ...plain, ...fields };
    const answer = await pair[via].client.chat.completions.create(body);
    const streamed = await pair[via].client.chat.completions.stream(body as never).finalChatCompletion();
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
    const ends = { logit_bias: { [String(tokenizer.idOf("<|im_end|>"))]: 100 } };
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
    const fail = post(`${pair[via].url}/v1/chat/completions`, {
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

    const create = (fields: object) =>
      pair[via].client.chat.completions.create({ ...plain, ...fields } as typeof plain);
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
      const { usage } = await pair[via].client.chat.completions.create(body as typeof plain);
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

describe.each(["engine", "gateway"] as const)("Anthropic and Responses: %s", (via) => {
  const tools = [{ name: "go", input_schema: { type: "object", properties: {}, additionalProperties: false } }];
  const { messages } = plain;
  const ask = async (path: string, body: object) => {
    const response = await post(`${pair[via].url}${path}`, { model: "k2-thinking", ...body });
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
  const response = await post(`${pair.engine.url}/v1/chat/completions`, body);
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
