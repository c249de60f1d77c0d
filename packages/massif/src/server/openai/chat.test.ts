import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { events, type Scripted, scripted, until, weather } from "../testing.ts";

let server: Scripted;
let client: OpenAI;
const usage = { promptTokens: 20, completionTokens: 9, cachedTokens: 16, reasoningTokens: 4 };
beforeAll(async () => {
  server = await scripted(
    ({ messages, tools }) => {
      const asked = String(messages.at(-1)?.content);
      if (asked === "fail") return { text: "half", error: new Error("secret /etc/passwd") };
      if (asked === "slow") return { text: "x".repeat(4000), pause: 5 };
      if (!tools) return { reasoning: "Let me see. ", text: "Grüß Gott, 世界 😀!", usage };
      return {
        reasoning: "two cities",
        text: "I ask.",
        calls: [
          { name: "get_weather", arguments: { city: "Ulm" } },
          { name: "get_weather", arguments: { city: "北京" } },
        ],
      };
    },
    { cut: 3, debug: true },
  );
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
});
afterAll(() => server.close());

const ask = { model: "m", messages: [{ role: "user" as const, content: "hi" }] };

test("a whole answer, as OpenAI's client reads it", async () => {
  const answer = await client.chat.completions.create(ask);
  expect(answer).toMatchObject({
    object: "chat.completion",
    model: "m",
    choices: [
      {
        index: 0,
        finish_reason: "stop",
        logprobs: null,
        message: {
          role: "assistant",
          content: "Grüß Gott, 世界 😀!",
          refusal: null,
          reasoning_content: "Let me see. ",
          reasoning: "Let me see. ",
        },
      },
    ],
    usage: {
      ...{ prompt_tokens: 20, completion_tokens: 9, total_tokens: 29, cached_tokens: 16 },
      ...{ prompt_tokens_details: { cached_tokens: 16 }, completion_tokens_details: { reasoning_tokens: 4 } },
    },
  });
  expect(answer._request_id).toMatch(/^req_/);
});

test("a stream, in the order of the protocol", async () => {
  const response = await server.post("/v1/chat/completions", {
    ...{ ...ask, stream: true, stream_options: { include_usage: true } },
  });
  expect(response.headers.get("content-type")).toMatch(/^text\/event-stream/);
  const chunks = await events(response);
  expect(new Set(chunks.map(({ id, created, model }) => `${id}${created}${model}`)).size).toBe(1);
  const deltas = chunks.flatMap(({ choices }) =>
    (choices as { delta: object; finish_reason: unknown }[]).map((c) => c),
  );
  expect(deltas[0]!.delta).toEqual({ role: "assistant", content: "" });
  expect(deltas.filter(({ delta }) => "role" in delta)).toHaveLength(1);
  expect(deltas.filter(({ finish_reason }) => finish_reason !== null)).toHaveLength(1);
  expect(deltas.at(-1)).toMatchObject({ delta: {}, finish_reason: "stop" });
  const kinds = deltas.slice(1, -1).map(({ delta }) => ("content" in delta ? "text" : "reasoning"));
  expect(kinds).toEqual([...kinds].sort()); // reasoning comes first
  expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 20, total_tokens: 29 } });
  expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true);
});

test("the client's stream helper puts two parallel calls together", async () => {
  const stream = client.chat.completions.stream({ ...ask, tools: [weather] });
  const { choices } = await stream.finalChatCompletion();
  expect(choices[0]!.finish_reason).toBe("tool_calls");
  expect(choices[0]!.message.content).toBe("I ask.");
  const calls = choices[0]!.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
  expect(calls.map(({ id, function: fn }) => [id, fn.name, fn.arguments])).toEqual([
    ["functions.get_weather:0", "get_weather", '{"city":"Ulm"}'],
    ["functions.get_weather:1", "get_weather", '{"city":"北京"}'],
  ]);
});

