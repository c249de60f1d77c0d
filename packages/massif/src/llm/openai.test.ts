import type { ServerResponse } from "node:http";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { LlmError } from "./errors.ts";
import { complete, type ModelEvent, mergeModelEvents } from "./model.ts";
import { OpenAiModel, type OpenAiOptions } from "./openai.ts";
import type { ChatRequest } from "./request.ts";
import { delta, InstantClock, sse, startSse, until, upstream } from "./testing.ts";

const hello: ChatRequest = { messages: [{ role: "user", content: "hello" }] };
const apiKey = "sk-secret-of-mine";

function open(baseURL: string, options: Partial<OpenAiOptions> = {}): OpenAiModel {
  return new OpenAiModel({ baseURL, apiKey, model: "m", random: new Random(1), clock: new InstantClock(), ...options });
}

const failure = async (doing: Promise<unknown>): Promise<LlmError> => {
  const error: unknown = await doing.then(
    () => "nothing was thrown",
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(LlmError);
  expect(JSON.stringify(error) + (error as LlmError).stack + (error as LlmError).message).not.toContain(apiKey);
  return error as LlmError;
};

/** A stream with all that a message can have, as vLLM and Kimi write it. */
const full = sse(
  delta({ role: "assistant", content: "" }),
  delta({ reasoning_content: "Hm", reasoning: "Hm" }),
  delta({ reasoning: ", yes." }),
  delta({ content: "Grüße 🙂" }),
  delta({
    tool_calls: [{ index: 0, id: "functions.add:0", type: "function", function: { name: "add", arguments: "" } }],
  }),
  delta({ tool_calls: [{ index: 0, function: { arguments: '{"a":1,' } }] }),
  delta({ tool_calls: [{ index: 0, function: { arguments: '"b":2}' } }] }),
  delta({ tool_calls: [{ index: 1, id: "x", type: "function", function: { name: "now" } }] }),
  delta({}, "tool_calls"),
  { choices: [], usage: { prompt_tokens: 9, completion_tokens: 7, prompt_tokens_details: { cached_tokens: 4 } } },
  "[DONE]",
);
const fullEvents: ModelEvent[] = [
  { type: "start", id: "c-1", model: "m-1" },
  { type: "reasoning", text: "Hm, yes." },
  { type: "text", text: "Grüße 🙂" },
  { type: "tool-call-begin", index: 0, id: "functions.add:0", name: "add" },
  { type: "tool-call-delta", index: 0, arguments: '{"a":1,"b":2}' },
  { type: "tool-call-end", index: 0 },
  { type: "tool-call-begin", index: 1, id: "x", name: "now" },
  { type: "tool-call-delta", index: 1, arguments: "{}" },
  { type: "tool-call-end", index: 1 },
  { type: "usage", usage: { promptTokens: 9, completionTokens: 7, cachedTokens: 4 } },
  { type: "finish", reason: "tool_calls" },
];

test("a stream, however the network cuts it, is the same events", async () => {
  const bytes = Buffer.from(full);
  let cuts: number[] = [];
  await using server = await upstream(async (response) => {
    startSse(response).flushHeaders();
    let from = 0;
    for (const end of [...cuts, bytes.length]) {
      response.write(bytes.subarray(from, end));
      await new Promise(setImmediate);
      from = end;
    }
    response.end();
  });
  using model = open(server.baseURL, { clock: undefined });
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(bytes.length), { maxLength: 12 }), async (where) => {
      cuts = where.sort((a, b) => a - b);
      expect(mergeModelEvents(await Array.fromAsync(model.stream(hello)))).toEqual(fullEvents);
    }),
    { numRuns: 50 },
  );
  expect(server.opened).toBe(1);
});

test("a whole answer is the same message as its stream", async () => {
  await using server = await upstream((response) => {
    response.setHeader("content-type", "application/json");
    const calls = [
      { id: "functions.add:0", type: "function", function: { name: "add", arguments: '{"a":1,"b":2}' } },
      { id: "x", type: "function", function: { name: "now", arguments: "" } },
    ];
    const message = { role: "assistant", content: "Grüße 🙂", reasoning_content: "Hm, yes.", tool_calls: calls };
    const usage = { prompt_tokens: 9, completion_tokens: 7, cached_tokens: 4 };
    const choices = [{ index: 0, message, finish_reason: "stop", logprobs: null }];
    response.end(JSON.stringify({ id: "c-1", model: "m-1", choices, usage }));
  });
  using model = open(server.baseURL, { stream: false });
  expect(mergeModelEvents(await Array.fromAsync(model.stream(hello)))).toEqual(fullEvents);
  expect(server.asked[0]!.body).toEqual({ model: "m", messages: [{ role: "user", content: "hello" }] });
});

