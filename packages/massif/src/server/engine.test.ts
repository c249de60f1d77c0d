import { Ajv } from "ajv";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Engine, openEngine } from "../engine/index.ts";
import type { Model } from "../model/index.ts";
import { engineBackend } from "./engine.ts";
import { type Listening, listen } from "./listen.ts";
import { Service } from "./service.ts";
import { events, post, until } from "./testing.ts";
import { byteTokenizer, tinyModel } from "./testing-model.ts";

/** Nothing here is learned: all that fits was enforced. */
let engine: Engine;
let model: Model;
let service: Service;
let server: Listening;
let client: OpenAI;
const names = { instruct: "k2", thinking: "k2-thinking" };
beforeAll(async () => {
  model = tinyModel(3, 4096);
  engine = openEngine({
    model,
    tokenizer: byteTokenizer(),
    cacheBytes: 8 << 20,
    maxRunning: 2,
    maxWaiting: 2,
    exact: true,
  });
  service = new Service({ running: 3, waiting: 1 });
  service.add(await engineBackend(engine, { names: [names.instruct], template: "instruct-v2" }));
  service.add(await engineBackend(engine, { names: [names.thinking], template: "thinking" }));
  server = await listen({ service, grace: 500, debug: true, weightsRoot: import.meta.dirname });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
});
afterAll(async () => {
  await server.close();
  expect(engine.metrics().blocks.held).toBe(0);
  engine[Symbol.dispose]();
  model.dispose();
});

const parameters = {
  type: "object",
  properties: {
    city: { type: "string", maxLength: 8 },
    days: { type: "integer", minimum: 1, maximum: 14 },
    units: { enum: ["C", "F"] },
  },
  required: ["city", "units"],
  additionalProperties: false,
};
const tools = [{ type: "function" as const, function: { name: "get.weather", parameters } }];
const fits = new Ajv().compile(parameters);
const ask = { messages: [{ role: "user" as const, content: "Ulm?" }], max_tokens: 160 };

describe.each(Object.values(names))("%s", (model) => {
  test("forced calls fit their schema, streamed as whole, whatever the weights say", async () => {
    for (const tool_choice of ["required", { type: "function", function: { name: "get.weather" } }] as const) {
      for (let seed = 0; seed < 4; seed++) {
        const request = { ...ask, model, tools, tool_choice, seed, temperature: 1 };
        const whole = await client.chat.completions.create(request);
        const [choice] = whole.choices;
        expect(choice!.finish_reason).toBe("tool_calls");
        const calls = choice!.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
        for (const [i, { id, function: fn }] of calls.entries()) {
          expect(id).toBe(`functions.get.weather:${i}`);
          expect(fits(JSON.parse(fn.arguments)), fn.arguments).toBe(true);
        }
        const streamed = await client.chat.completions.stream(request).finalChatCompletion();
        const strip = ({ message: m }: OpenAI.ChatCompletion.Choice) => [
          m.content ?? "",
          calls.length,
          m.tool_calls?.map((c) => c.type === "function" && [c.id, c.function.name, c.function.arguments]),
        ];
        expect(strip(streamed.choices[0]!)).toEqual(strip(choice!));
      }
    }
  });

  test("JSON mode and a strict schema", async () => {
    const free = await client.chat.completions.create({ ...ask, model, response_format: { type: "json_object" } });
    const value = JSON.parse(free.choices[0]!.message.content!);
    expect(typeof value === "object" && !Array.isArray(value)).toBe(true);
    const json_schema = { name: "w", strict: true, schema: parameters };
    const strict = await client.chat.completions.create({
      ...ask,
      model,
      response_format: { type: "json_schema", json_schema },
    });
    expect(fits(JSON.parse(strict.choices[0]!.message.content!))).toBe(true);
  });

  test("counted tokens are those of the prompt, in every dialect", async () => {
    const cases = [
      ask,
      { ...ask, tools },
      { ...ask, tools, tool_choice: "none" },
      { ...ask, thinking: { type: "disabled" } },
      { ...ask, messages: [...ask.messages, { role: "assistant", content: "It", partial: true }] },
    ];
    for (const body of cases) {
      const counted = await (await post(`${server.url}/v1/tokenizers/estimate-token-count`, { ...body, model })).json();
      const asked = await post(`${server.url}/v1/chat/completions`, { ...body, model, max_tokens: 150 });
      const { usage } = (await asked.json()) as OpenAI.ChatCompletion;
      expect((counted as { data: { total_tokens: number } }).data.total_tokens).toBe(usage!.prompt_tokens);
    }
    const body = { model, max_tokens: 9, messages: ask.messages, system: "Be brief." };
    const counted = (await (await post(`${server.url}/v1/messages/count_tokens`, body)).json()) as {
      input_tokens: number;
    };
    const { usage } = (await (await post(`${server.url}/v1/messages`, body)).json()) as {
      usage: Record<string, number>;
    };
    expect(counted.input_tokens).toBe(usage.input_tokens! + usage.cache_read_input_tokens!);
  });
});