test("n answers: each with its index, the prompt counted once", async () => {
  const answer = await client.chat.completions.create({ ...ask, n: 3 });
  expect(answer.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
  expect(answer.usage).toMatchObject({ prompt_tokens: 20, completion_tokens: 27 });
  const streamed = await client.chat.completions.stream({ ...ask, n: 3 }).finalChatCompletion();
  expect(streamed.choices.map(({ message }) => message.content)).toEqual(answer.choices.map((c) => c.message.content));
});

test("what a request asks reaches the model, under its names there", async () => {
  await client.chat.completions.create({
    ...ask,
    ...{ temperature: 0.5, top_p: 0.9, stop: ["END", ""], seed: 7, max_tokens: 5, max_completion_tokens: 50 },
    ...{ presence_penalty: 1, frequency_penalty: -1, logit_bias: { "5": -100 }, logprobs: true, top_logprobs: 3 },
    tools: [weather],
    tool_choice: { type: "function", function: { name: "get_weather" } },
    parallel_tool_calls: false,
    response_format: { type: "json_schema", json_schema: { name: "a", schema: { type: "object" }, strict: true } },
    reasoning_effort: "low",
    user: "u-1",
  });
  const { signal: _, messages: __, tools: ___, ...asked } = server.model.requests.at(-1)!;
  expect(asked).toEqual({
    toolChoice: { name: "get_weather" },
    parallelToolCalls: false,
    responseFormat: { type: "json_schema", name: "a", schema: { type: "object" }, strict: true },
    reasoning: { effort: "low" },
    logprobs: 3,
    sampling: {
      ...{ temperature: 0.5, topP: 0.9, stop: ["END"], seed: 7, maxTokens: 50 },
      ...{ presencePenalty: 1, frequencyPenalty: -1, logitBias: { "5": -100 } },
    },
    metadata: { user: "u-1" },
  });
});

describe("a 400 that names the field", () => {
  const messages = [{ role: "user", content: "hi" }];
  const tool = (name: string, parameters: object = {}) => ({ type: "function", function: { name, parameters } });
  test.each<[string, object, string | null]>([
    ["messages", { messages: [] }, "messages"],
    ["a role", { messages: [{ role: "king", content: "" }] }, "messages[0].role"],
    ["an image", { messages: [{ role: "user", content: [{ type: "image_url" }] }] }, "messages[0].content[0].type"],
    ["temperature", { temperature: 3 }, "temperature"],
    ["a misspelling", { temperatur: 1 }, "temperatur"],
    ["n", { n: 0 }, "n"],
    ["max_tokens", { max_tokens: 0 }, "max_tokens"],
    ["top_logprobs alone", { top_logprobs: 2 }, "top_logprobs"],
    ["required without tools", { tool_choice: "required" }, "tool_choice"],
    ["required with no tools", { tool_choice: "required", tools: [] }, "tool_choice"],
    [
      "a tool that is not there",
      { tools: [tool("a")], tool_choice: { type: "function", function: { name: "b" } } },
      "tool_choice",
    ],
    ["two tools of a name", { tools: [tool("a"), tool("a")] }, "tools[1].function.name"],
    ["a name that spells a token", { tools: [tool("<|im_end|>")] }, "tools[0].function.name"],
    [
      "a tool of another kind",
      { tools: [{ type: "builtin_function", function: { name: "$web_search" } }] },
      "tools[0].type",
    ],
    ["too many tools", { tools: Array.from({ length: 129 }, (_, i) => tool(`t${i}`)) }, "tools"],
    ["a deep schema", { tools: [tool("a", nest(100))] }, null],
    ["a schema deeper than its limit", { tools: [tool("a", nest(50))] }, null],
    ["a large schema", { tools: [tool("a", { description: "x".repeat(130_000) })] }, "tools[0].function.parameters"],
    [
      "a pattern that multiplies",
      { tools: [tool("a", { pattern: "((a{999}){999}){999}" })] },
      "tools[0].function.parameters.pattern",
    ],
    ["functions", { functions: [] }, "functions"],
    ["audio", { audio: { voice: "alloy" } }, "audio"],
    ["store", { store: "yes" }, "store"],
    ["min_tokens past the end", { min_tokens: 3, max_tokens: 2 }, "min_tokens"],
    ["what only an upstream could do", { use_beam_search: true }, "use_beam_search"],
    ["a template of one's own", { chat_template: "{{ x }}" }, "chat_template"],
    ["special tokens shown", { skip_special_tokens: false }, "skip_special_tokens"],
    ["no allowed token", { allowed_token_ids: [] }, "allowed_token_ids"],
    ["prompt_logprobs in a stream", { prompt_logprobs: 1, stream: true }, "prompt_logprobs"],
    ["truncated to nothing", { truncate_prompt_tokens: 0 }, "truncate_prompt_tokens"],
    ["an unknown template word", { chat_template_kwargs: { shout: true } }, "chat_template_kwargs"],
    ["an unknown effort", { reasoning_effort: "extreme" }, "reasoning_effort"],
    ["two forms", { guided_regex: "a", structured_outputs: { choice: ["b"] } }, "guided_regex"],
    ["a form and a format", { guided_choice: ["b"], response_format: { type: "json_object" } }, "guided_choice"],
    ["structural tags", { structured_outputs: { structural_tag: "x" } }, "structured_outputs.structural_tag"],
    ["no choice", { guided_choice: [] }, "guided_choice"],
    ["JSON that is none", { guided_json: "{" }, "guided_json"],
    ["a regular expression that multiplies", { guided_regex: "((a{999}){999}){999}" }, "guided_regex"],
    [
      "partial in the middle",
      { messages: [{ role: "assistant", content: "a", partial: true }, ...messages] },
      "messages[0].partial",
    ],
    [
      "JSON mode with partial",
      {
        messages: [...messages, { role: "assistant", content: "{", partial: true }],
        response_format: { type: "json_object" },
      },
      "response_format",
    ],
    ["a format", { response_format: { type: "xml" } }, "response_format.type"],
    ["tools of a user", { messages: [{ role: "user", content: "", tools: [tool("a")] }] }, "messages[0].tools"],
    ["tools of an assistant", { messages: [{ role: "assistant", tools: [tool("a")] }] }, "messages[0].tools"],
    ["tools and words", { messages: [{ role: "system", content: "x", tools: [tool("a")] }] }, "messages[0].content"],
    ["tools that are no list", { messages: [{ role: "system", content: "", tools: {} }] }, "messages[0].tools"],
    ...["1a", "a b", "", "a".repeat(65)].map((name): [string, object, string] => [
      `a tool of a message called ${name.slice(0, 5)}`,
      { messages: [{ role: "system", content: "", tools: [tool(name)] }] },
      "messages[0].tools[0]",
    ]),
    ["a tool without type", { messages: [{ role: "system", tools: [{ function: { name: "a" } }] }] }, "messages[0]"],
    ["a tool without function", { messages: [{ role: "system", tools: [{ type: "function" }] }] }, "messages[0]"],
    [
      "a tool of a message twice",
      { messages: [{ role: "system", content: "", tools: [tool("a"), tool("a")] }] },
      "messages[0].tools[1].function.name",
    ],
    [
      "a tool of two messages",
      { messages: [tool("a"), tool("a")].map((one) => ({ role: "system", content: "", tools: [one] })) },
      "messages[1].tools[0].function.name",
    ],
    [
      "a tool of a message and of the request",
      { tools: [tool("a")], messages: [{ role: "system", content: "", tools: [tool("a")] }] },
      "messages[0].tools[0].function.name",
    ],
  ])("%s", async (_, body, param) => {
    const response = await server.post("/v1/chat/completions", { model: "m", messages, ...body });
    const { error } = (await response.json()) as { error: Record<string, string> };
    expect(response.status, JSON.stringify(error)).toBe(400);
    expect(error).toEqual({
      message: expect.any(String),
      type: "invalid_request_error",
      param: error!.param,
      code: error!.code,
    });
    if (param !== null) expect(error!.param).toContain(param);
    if (param !== null) expect(error!.message).toContain(param);
  });
});

function nest(depth: number): object {
  return depth ? { properties: { a: nest(depth - 1) } } : {};
}

test("paths and methods that are none, and models", async () => {
  expect((await fetch(`${server.url}/v1/nothing`)).status).toBe(404);
  expect((await fetch(`${server.url}/v1/messages`)).status).toBe(405);
  expect((await server.post("/v1/chat/completions", { ...ask, model: "x" })).status).toBe(404);
  expect((await server.post("/v1/chat/completions", "{nope")).status).toBe(400);
  expect((await server.post("/v1/chat/completions", "[]")).status).toBe(400);
  expect((await server.post("/v1/chat/completions", "a=1", { headers: { "content-type": "text/plain" } })).status).toBe(
    415,
  );
  const list = await client.models.list();
  expect(list.data.map(({ id }) => id)).toEqual(["m"]);
  expect((await client.models.retrieve("m")).id).toBe("m");
  await expect(client.models.retrieve("x")).rejects.toMatchObject({ status: 404, code: "model_not_found" });
});

test("our own failure: no detail leaves, before the first byte a status, after it an event", async () => {
  const failed = await server.post("/v1/chat/completions", { ...ask, messages: [{ role: "user", content: "fail" }] });
  expect(failed.status).toBe(500);
  expect(await failed.text()).not.toContain("passwd");
  const stream = await client.chat.completions.create({
    ...ask,
    messages: [{ role: "user", content: "fail" }],
    stream: true,
  });
  const read = async () => {
    for await (const _ of stream);
  };
  await expect(read()).rejects.toThrow("its log tells more");
});

test("a client that leaves ends its request at the model", async () => {
  for (const stream of [true, false]) {
    const leave = new AbortController();
    const messages = [{ role: "user" as const, content: "slow" }];
    const asked = server.model.requests.length;
    const answer = client.chat.completions.create({ ...ask, messages, stream }, { signal: leave.signal });
    answer.catch(() => undefined);
    await until(() => server.model.requests.length > asked);
    if (stream) await answer;
    leave.abort();
    await until(() => server.service.slots.held === 0);
    expect(server.model.requests.at(-1)!.signal!.aborted).toBe(true);
  }
});

test("explain shows what became of a request, on a server that may", async () => {
  const answer = (await client.chat.completions.create({ ...ask, explain: true } as typeof ask)) as object;
  expect(answer).toMatchObject({ explain: { model: "scripted", cached_tokens: 16, problems: [] } });
});