test("what is asked, in the words of the wire", async () => {
  await using server = await upstream((response) => startSse(response).end(full));
  using model = open(`${server.baseURL}/`, { headers: { "x-team": "blue" } });
  const tool = { type: "function", function: { name: "add", parameters: { type: "object", b: 1, a: 2 } } };
  await complete(model, {
    messages: [
      { role: "system", content: "s" },
      {
        role: "assistant",
        content: "",
        reasoning_content: "r",
        tool_calls: [{ id: "i", type: "function", function: { name: "add", arguments: { a: 1 } } }],
      },
      { role: "tool", content: "3", tool_call_id: "i" },
      { role: "assistant", content: "The sum is", partial: true },
    ],
    tools: [tool],
    toolChoice: { name: "add" },
    parallelToolCalls: false,
    responseFormat: { type: "json_schema", name: "n", schema: { type: "object" }, strict: true },
    reasoning: { enabled: true, effort: "high", keep: true },
    sampling: {
      temperature: 0,
      topP: 0.5,
      topK: 4,
      minP: 0.1,
      seed: 3,
      stop: ["x"],
      maxTokens: 5,
      logitBias: { 7: -100 },
      presencePenalty: 1,
      frequencyPenalty: 2,
      repetitionPenalty: 1.5,
    },
    logprobs: 2,
    tokenIds: true,
    extra: { user: "u", top_k: 8 },
    metadata: { session: "1" },
  });
  const [{ url, headers, body }] = server.asked as [(typeof server.asked)[number]];
  expect(url).toBe("/v1/chat/completions");
  expect(headers).toMatchObject({
    authorization: `Bearer ${apiKey}`,
    "x-team": "blue",
    "content-type": "application/json",
  });
  expect(body).toEqual({
    model: "m",
    messages: [
      { role: "system", content: "s" },
      {
        role: "assistant",
        content: null,
        reasoning_content: "r",
        tool_calls: [{ id: "i", type: "function", function: { name: "add", arguments: '{"a":1}' } }],
      },
      { role: "tool", content: "3", tool_call_id: "i" },
      { role: "assistant", content: "The sum is", partial: true },
    ],
    tools: [tool],
    tool_choice: { type: "function", function: { name: "add" } },
    parallel_tool_calls: false,
    response_format: { type: "json_schema", json_schema: { name: "n", schema: { type: "object" }, strict: true } },
    thinking: { type: "enabled", keep: "all" },
    reasoning_effort: "high",
    temperature: 0,
    top_p: 0.5,
    top_k: 8,
    min_p: 0.1,
    repetition_penalty: 1.5,
    presence_penalty: 1,
    frequency_penalty: 2,
    logit_bias: { 7: -100 },
    seed: 3,
    stop: ["x"],
    max_tokens: 5,
    logprobs: true,
    top_logprobs: 2,
    return_token_ids: true,
    stream: true,
    stream_options: { include_usage: true },
    user: "u",
  });
});

const call = (fields: object) => delta({ tool_calls: [fields] });
const events = async (...chunks: (object | string)[]) => {
  await using server = await upstream((response) => startSse(response).end(sse(...chunks)));
  using model = open(server.baseURL, { retries: { most: 0 } });
  const merged = mergeModelEvents(await Array.fromAsync(model.stream(hello)));
  return merged.filter(({ type }) => type !== "start");
};
const called = (index: number, id: string, name: string, args: string): ModelEvent[] => [
  { type: "tool-call-begin", index, id, name },
  { type: "tool-call-delta", index, arguments: args },
  { type: "tool-call-end", index },
];