test("what a schema asks for and nobody can enforce is a 400 that names the path", async () => {
  const odd = {
    type: "object",
    properties: { a: { type: "string", format: "no-such-format-x", contentEncoding: "base64" } },
    not: {},
  };
  const response = await post(`${server.url}/v1/chat/completions`, {
    ...{ ...ask, model: names.instruct, tool_choice: "required" },
    tools: [{ type: "function", function: { name: "f", parameters: odd } }],
  });
  expect(response.status).toBe(400);
  expect(await response.text()).toMatch(/#/);
});

test("a budget in which no legal answer fits is refused at once", async () => {
  const request = { ...ask, model: names.instruct, tools, tool_choice: "required", max_tokens: 10 };
  const response = await post(`${server.url}/v1/chat/completions`, request);
  expect([response.status, ((await response.json()) as { error: { code: string } }).error.code]).toEqual([
    400,
    "schema_budget",
  ]);
});

test("a repeated prompt is found in the cache, and logprobs tell each token's bytes", async () => {
  const long = {
    ...ask,
    model: names.instruct,
    messages: [{ role: "user" as const, content: "x".repeat(300) }],
    max_tokens: 4,
  };
  await client.chat.completions.create(long);
  const again = await client.chat.completions.create({ ...long, logprobs: true, top_logprobs: 2 });
  expect(again.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThan(256);
  const told = again.choices[0]!.logprobs!.content!;
  expect(told.length).toBeGreaterThan(0);
  for (const { logprob, bytes, top_logprobs } of told) {
    expect(logprob).toBeLessThanOrEqual(0);
    expect(bytes!.length).toBeGreaterThan(0);
    expect(top_logprobs).toHaveLength(2);
  }
});

test("bare completions of text and ids; echo scores a text, and its pieces are the whole", async () => {
  const body = { model: names.instruct, prompt: "abc", max_tokens: 6, seed: 1, temperature: 1, logprobs: 2 };
  const text = await client.completions.create(body);
  const ids = await client.completions.create({ ...body, prompt: [97, 98, 99] });
  expect(ids.choices[0]!.text).toBe(text.choices[0]!.text);
  expect(text.usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 6 });
  const chunks = await events(await post(`${server.url}/v1/completions`, { ...body, stream: true }));
  expect(chunks.flatMap(({ choices }) => (choices as { text: string }[]).map((c) => c.text)).join("")).toBe(
    text.choices[0]!.text,
  );
  const scored = await client.completions.create({ ...body, prompt: "abcdef", echo: true, max_tokens: 0 });
  const { tokens, token_logprobs, text_offset } = scored.choices[0]!.logprobs!;
  expect([scored.choices[0]!.text, tokens, text_offset]).toEqual(["abcdef", [..."abcdef"], [0, 1, 2, 3, 4, 5]]);
  expect(token_logprobs![0]).toBeNull();
  expect(token_logprobs!.slice(1).every((logprob) => logprob! < 0)).toBe(true);
});

test("tokenize and detokenize are inverse; explain shows the very prompt", async () => {
  const { tokens } = (await (await post(`${server.url}/tokenize`, { prompt: "Grüß 世界" })).json()) as {
    tokens: number[];
  };
  expect(await (await post(`${server.url}/detokenize`, { tokens })).json()).toEqual({ prompt: "Grüß 世界" });
  const asked = await post(`${server.url}/v1/chat/completions`, {
    ...ask,
    model: names.instruct,
    explain: true,
    max_tokens: 2,
  });
  const { explain } = (await asked.json()) as { explain: { prompt: string; prompt_ids: number[] } };
  expect(explain.prompt).toContain("<|im_user|>user<|im_middle|>Ulm?<|im_end|><|im_assistant|>assistant<|im_middle|>");
});

test("clients that leave free their slots and blocks; a full queue is a 429 that says when", async () => {
  const slow = { ...ask, model: names.instruct, max_tokens: 3000, tools, stream: true };
  const leave = new AbortController();
  const busy = Array.from({ length: 4 }, () =>
    post(`${server.url}/v1/chat/completions`, slow, { signal: leave.signal }),
  );
  for (const one of busy) one.then((response) => response.text()).catch(() => undefined);
  await until(() => service.slots.held === 3 && service.slots.queued === 1);
  const refused = await post(`${server.url}/v1/chat/completions`, slow);
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
  leave.abort();
  await until(() => service.slots.held === 0 && engine.metrics().running === 0);
  expect(engine.metrics().blocks.held).toBe(0);
});

test("reinforcement learning: pause, resume, the version on every answer; paths outside the root are refused", async () => {
  expect((await post(`${server.url}/pause`, {})).status).toBe(200);
  const waiting = post(`${server.url}/v1/chat/completions`, { ...ask, model: names.instruct, max_tokens: 2 });
  expect(await (await fetch(`${server.url}/is_paused`)).json()).toEqual({ is_paused: true });
  expect((await post(`${server.url}/resume`, {})).status).toBe(200);
  expect((await waiting).headers.get("x-weight-version")).toBe(String(engine.version));
  for (const model_path of ["/etc", "..", "../../nothing", "engine.ts"]) {
    const refused = await post(`${server.url}/update_weights_from_disk`, { model_path });
    expect(refused.status).toBe(400);
  }
});

test("metrics under vLLM's names", async () => {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  for (const name of [
    "num_requests_running",
    "kv_cache_usage_perc",
    "prefix_cache_hits_total",
    "generation_tokens_total",
  ])
    expect(text).toMatch(new RegExp(`^vllm:${name}\\{[^}]*model_name="k2"[^}]*\\} \\d`, "m"));
  expect(text).toMatch(/^vllm:time_to_first_token_seconds_bucket\{model_name="k2",engine="0",le="\+Inf"\} \d+$/m);
});
