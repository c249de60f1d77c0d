import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { generateText, streamText, tool } from "ai";
import { expect, test } from "vitest";
import { z } from "zod";
import { type ChatRequest, LlmError, type ModelEvent, ScriptedModel } from "../../llm/index.ts";
import { listen } from "../listen.ts";
import { Service } from "../service.ts";
import { post, scripted, weather } from "../testing.ts";
import { Validator } from "../validate.ts";
import { openGateway } from "./gateway.ts";
import { Upstreams } from "./upstreams.ts";
import { VerifiedModel } from "./verified.ts";

const ask: ChatRequest = { messages: [{ role: "user", content: "hi" }] };
const down = new LlmError("llm.connect", { found: "down" });
const textOf = async (model: { stream(r: ChatRequest): AsyncIterable<ModelEvent> }, request: ChatRequest = ask) => {
  let text = "";
  for await (const event of model.stream(request)) if (event.type === "text") text += event.text;
  return text;
};
const say = (text: string) => ({ name: text, model: new ScriptedModel(() => ({ text }), { name: text }) });

test("a conversation stays where its beginning is cached, and new ones are shared", async () => {
  const upstreams = new Upstreams([say("a"), say("b"), say("c")], { name: "g" });
  const homes = new Set<string>();
  for (let i = 0; i < 30; i++) {
    const messages: ChatRequest["messages"] = [{ role: "user", content: `conversation ${i}` }];
    const home = await textOf(upstreams, { messages });
    homes.add(home);
    for (let turn = 1; turn < 4; turn++) {
      const longer = [
        ...messages,
        ...Array.from({ length: turn }, (_, j) => ({ role: "user" as const, content: `${j}` })),
      ];
      expect(await textOf(upstreams, { messages: longer })).toBe(home);
    }
  }
  expect(homes.size).toBe(3);
});

test("load beats the cache: a busy upstream does not get all", async () => {
  const held: (() => void)[] = [];
  const busy = (text: string) => ({
    name: text,
    model: new ScriptedModel(async () => {
      await new Promise<void>((resolve) => held.push(resolve));
      return { text };
    }),
  });
  const upstreams = new Upstreams([busy("a"), busy("b")], { name: "g", imbalance: 2 });
  const first = textOf(upstreams);
  await new Promise(setImmediate);
  held.shift()!();
  await first;
  const all = Array.from({ length: 10 }, () => textOf(upstreams));
  await new Promise(setImmediate);
  const { state } = upstreams;
  expect(Math.abs(state[0]!.running - state[1]!.running)).toBeLessThanOrEqual(3);
  for (const go of held) go();
  await Promise.all(all);
});

test("another upstream answers where one fails before it says anything; not after", async () => {
  const failing = { name: "bad", model: new ScriptedModel(() => ({ error: down })) };
  let now = 0;
  const attempts: string[] = [];
  const options = {
    name: "g",
    now: () => now,
    failures: 2,
    rest: 1000,
    onAttempt: (u: string, o: string) => attempts.push(`${u} ${o}`),
  };
  const upstreams = new Upstreams([failing, say("good")], options);
  for (let i = 0; i < 20; i++)
    expect(await textOf(upstreams, { messages: [{ role: "user", content: `${i}` }] })).toBe("good");
  // After two failures in a row it is left alone; after its rest one request may try.
  expect(attempts.filter((a) => a === "bad failed")).toHaveLength(2);
  expect(upstreams.state.map(({ open }) => open)).toEqual([false, true]);
  now = 2000;
  for (let i = 0; i < 20; i++) await textOf(upstreams, { messages: [{ role: "user", content: `later ${i}` }] });
  expect(attempts.filter((a) => a === "bad failed")).toHaveLength(3);

  const midway = new Upstreams(
    [
      { name: "x", model: new ScriptedModel(() => ({ text: "half", error: down })) },
      { name: "y", model: new ScriptedModel(() => ({ text: "half", error: down })) },
    ],
    { name: "g" },
  );
  await expect(textOf(midway)).rejects.toThrow("down");
});

test("a request's own fault is told at once, and is no failure of the upstream", async () => {
  const model = new ScriptedModel(() => ({ error: new LlmError("llm.http", { found: "400" }, { status: 400 }) }));
  const other = say("b");
  const upstreams = new Upstreams([{ name: "a", model }, other], { name: "g", failures: 1 });
  const messages = (i: number) => ({ messages: [{ role: "user" as const, content: `${i}` }] });
  for (let i = 0; i < 8; i++) await textOf(upstreams, messages(i)).catch(() => undefined);
  expect(model.requests.length).toBeGreaterThan(0);
  expect(upstreams.state.every(({ open }) => open)).toBe(true);
});

const tools = [
  {
    ...weather,
    function: { ...weather.function, parameters: { ...weather.function.parameters, additionalProperties: false } },
  },
];