test("calls without index, under one index, as objects, without id, without name", async () => {
  const whole = (id: string | undefined, name: string, args: unknown, index?: number) =>
    call({ ...(id && { id }), ...(index !== undefined && { index }), function: { name, arguments: args } });
  const done = [delta({}, "tool_calls"), "[DONE]"];
  const two = [
    ...called(0, "a", "f", '{"x":1}'),
    ...called(1, "b", "g", "{}"),
    { type: "finish", reason: "tool_calls" },
  ];
  expect(await events(whole("a", "f", { x: 1 }), whole("b", "g", null), ...done)).toEqual(two);
  expect(await events(whole("a", "f", '{"x":1}', 0), whole("b", "g", "{}", 0), ...done)).toEqual(two);
  const finish = { type: "finish", reason: "tool_calls" };
  expect(await events(whole(undefined, "f", "{}", 0), ...done)).toEqual([
    ...called(0, "functions.f:0", "f", "{}"),
    finish,
  ]);
  // Name and id said again on every delta, as some engines do.
  expect(await events(whole("a", "f", '{"x"', 0), whole("a", "f", ":1}", 0), ...done)).toEqual([
    ...called(0, "a", "f", '{"x":1}'),
    finish,
  ]);
  expect(await events(call({ index: 0, id: "a", function: { arguments: "{}" } }), delta({}, "stop"), "[DONE]")).toEqual(
    [
      { type: "problem", code: "nameless-call", text: "{}" },
      { type: "finish", reason: "stop" },
    ],
  );
  expect(await events(whole("a", "f", "{x", 0), ...done)).toEqual([
    { type: "tool-call-begin", index: 0, id: "a", name: "f" },
    { type: "tool-call-delta", index: 0, arguments: "{x" },
    { type: "problem", code: "arguments-invalid", text: "" },
    { type: "tool-call-end", index: 0 },
    finish,
  ]);
});

test("usage where Kimi puts it, stop strings and ids as vLLM tells them, log-probabilities", async () => {
  const top = [{ token: "a", logprob: -0.1, bytes: [97] }];
  const logprobs = { content: [{ token: "a", logprob: -0.1, bytes: [97], top_logprobs: top }] };
  const chunk = { index: 0, delta: { content: "a" }, finish_reason: null, logprobs, token_ids: [5] };
  const last = {
    index: 0,
    delta: {},
    finish_reason: "stop",
    stop_reason: "END",
    usage: { prompt_tokens: 1, completion_tokens: 2, completion_tokens_details: { reasoning_tokens: 1 } },
  };
  expect(await events({ choices: [chunk] }, { choices: [last], usage: null }, "[DONE]")).toEqual([
    {
      type: "tokens",
      tokens: [{ id: 5, text: "a", logprob: -0.1, bytes: [97], top: [{ text: "a", logprob: -0.1, bytes: [97] }] }],
    },
    { type: "text", text: "a" },
    { type: "usage", usage: { promptTokens: 1, completionTokens: 2, reasoningTokens: 1 } },
    { type: "finish", reason: "stop", stop: "END" },
  ]);
});

test.each([
  ["length", "length"],
  ["content_filter", "content_filter"],
  ["eos", "stop"],
  ["tool_calls", "stop"],
])("finish_reason %s without calls is %s", async (said, reason) => {
  expect(await events(delta({ content: "a" }, said))).toEqual([
    { type: "text", text: "a" },
    { type: "finish", reason },
  ]);
});

test.each<[string, (response: ServerResponse) => unknown, string, RegExp]>([
  [
    "an error in the stream",
    (r) => startSse(r).end(sse(delta({ content: "a" }), { error: { message: `bad ${apiKey}`, type: "server_error" } })),
    "llm.upstream",
    /said within its answer: bad \[secret\]/,
  ],
  ["an error event", (r) => startSse(r).end(`event: error\ndata: {"message":"flat"}\n\n`), "llm.upstream", /flat/],
  ["an engine that gave up", (r) => startSse(r).end(sse(delta({ content: "a" }, "abort"))), "llm.upstream", /"abort"/],
  ["malformed JSON", (r) => startSse(r).end(`data: {"choices": oops\n\n`), "llm.protocol", /no JSON/],
  ["another protocol", (r) => startSse(r).end(sse({ choices: "none" })), "llm.protocol", /choices/],
  [
    "a page",
    (r) => r.writeHead(200, { "content-type": "text/html" }).end("<html>"),
    "llm.protocol",
    /no events \(content type text\/html\)/,
  ],
  ["an empty answer", (r) => startSse(r).end(), "llm.protocol", /no events/],
  ["a stream that ends early", (r) => startSse(r).end(sse(delta({ content: "a" }))), "llm.cut", /before the message/],
  [
    "half a last event",
    (r) => startSse(r).end(`${sse(delta({ content: "a" }))}data: {"cho`),
    "llm.cut",
    /before the message/,
  ],
  [
    "a cut connection",
    (r) => startSse(r).write(sse(delta({ content: "a" })), () => r.destroy()),
    "llm.cut",
    /closed the connection/,
  ],
  [
    "a call gone back to",
    (r) =>
      startSse(r).end(
        sse(
          call({ index: 0, id: "a", function: { name: "f" } }),
          call({ index: 1, id: "b", function: { name: "g" } }),
          call({ index: 0, function: { arguments: "{}" } }),
        ),
      ),
    "llm.protocol",
    /went back/,
  ],
])("%s", async (_, answer, code, found) => {
  await using server = await upstream(answer);
  using model = open(server.baseURL);
  const error = await failure(complete(model, hello));
  expect([error.code, server.asked.length]).toEqual([code, 1]);
  expect(error.message).toMatch(found);
});

