/** A real engine of others behind the gateway: llama.cpp's server (PyPI `xllamacpp`) over SmolLM2. Skipped unless
 *  MASSIF_LLAMA_PYTHON names a Python that has both (deploy/local/llama_cpp.py says how to make one). */
import Anthropic from "@anthropic-ai/sdk";
import { Ajv } from "ajv";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Listening, listen } from "../listen.ts";
import { Service } from "../service.ts";
import { events, post as postTo } from "../testing.ts";
import { builtInSchemas } from "../verifier/cases.ts";
import { type Gateway, type GatewayOptions, openGateway } from "./gateway.ts";
import { type LlamaServer, PATIENCE, python, startLlama } from "./testing-llama.ts";

async function serveGateway(urls: string[], more: Partial<GatewayOptions> = {}) {
  const service = new Service();
  const gateway = await openGateway({
    ...{ urls, names: ["m"], model: "SmolLM2-135M-Instruct.Q4_1", metrics: service.metrics },
    http: { retries: { most: 0 }, timeouts: { connect: 2000, firstByte: PATIENCE, idle: PATIENCE } },
    ...more,
  });
  service.add(gateway.backend);
  return { gateway, service, server: await listen({ service, grace: 100 }) };
}

const weather = {
  name: "get_weather",
  description: "the weather of a city",
  parameters: {
    type: "object" as const,
    properties: { city: { type: "string", maxLength: 40 }, days: { type: "integer", minimum: 1, maximum: 7 } },
    required: ["city", "days"],
    additionalProperties: false,
  },
};
const clock = {
  name: "get_time",
  description: "the time in a zone",
  parameters: {
    type: "object" as const,
    properties: { zone: { type: "string", enum: ["UTC", "CET"] } },
    required: ["zone"],
    additionalProperties: false,
  },
};
const functions = [weather, clock].map((fn) => ({ type: "function" as const, function: fn }));
const fits = (name: string, value: unknown): boolean =>
  new Ajv().validate((name === "get_time" ? clock : weather).parameters, value);