test("wrong arguments are asked for once more, constrained; right ones stream through", async () => {
  const outcomes: string[] = [];
  const script = new ScriptedModel(({ toolChoice }, i) => {
    if (typeof toolChoice === "object")
      return {
        calls: [{ name: toolChoice.name, arguments: { city: "Ulm" } }],
        usage: { promptTokens: 5, completionTokens: 3 },
      };
    const wrong = [
      { name: "get_weather", arguments: '{"city":' },
      { name: "get_weather", arguments: { city: 3 } },
    ][i % 2]!;
    return {
      text: "I ask.",
      calls: [wrong, { name: "get_weather", arguments: { city: "Köln" } }],
      usage: { promptTokens: 5, completionTokens: 9 },
    };
  });
  const model = new VerifiedModel(script, { mode: "repair", onCall: (outcome) => outcomes.push(outcome) });
  const events = await Array.fromAsync(model.stream({ ...ask, tools }));
  const args = events.flatMap((event) => (event.type === "tool-call-delta" ? event.arguments : []));
  expect(args).toEqual(['{"city":"Ulm"}', '{"city":"Köln"}']);
  expect(outcomes).toEqual(["repaired", "valid"]);
  expect(events.slice(-2)).toEqual([
    { type: "usage", usage: { promptTokens: 10, completionTokens: 12 } },
    { type: "finish", reason: "tool_calls" },
  ]);
  expect(script.requests[1]).toMatchObject({ toolChoice: { name: "get_weather" }, parallelToolCalls: false });
});

test("what cannot be mended stands as it was written, and says so; what was cut short is not asked for again", async () => {
  const outcomes: string[] = [];
  const onCall = (outcome: string) => outcomes.push(outcome);
  const calls = [{ name: "get_weather", arguments: '{"town":1}' }];
  const events = await Array.fromAsync(
    new VerifiedModel(new ScriptedModel(() => ({ calls })), { mode: "repair", onCall }).stream({ ...ask, tools }),
  );
  expect(events).toContainEqual({ type: "problem", code: "arguments-invalid", text: "" });
  expect(events).toContainEqual({ type: "tool-call-delta", index: 0, arguments: '{"town":1}' });
  const script = new ScriptedModel(() => ({ calls, finish: "length" }));
  await Array.fromAsync(new VerifiedModel(script, { mode: "repair", onCall }).stream({ ...ask, tools }));
  expect(script.requests).toHaveLength(1);
  expect(outcomes).toEqual(["invalid", "invalid"]);
});

test("the validator: tools that are none, and a pattern that would never end", () => {
  const validator = new Validator();
  expect(validator.check(tools, "nope", "{}")).toMatch(/no tool/);
  expect(validator.check(tools, "get_weather", "[]")).toMatch(/must be object/);
  expect(validator.check(tools, "get_weather", '{"city":"Ulm"}')).toBeUndefined();
  const evil = {
    type: "function",
    function: { name: "f", parameters: { properties: { a: { type: "string", pattern: "^(a+)+$" } } } },
  };
  // Without the limit of time: longer than the universe has.
  expect(validator.check([evil], "f", JSON.stringify({ a: `${"a".repeat(60)}!` }))).toMatch(/pattern/);
  expect(validator.check([evil], "f", JSON.stringify({ a: "a".repeat(60) }))).toBeUndefined();
});

/** An upstream as engines are: another name for reasoning, no usage, foreign ids, a reason that does not fit. */
async function oddEngine(answer: (response: ServerResponse, body: Record<string, unknown>) => void) {
  const server = createServer((request, response) => {
    if (request.url === "/v1/models") return response.end(JSON.stringify({ data: [{ id: "odd" }] }));
    let text = "";
    request.on("data", (piece) => (text += piece));
    request.on("end", () => answer(response, JSON.parse(text)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
const chunk = (delta: object, finish_reason: string | null = null) =>
  `data: ${JSON.stringify({ id: "x", choices: [{ index: 0, delta, finish_reason }] })}\n\n`;

test("OpenAI upstream, Anthropic client: translated while streaming, and normalised", async () => {
  await using engine = await oddEngine((response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(chunk({ role: "assistant", reasoning: "thinking" }));
    response.write(chunk({ content: "Hello" }));
    response.write(
      chunk({ tool_calls: [{ index: 0, id: "call_abc", function: { name: "get_weather", arguments: '{"ci' } }] }),
    );
    response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: 'ty":"Ulm"}' } }] }));
    response.end(`${chunk({}, "stop")}data: [DONE]\n\n`);
  });
  const service = new Service();
  using gateway = await openGateway({ urls: [engine.url], metrics: service.metrics });
  service.add(gateway.backend);
  await using server = await listen({ service, grace: 100 });
  const client = new Anthropic({ baseURL: server.url, apiKey: "x", maxRetries: 0 });
  const message = await client.messages
    .stream({
      model: "odd",
      max_tokens: 99,
      messages: [{ role: "user", content: "hi" }],
      tools: [{ name: "get_weather", input_schema: { type: "object" } }],
    })
    .finalMessage();
  expect(message.content).toMatchObject([
    { type: "thinking", thinking: "thinking" },
    { type: "text", text: "Hello" },
    { type: "tool_use", id: "call_abc", name: "get_weather", input: { city: "Ulm" } },
  ]);
  expect(message.stop_reason).toBe("tool_use");
  expect(message.usage.output_tokens).toBeGreaterThan(0);
  expect(service.metrics.value("massif:tool_calls_total", { model_name: "odd", outcome: "valid" })).toBe(1);
});