test("a finished message is complete, however its connection ends", async () => {
  const finished = [delta({ content: "a" }), delta({}, "stop")];
  for (const ending of [
    (r: ServerResponse) => r.end(),
    (r: ServerResponse) => r.destroy(),
    (r: ServerResponse) => r.write(sse("[DONE]")),
  ]) {
    await using server = await upstream((r) => startSse(r).write(sse(...finished), () => setImmediate(ending, r)));
    using model = open(server.baseURL, { clock: undefined });
    expect(await complete(model, hello)).toMatchObject({ message: { content: "a" }, finish: "stop" });
  }
});

test("asks again with growing, jittered waits, then as long as the upstream says", async () => {
  await using server = await upstream((r, _, i) => {
    if (i < 2) r.writeHead(503).end();
    else if (i === 2) r.writeHead(429, { "retry-after": "7" }).end();
    else if (i === 3) r.writeHead(429, { "retry-after-ms": "1500", "retry-after": "9", connection: "close" }).end();
    else if (i === 4) r.destroy();
    else startSse(r).end(full);
  });
  const clock = new InstantClock();
  using model = open(server.baseURL, { clock, retries: { most: 5, base: 100 } });
  expect((await complete(model, hello)).finish).toBe("tool_calls");
  const random = new Random(1);
  const jitter = () => 0.5 + random.float() / 2;
  const [first, second, , , last] = [100, 200, 400, 800, 1600].map((wait) => wait * jitter());
  expect(clock.waits.filter((ms) => ms !== 50)).toEqual([first, second, 7000, 1500, last]);
});

test.each([
  [400, {}, 1, "llm.http"],
  [401, {}, 1, "llm.http"],
  [408, {}, 3, "llm.http"],
  [409, {}, 3, "llm.http"],
  [429, {}, 3, "llm.rate-limit"],
  [429, { "retry-after": "3600" }, 1, "llm.rate-limit"],
  [500, {}, 3, "llm.http"],
  [500, { "x-should-retry": "false" }, 1, "llm.http"],
  [418, { "x-should-retry": "true" }, 3, "llm.http"],
  [501, {}, 1, "llm.http"],
  [302, { location: "/elsewhere" }, 1, "llm.http"],
])("status %i %j is asked %i times", async (status, headers, times, code) => {
  await using server = await upstream((r) => {
    r.writeHead(status, { ...headers, "x-request-id": "req-9" });
    r.end(JSON.stringify({ error: { message: `No, ${apiKey}!`, type: "t", code: "c", param: null } }));
  });
  using model = open(server.baseURL);
  const error = await failure(complete(model, hello));
  expect([error.code, server.asked.length]).toEqual([code, times]);
  expect(error.upstream).toMatchObject({
    status,
    requestId: "req-9",
    error: { message: "No, [secret]!", type: "t", code: "c" },
  });
  expect(error.message).toContain(`answered ${status}: No, [secret]! (request req-9)`);
});

test.each([
  ['{"object":"error","message":"flat","code":400}', { message: "flat", code: "400" }],
  ['{"detail":[{"msg":"field required"}]}', { message: '[{"msg":"field required"}]' }],
  ["Bad Gateway\n", { message: "Bad Gateway" }],
  ["", {}],
])("an error's text %j", async (text, error) => {
  await using server = await upstream((r) => r.writeHead(400).end(text));
  using model = open(server.baseURL);
  expect((await failure(complete(model, hello))).upstream.error).toEqual(error);
});

test.each([
  { error: { message: "too long", type: "exceed_context_size_error" } },
  { error: { message: "too long", code: "context_length_exceeded" } },
  { message: "This model's maximum context length is 4096 tokens", code: 400 },
])("a prompt that is too long: %j", async (said) => {
  await using server = await upstream((r) => r.writeHead(400).end(JSON.stringify(said)));
  using model = open(server.baseURL);
  expect((await failure(complete(model, hello))).code).toBe("llm.context");
});

test("nobody there", async () => {
  const closed = await upstream(() => {});
  await closed[Symbol.asyncDispose]();
  using model = open(closed.baseURL);
  const error = await failure(complete(model, hello));
  expect(error.code).toBe("llm.connect");
  expect(error.message).toContain("ECONNREFUSED");
  expect(() => open("localhost:8000")).toThrow("http://HOST:PORT/v1");
});