describe.skipIf(!python)("llama.cpp behind the gateway (MASSIF_LLAMA_PYTHON)", { timeout: 60_000 }, () => {
  let engine: LlamaServer;
  let gateway: Gateway;
  let service: Service;
  let server: Listening;
  let openai: OpenAI;
  let anthropic: Anthropic;
  const france = { role: "user" as const, content: "What is the capital of France? Answer in one sentence." };
  const ask = { model: "m", messages: [france], temperature: 0, max_tokens: 24 };
  const post = (path: string, body: object, signal = AbortSignal.timeout(PATIENCE)) =>
    postTo(server.url + path, body, { signal });

  beforeAll(async () => {
    engine = await startLlama();
    ({ gateway, service, server } = await serveGateway([`${engine.url}/v1`]));
    openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "x", maxRetries: 0, timeout: PATIENCE });
    anthropic = new Anthropic({ baseURL: server.url, apiKey: "x", maxRetries: 0, timeout: PATIENCE });
  }, 60_000);
  afterAll(async () => {
    await server?.close();
    gateway?.[Symbol.dispose]();
    await engine?.[Symbol.asyncDispose]();
  });

  test("OpenAI's client: a stream is the whole answer, and usage counts what the engine's tokenizer counts", async () => {
    const whole = await openai.chat.completions.create(ask);
    expect(whole.choices[0]!.message.content).toMatch(/Paris/);
    expect(whole.choices[0]!.finish_reason).toBe("stop");
    const streamed = await openai.chat.completions.stream(ask).finalChatCompletion();
    expect(streamed.choices[0]!.message.content).toBe(whole.choices[0]!.message.content);
    const again = await openai.chat.completions.create({ ...ask, max_tokens: 5 });
    expect(again.choices[0]!.finish_reason).toBe("length");
    const ofEngine = async (path: string, body: object) => {
      const response = await postTo(engine.url + path, body, { signal: AbortSignal.timeout(PATIENCE) });
      return (await response.json()) as { prompt: string; tokens: number[] };
    };
    const { prompt } = await ofEngine("/apply-template", { messages: [france] });
    const { tokens } = await ofEngine("/tokenize", { content: prompt, parse_special: true });
    const total = tokens.length + 5;
    expect(again.usage).toMatchObject({ prompt_tokens: tokens.length, completion_tokens: 5, total_tokens: total });
    expect(again.usage!.prompt_tokens_details!.cached_tokens).toBe(tokens.length - 1);
  });

  test("log-probabilities spell the answer; stop strings end it; a seed repeats it", async () => {
    const answer = await openai.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3, max_tokens: 12 });
    const { message, logprobs } = answer.choices[0]!;
    expect(logprobs!.content!.map(({ token }) => token).join("")).toBe(message.content);
    for (const { logprob, top_logprobs } of logprobs!.content!) {
      expect(top_logprobs).toHaveLength(3);
      expect(top_logprobs[0]!.logprob).toBe(logprob); // greedy takes the likeliest
    }
    const stopped = await openai.chat.completions.create({ ...ask, stop: [" Paris"] });
    expect(stopped.choices[0]!.finish_reason).toBe("stop");
    expect(stopped.choices[0]!.message.content).not.toMatch(/Paris/);
    const seeded = { ...ask, temperature: 1, seed: 11 };
    const [one, other] = [await openai.chat.completions.create(seeded), await openai.chat.completions.create(seeded)];
    expect(one.choices[0]!.message.content).toBe(other.choices[0]!.message.content);
  });

  test("Anthropic's client: whole and streamed, usage in parts that add up to OpenAI's", async () => {
    const body = { model: "m", max_tokens: 24, messages: [france] };
    const message = await anthropic.messages.create(body);
    expect(message).toMatchObject({ type: "message", content: [{ type: "text" }] });
    expect(["end_turn", "max_tokens"]).toContain(message.stop_reason);
    const { usage } = await openai.chat.completions.create(ask);
    const { input_tokens, cache_read_input_tokens } = message.usage;
    expect(input_tokens + cache_read_input_tokens!).toBe(usage!.prompt_tokens);
    const streamed = await anthropic.messages.stream({ ...body, max_tokens: 4 }).finalMessage();
    expect(streamed).toMatchObject({ stop_reason: "max_tokens", usage: { output_tokens: 4 } });
  });

  test("Responses: whole, streamed, and going on from a stored one", async () => {
    const first = await openai.responses.create({ model: "m", input: france.content, temperature: 0 });
    expect(first.status).toBe("completed");
    expect(first.output_text).toMatch(/Paris/);
    const next = await openai.responses.create({
      ...{ model: "m", input: "And of Italy?", temperature: 0, max_output_tokens: 16 },
      previous_response_id: first.id,
    });
    expect(next.usage!.input_tokens).toBeGreaterThan(first.usage!.total_tokens);
    const stream = openai.responses.stream({ model: "m", input: france.content, temperature: 0 });
    expect((await stream.finalResponse()).output_text).toBe(first.output_text);
  });

  test("a JSON schema holds, in both dialects that have one", async () => {
    const schema = {
      type: "object",
      properties: { city: { type: "string", maxLength: 30 }, inhabitants: { type: "integer" } },
      required: ["city", "inhabitants"],
      additionalProperties: false,
    };
    const chat = await openai.chat.completions.create({
      ...{ ...ask, max_tokens: 100 },
      response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } },
    });
    const response = await openai.responses.create({
      ...{ model: "m", input: france.content, temperature: 0 },
      text: { format: { type: "json_schema", name: "city", schema, strict: true } },
    });
    for (const text of [chat.choices[0]!.message.content!, response.output_text])
      expect(new Ajv().validate(schema, JSON.parse(text))).toBe(true);
  });

  test("the engine drops a forced choice without a word; through the gateway the call comes, and fits", async () => {
    const choice = { type: "function" as const, function: { name: "get_weather" } };
    const request = { ...ask, tools: functions, tool_choice: choice, max_tokens: 64 };
    const bare = new OpenAI({ baseURL: `${engine.url}/v1`, apiKey: "x", maxRetries: 0, timeout: PATIENCE });
    expect((await bare.chat.completions.create(request)).choices[0]!.message.tool_calls).toBeUndefined();

    const called = async (
      body: typeof request | (Omit<typeof request, "tool_choice"> & { tool_choice: "required" }),
    ) => {
      const whole = await openai.chat.completions.create(body);
      const streamed = await openai.chat.completions.stream(body).finalChatCompletion();
      return [whole, streamed].map(({ choices: [choice] }) => {
        const [call] = choice!.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
        expect(choice!.message.content ?? "").toBe("");
        expect([choice!.finish_reason, call!.id]).toEqual(["tool_calls", `functions.${call!.function.name}:0`]);
        expect(fits(call!.function.name, JSON.parse(call!.function.arguments))).toBe(true);
        return call!.function.name;
      });
    };
    expect(await called(request)).toEqual(["get_weather", "get_weather"]);
    // The model, 135 M small, has to choose one first; which is its affair.
    await called({ ...request, tool_choice: "required" });

    const message = await anthropic.messages
      .stream({
        ...{ model: "m", max_tokens: 64, messages: [france] },
        tools: [{ name: "get_time", description: clock.description, input_schema: clock.parameters }],
        tool_choice: { type: "tool", name: "get_time" },
      })
      .finalMessage();
    expect(message.stop_reason).toBe("tool_use");
    expect(message.content).toMatchObject([{ type: "tool_use", name: "get_time" }]);
    expect(fits("get_time", (message.content[0] as Anthropic.ToolUseBlock).input)).toBe(true);

    const { output } = await openai.responses.create({
      ...{ model: "m", input: "Weather in Rome?", tool_choice: "required" },
      tools: [{ type: "function", ...weather, strict: true }],
    });
    const call = output.find(({ type }) => type === "function_call") as OpenAI.Responses.ResponseFunctionToolCall;
    expect(fits("get_weather", JSON.parse(call.arguments))).toBe(true);
    expect(service.metrics.value("massif:tool_calls_total", { model_name: "m", outcome: "repaired" })).toBe(6);
  });

  test("every built-in schema, forced, of a model that never learned to call", { timeout: 180_000 }, async () => {
    for (const schema of builtInSchemas) {
      const answer = await openai.chat.completions.create({
        ...{ ...ask, messages: [{ role: "user", content: "Make the values up." }], max_tokens: 200 },
        tools: [{ type: "function", function: { name: "submit", parameters: schema } }],
        tool_choice: { type: "function", function: { name: "submit" } },
      });
      const [call] = answer.choices[0]!.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
      const validate = new Ajv({ strict: false }).compile(schema);
      expect(validate(JSON.parse(call!.function.arguments)), call!.function.arguments).toBe(true);
    }
  });

  test("a prompt that is too long is the client's fault, told in its dialect", async () => {
    const messages = [{ role: "user" as const, content: "word ".repeat(5000) }];
    await expect(openai.chat.completions.create({ model: "m", messages })).rejects.toMatchObject({
      ...{ status: 400, code: "context_length_exceeded" },
    });
    await expect(anthropic.messages.create({ model: "m", max_tokens: 5, messages })).rejects.toMatchObject({
      ...{ status: 400, error: { type: "error", error: { type: "invalid_request_error" } } },
    });
    expect(gateway.upstreams.state).toMatchObject([{ open: true }]);
  });

  test("a client that goes away frees the engine's slot, in every dialect, streamed or whole", async () => {
    const endless = { model: "m", messages: [{ role: "user", content: "Count to a million." }] };
    for (const [path, body] of [
      ["/v1/chat/completions", { ...endless, max_tokens: 1900, ignore_eos: true, stream: true }],
      ["/v1/chat/completions", { ...endless, max_tokens: 1900, ignore_eos: true }],
      ["/v1/messages", { ...endless, max_tokens: 1900, stream: true }],
      ["/v1/responses", { model: "m", input: "Write a long story.", max_output_tokens: 1900, stream: true }],
    ] as const) {
      const client = new AbortController();
      const asked = post(path, body, client.signal).then((response) => response.text());
      const gone = expect(asked).rejects.toThrow();
      await expect.poll(() => engine.busy(), { timeout: 10_000, interval: 10 }).toBe(1);
      client.abort();
      await gone;
      await expect.poll(() => engine.busy(), { timeout: 5000, interval: 20 }).toBe(0);
    }
  });

  test("raw: the K2 format is made and read here, over its bare completions", async () => {
    const raw = await serveGateway([`${engine.url}/v1`], { raw: { format: { template: "instruct-v2" } } });
    try {
      const client = new OpenAI({ baseURL: `${raw.server.url}/v1`, apiKey: "x", maxRetries: 0, timeout: PATIENCE });
      const request = { ...ask, tools: functions };
      // Its bits differ with what is in its cache: once, to fill it.
      await client.chat.completions.create(request);
      const whole = await client.chat.completions.create(request);
      const streamed = await client.chat.completions.stream(request).finalChatCompletion();
      expect(streamed.choices[0]!.message).toMatchObject({ content: whole.choices[0]!.message.content });
      expect(whole.choices[0]!.message.content).not.toMatch(/<\|/);
      expect(whole.usage!.prompt_tokens).toBeGreaterThan(100);
      expect(whole.usage!.completion_tokens).toBeGreaterThan(0);
      await expect(
        client.chat.completions.create({ ...ask, tools: functions, tool_choice: "required" }),
      ).rejects.toMatchObject({ status: 400 });
    } finally {
      await raw.server.close();
      raw.gateway[Symbol.dispose]();
    }
  });

  test("killed within an answer, gone, and back again", async () => {
    const port = Number(new URL(engine.url).port);
    const response = await post("/v1/chat/completions", { ...ask, max_tokens: 1900, ignore_eos: true, stream: true });
    const told = events(response);
    await expect.poll(() => engine.busy(), { timeout: 10_000, interval: 10 }).toBe(1);
    engine.process.kill("SIGKILL");
    const last = (await told).at(-1) as { error: { message: string; code: string } };
    expect(last.error.code).toMatch(/^upstream_/);

    for (let i = 0; i < 3; i++) {
      const refused = await post("/v1/chat/completions", ask);
      expect(refused.status).toBe(503);
      expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
      expect(await refused.json()).toMatchObject({ error: { code: "upstream_unreachable" } });
    }
    const overloaded = await post("/v1/messages", { model: "m", max_tokens: 5, messages: [france] });
    expect([overloaded.status, await overloaded.json()]).toMatchObject([529, { error: { type: "overloaded_error" } }]);
    await gateway.upstreams.probe();
    expect(gateway.upstreams.state).toMatchObject([{ open: false, running: 0 }]);

    await engine[Symbol.asyncDispose]();
    engine = await startLlama(port);
    await gateway.upstreams.probe();
    const back = await openai.chat.completions.create(ask);
    expect(back.choices[0]!.message.content).toMatch(/Paris/);
    expect(gateway.upstreams.state).toMatchObject([{ open: true }]);
  });

  test("of two upstreams the one that is there answers", async () => {
    const two = await serveGateway(["http://127.0.0.1:9/v1", `${engine.url}/v1`]);
    try {
      for (let i = 0; i < 6; i++) {
        const body = { ...ask, messages: [{ role: "user", content: `Say ${i}.` }], max_tokens: 3 };
        const signal = AbortSignal.timeout(PATIENCE);
        const answer = await postTo(`${two.server.url}/v1/chat/completions`, body, { signal });
        expect(answer.status).toBe(200);
        await answer.body?.cancel();
      }
    } finally {
      await two.server.close();
      two.gateway[Symbol.dispose]();
    }
  });
});
