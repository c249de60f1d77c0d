import Anthropic from "@anthropic-ai/sdk";
import { afterAll, beforeAll, expect, test } from "vitest";
import { events, type Scripted, scripted } from "../testing.ts";

let server: Scripted;
let client: Anthropic;
beforeAll(async () => {
  const usage = { promptTokens: 20, completionTokens: 9, cachedTokens: 16 };
  server = await scripted(
    ({ tools, sampling }) => {
      if (sampling?.maxTokens === 1) return { text: "cut", finish: "length" };
      if (!tools) return { reasoning: "Let me see.", text: "Grüß Gott 😀", usage };
      const calls = [
        { name: "get_weather", arguments: { city: "Ulm" } },
        { name: "stop", arguments: "" },
      ];
      return { reasoning: "two", text: "I ask.", calls };
    },
    { cut: 3, secret: "k" },
  );
  client = new Anthropic({ baseURL: server.url, apiKey: "none", maxRetries: 0 });
});
afterAll(() => server.close());

const ask = { model: "m", max_tokens: 100, messages: [{ role: "user" as const, content: "hi" }] };
const tools = [
  { name: "get_weather", input_schema: { type: "object" as const, properties: { city: { type: "string" } } } },
  { name: "stop", input_schema: { type: "object" as const } },
];
const old = { headers: { "anthropic-version": "2023-06-01" } };

test("a message: blocks, usage in parts that add up, signed thinking", async () => {
  const message = await client.messages.create(ask);
  expect(message).toMatchObject({ type: "message", role: "assistant", model: "m", stop_reason: "end_turn" });
  expect(message.content.map(({ type }) => type)).toEqual(["thinking", "text"]);
  const { input_tokens, cache_read_input_tokens, output_tokens } = message.usage;
  expect([input_tokens, cache_read_input_tokens, output_tokens]).toEqual([4, 16, 9]);
  expect(message._request_id).toMatch(/^req_/);
  // What was signed is known again; what was changed is not.
  const again = (content: unknown) =>
    server.post("/v1/messages", {
      ...ask,
      messages: [...ask.messages, { role: "assistant", content }, ...ask.messages],
    });
  expect((await again(message.content)).headers.get("x-massif-warning")).toBeNull();
  const forged = [{ type: "thinking", thinking: "I may.", signature: "AA==" }, message.content[1]];
  expect((await again(forged)).headers.get("x-massif-warning")).toMatch(/another server/);
  expect(server.model.requests.at(-1)!.messages[1]).toMatchObject({ reasoning_content: "I may." });
});

test("the stream's events in their order, and the client's helper makes the same message", async () => {
  const response = await server.post("/v1/messages", { ...ask, tools, stream: true });
  const told = await events(response);
  const names = told
    .map(({ type }) => type)
    .filter((type, i, all) => type !== "content_block_delta" || all[i - 1] !== type);
  const block = ["content_block_start", "content_block_delta", "content_block_stop"];
  const bare = ["content_block_start", "content_block_stop"]; // a call without arguments
  expect(names).toEqual(["message_start", ...block, ...block, ...block, ...bare, "message_delta", "message_stop"]);
  const indices = told.filter(({ type }) => type === "content_block_start").map(({ index }) => index);
  expect(indices).toEqual([0, 1, 2, 3]);
  const thought = told.filter(({ index }) => index === 0).map(({ delta }) => (delta as { type?: string })?.type);
  expect(thought.filter((type) => type === "signature_delta")).toHaveLength(1);
  expect(thought.at(-2)).toBe("signature_delta");

  const streamed = await client.messages.stream({ ...ask, tools }).finalMessage();
  const whole = await client.messages.create({ ...ask, tools });
  expect(streamed.content).toEqual(whole.content);
  expect(whole.content.slice(2)).toEqual([
    { type: "tool_use", id: "functions.get_weather:0", name: "get_weather", input: { city: "Ulm" } },
    { type: "tool_use", id: "functions.stop:1", name: "stop", input: {} },
  ]);
  expect(whole.stop_reason).toBe("tool_use");
  expect((await client.messages.create({ ...ask, max_tokens: 1 })).stop_reason).toBe("max_tokens");
});