test("time-outs: to the first byte asks again, within the answer does not", async () => {
  await using server = await upstream((r, _, i) => {
    if (i < 2) return;
    startSse(r).write(sse(delta({ content: "a" })));
  });
  const clock = undefined;
  using model = open(server.baseURL, { clock, timeouts: { firstByte: 250, idle: 60 }, retries: { most: 2, base: 1 } });
  const seen: ModelEvent[] = [];
  const reading = (async () => {
    for await (const event of model.stream(hello)) seen.push(event);
  })();
  const error = await failure(reading);
  expect([error.code, server.asked.length, seen.at(-1)]).toEqual(["llm.timeout", 3, { type: "text", text: "a" }]);
  expect(error.message).toContain("silence within the answer for 0.06 s");
  await until(() => server.open.size === 0);
});

test("comments keep a stream alive, and a slow reader is no silence of the upstream", async () => {
  await using server = await upstream(async (r) => {
    startSse(r);
    for (let i = 0; i < 14; i++) {
      r.write(": still here\n\n");
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    r.end(full);
  });
  using model = open(server.baseURL, { clock: undefined, timeouts: { idle: 300 } });
  for await (const event of model.stream(hello))
    if (event.type === "text") await new Promise((resolve) => setTimeout(resolve, 400));
});

test("abort before, while waiting, and within the answer frees the connection", async () => {
  await using server = await upstream((r, { body }) => {
    if ((body.messages as { content: string }[])[0]!.content === "silence") return;
    startSse(r).write(sse(delta({ content: "a" })));
  });
  using model = open(server.baseURL, { clock: undefined });
  expect((await failure(complete(model, { ...hello, signal: AbortSignal.abort() }))).code).toBe("llm.aborted");
  expect(server.asked.length).toBe(0);

  const waiting = new AbortController();
  const silent = complete(model, { messages: [{ role: "user", content: "silence" }], signal: waiting.signal });
  await until(() => server.asked.length === 1);
  waiting.abort();
  expect((await failure(silent)).code).toBe("llm.aborted");
  await until(() => server.open.size === 0);

  const within = new AbortController();
  const reading = (async () => {
    for await (const event of model.stream({ ...hello, signal: within.signal }))
      if (event.type === "text") within.abort();
  })();
  expect((await failure(reading)).code).toBe("llm.aborted");
  await until(() => server.open.size === 0);
  expect(server.asked.length).toBe(2);
});

test("abort ends the wait before the next try", async () => {
  await using server = await upstream((r) => r.writeHead(503, { "retry-after": "30" }).end());
  using model = open(server.baseURL, { clock: undefined });
  const controller = new AbortController();
  const asking = complete(model, { ...hello, signal: controller.signal });
  await until(() => server.asked.length === 1);
  setTimeout(() => controller.abort(), 20);
  expect((await failure(asking)).code).toBe("llm.aborted");
});

test("leaving the loop closes the connection; 64 left streams leave none open", async () => {
  await using server = await upstream((r) => {
    startSse(r);
    const timer = setInterval(() => r.write(sse(delta({ content: "on and on " }))), 1);
    r.on("close", () => clearInterval(timer));
  });
  using model = open(server.baseURL, { clock: undefined });
  const leave = async () => {
    for await (const event of model.stream(hello)) if (event.type === "text") break;
  };
  await Promise.all(Array.from({ length: 64 }, leave));
  expect(server.asked.length).toBe(64);
  await until(() => server.open.size === 0);
});

test("a kept connection that the upstream has closed meanwhile is no failure", async () => {
  await using server = await upstream((r, _, i) => {
    // Closed under the next request's nose: its bytes arrive, and nobody reads them.
    const { socket } = r;
    if (i === 0) r.on("finish", () => socket?.prependOnceListener("data", () => socket.resetAndDestroy()));
    startSse(r).end(full);
  });
  using model = open(server.baseURL, { clock: undefined, retries: { most: 0 } });
  await complete(model, hello);
  expect((await complete(model, hello)).finish).toBe("tool_calls");
  expect(server.opened).toBe(2);
});

test("a delta of 8 MB in one event", async () => {
  const huge = "é".repeat(4 << 20);
  await using server = await upstream((r) => startSse(r).end(sse(delta({ content: huge }, "stop"), "[DONE]")));
  using model = open(server.baseURL);
  expect((await complete(model, hello)).message.content).toBe(huge);
});