test("an upstream's errors become the client's, without its secrets", async () => {
  await using engine = await oddEngine((response, { messages }) => {
    const asked = (messages as { content: string }[])[0]!.content;
    const status = Number(asked);
    response.writeHead(status, { "content-type": "application/json", "retry-after": "7" });
    response.end(JSON.stringify({ object: "error", message: "flat, as SGLang tells it", code: status }));
  });
  const service = new Service();
  using gateway = await openGateway({
    urls: [engine.url],
    apiKey: "sk-upstream",
    metrics: service.metrics,
    http: { retries: { most: 0 } },
  });
  service.add(gateway.backend);
  await using server = await listen({ service, grace: 100 });
  for (const [status, told] of [
    [400, 400],
    [401, 502],
    [429, 429],
    [500, 502],
  ] as const) {
    const messages = [{ role: "user", content: `${status}` }];
    const response = await post(`${server.url}/v1/chat/completions`, { model: "odd", messages });
    expect([status, response.status]).toEqual([status, told]);
    if (told === 429) expect(response.headers.get("retry-after")).toBe("7");
    expect(await response.text()).not.toContain("sk-upstream");
  }
});

test("bare completions upstream: K2's format is made and read here", async () => {
  const prompts: string[] = [];
  await using engine = await oddEngine((response, { prompt }) => {
    prompts.push(String(prompt));
    response.writeHead(200, { "content-type": "text/event-stream" });
    const text =
      'Hm.</think>I ask.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city":"Ulm"}<|tool_call_end|><|tool_calls_section_end|>';
    for (const piece of `<think>${text}`.match(/.{1,7}/gs)!)
      response.write(`data: ${JSON.stringify({ id: "x", choices: [{ index: 0, text: piece }] })}\n\n`);
    response.end(
      `data: ${JSON.stringify({ id: "x", choices: [{ index: 0, text: "", finish_reason: "stop" }] })}\n\ndata: [DONE]\n\n`,
    );
  });
  const service = new Service();
  using gateway = await openGateway({
    urls: [engine.url],
    raw: { format: { template: "thinking" } },
    metrics: service.metrics,
  });
  service.add(gateway.backend);
  await using server = await listen({ service, grace: 100 });
  const response = await post(`${server.url}/v1/chat/completions`, {
    model: "odd",
    messages: [{ role: "user", content: "hi" }],
    tools,
  });
  const { choices } = (await response.json()) as { choices: { message: object; finish_reason: string }[] };
  expect(choices[0]).toMatchObject({
    finish_reason: "tool_calls",
    message: { content: "I ask.", reasoning_content: "Hm.", tool_calls: [{ id: "functions.get_weather:0" }] },
  });
  expect(prompts[0]).toMatch(
    /^<\|im_system\|>tool_declare<\|im_middle\|>.*<\|im_assistant\|>assistant<\|im_middle\|>$/s,
  );
});

test("Vercel's tool loop runs over the server, reasoning kept", async () => {
  await using server = await scripted(({ messages }) =>
    messages.at(-1)!.role === "tool"
      ? { reasoning: "now I know", text: `It is ${String(messages.at(-1)!.content)} there.` }
      : { reasoning: "I must ask", calls: [{ name: "get_weather", arguments: { city: "Ulm" } }] },
  );
  const provider = createOpenAICompatible({ name: "massif", baseURL: `${server.url}/v1` });
  const get_weather = tool({
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `rain in ${city}`,
  });
  const options = {
    model: provider("m"),
    prompt: "weather?",
    tools: { get_weather },
    stopWhen: ({ steps }: { steps: unknown[] }) => steps.length >= 3,
  };
  const { text, steps } = await generateText(options);
  expect(text).toContain("rain in Ulm");
  expect(steps).toHaveLength(2);
  expect(server.model.requests.at(-1)!.messages[1]).toMatchObject({ reasoning_content: "I must ask" });
  const streamed = streamText(options);
  expect(await streamed.text).toBe(text);
});