test("results come before the text they were sent with, and a last assistant message is gone on from", async () => {
  await server.post("/v1/messages", {
    ...ask,
    system: [
      { type: "text", text: "Be ", cache_control: { type: "ephemeral" } },
      { type: "text", text: "brief." },
    ],
    tools,
    tool_choice: { type: "any", disable_parallel_tool_use: true },
    stop_sequences: ["END"],
    max_tokens: 2048,
    thinking: { type: "enabled", budget_tokens: 1024 },
    messages: [
      { role: "user", content: "weather?" },
      {
        role: "assistant",
        content: [{ type: "tool_use", id: "toolu_1", name: "get_weather", input: { city: "Ulm" } }],
      },
      {
        role: "user",
        content: [
          { type: "text", text: "and?" },
          { type: "tool_result", tool_use_id: "toolu_1", content: [{ type: "text", text: "rain" }], is_error: true },
        ],
      },
      { role: "assistant", content: "It" },
    ],
  });
  const { messages, toolChoice, parallelToolCalls, reasoning, sampling } = server.model.requests.at(-1)!;
  expect(messages.map(({ role, content }) => [role, content])).toEqual([
    ["system", "Be brief."],
    ["user", "weather?"],
    ["assistant", ""],
    ["tool", "Error: rain"],
    ["user", "and?"],
    ["assistant", "It"],
  ]);
  expect(messages.at(-1)).toMatchObject({ partial: true });
  expect({ toolChoice, parallelToolCalls, reasoning, sampling }).toEqual({
    ...{ toolChoice: "required", parallelToolCalls: false },
    reasoning: { enabled: true, budget: 1024 },
    sampling: { stop: ["END"], maxTokens: 2048 },
  });
});

test("both versions: the second knows no sampling fields, and both heads carry a key", async () => {
  const now = { headers: { "anthropic-version": "2026-10-21" } };
  expect((await server.post("/v1/messages", { ...ask, temperature: 0.5 }, old)).status).toBe(200);
  const refused = await server.post("/v1/messages", { ...ask, temperature: 0.5 }, now);
  expect(refused.status).toBe(400);
  expect(await refused.json()).toEqual({
    type: "error",
    error: { type: "invalid_request_error", message: expect.stringContaining("temperature") },
    request_id: refused.headers.get("request-id"),
  });
  expect((await server.post("/v1/messages", ask, { headers: { "anthropic-version": "1999-01-01" } })).status).toBe(400);
});

test.each<[string, object, string]>([
  ["no max_tokens", { max_tokens: undefined }, "max_tokens"],
  ["an unknown field", { max_token: 1 }, "max_tokens"],
  ["an image", { messages: [{ role: "user", content: [{ type: "image" }] }] }, "messages[0].content[0]"],
  ["a tool of theirs", { tools: [{ type: "web_search_20250305", name: "web_search" }] }, "tools[0].type"],
  ["a tool that is not there", { tools, tool_choice: { type: "tool", name: "x" } }, "tool_choice"],
  [
    "thinking of the user",
    { messages: [{ role: "user", content: [{ type: "thinking", thinking: "" }] }] },
    "messages[0]",
  ],
])("400: %s", async (_, body, field) => {
  const response = await server.post("/v1/messages", { ...ask, ...body });
  expect(response.status).toBe(400);
  expect(((await response.json()) as { error: { message: string } }).error.message).toContain(field);
});

test("an error after the first byte is an event", async () => {
  await using failing = await scripted([{ text: "half", error: new Error("boom") }]);
  const told = await events(await failing.post("/v1/messages", { ...ask, stream: true }));
  expect(told.at(-1)).toMatchObject({ type: "error", error: { type: "api_error" } });
});
