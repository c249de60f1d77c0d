import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, onTestFinished, test, vi } from "vitest";
import { Keys } from "./keys.ts";
import { listen } from "./listen.ts";
import { Service } from "./service.ts";
import { events, post, scripted, until, weather } from "./testing.ts";
import type { Control } from "./weights/control.ts";

const ask = { model: "m", messages: [{ role: "user", content: "hi" }] };
const paths = ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions", "/tokenize", "/detokenize"];

test("whatever is sent, the answer is 2xx or 4xx, in JSON, and the server lives", async () => {
  const state = mkdtempSync(join(tmpdir(), "massif-state-"));
  await using server = await scripted(() => ({ text: "ok" }), { state, weightsRoot: state });
  const all = [
    ...[...paths, "/v1/embeddings", "/v1/responses/compact", "/v1/chat/completions/x", "/v1/files", "/v1/batches"],
    ...["/v1/batches/x/cancel", "/v1/caching", "/v1/caching/refs/tags", "/v1/formulas/moonshot/convert:latest/fibers"],
    ...["/update_weights", "/sleep", "/pause", "/abort_request", "/weight_checker"],
  ];
  const names = [
    ...["model", "messages", "tools", "stop", "n", "input", "max_tokens", "system", "ttl", "metadata", "name"],
    ...["arguments", "store", "thinking"],
  ];
  const role = fc.constantFrom("user", "assistant", "tool", "cache", "x");
  const junk = fc.oneof(
    fc.json(),
    fc.string(),
    fc.dictionary(fc.constantFrom(...names), fc.jsonValue()).map((fields) => ({ ...ask, ...fields })),
    fc
      .record({ role, content: fc.jsonValue(), tool_calls: fc.jsonValue() })
      .map((message) => ({ ...ask, messages: [message] })),
    fc.jsonValue().map((fn) => ({ ...ask, tools: [{ type: "builtin_function", function: fn }] })),
    fc.jsonValue().map((item) => ({ model: "m", input: [{ type: "compaction", encrypted_content: item }] })),
    fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
  );
  const survives = async (asked: string, response: Response) => {
    expect(response.status < 500, `${asked}: ${response.status}`).toBe(true);
    await response.json();
  };
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...all), junk, async (path, body) =>
      survives(`${path} ${JSON.stringify(body)}`, await server.post(path, body)),
    ),
    { numRuns: 800 },
  );
  const queries = fc.dictionary(fc.constantFrom("limit", "after", "order", "metadata[a]", "purpose", "x"), fc.string());
  const lists = [
    "/v1/files",
    "/v1/batches",
    "/v1/chat/completions",
    "/v1/caching",
    "/v1/files/%2e%2e",
    "/v1/caching/x",
  ];
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...lists), queries, async (path, query) => {
      const asked = `${path}?${new URLSearchParams(query)}`;
      await survives(asked, await fetch(server.url + asked));
    }),
    { numRuns: 200 },
  );
  expect((await fetch(`${server.url}/health`)).status).toBe(200);
  rmSync(state, { recursive: true });
});

test("bodies that are too large or too deep are refused before they are parsed", async () => {
  await using server = await scripted(() => ({ text: "ok" }), { limits: { maxBytes: 10_000, maxDepth: 32 } });
  const large = JSON.stringify({ ...ask, user: "x".repeat(20_000) });
  expect((await server.post(paths[0]!, large)).status).toBe(413);
  // Without a length, counted as it comes.
  const body = new ReadableStream({
    pull(controller) {
      controller.enqueue(new TextEncoder().encode(" ".repeat(4000)));
    },
  });
  const init = { method: "POST", body, duplex: "half", headers: { "content-type": "application/json" } };
  const endless = fetch(server.url + paths[0], init as RequestInit).then(({ status }) => status);
  expect(await endless.catch(() => 413)).toBe(413);
  const deep = `{"model":"m","messages":${"[".repeat(3000)}${"]".repeat(3000)}}`;
  expect((await server.post(paths[0]!, deep)).status).toBe(400);
});

test("any chunking of a model's answer makes the same answer in every dialect, streamed or whole", async () => {
  const tokens =
    "<think>Hm, 世界</think>Grüß 😀<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>" +
    '{"city":"<b>北京</b>"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>';
  let cut = 1;
  await using server = await scripted(() => ({ tokens, usage: { promptTokens: 3, completionTokens: 4 } }), {
    cut: () => cut,
    secret: "s",
    newId: () => "id",
    unixTime: () => 1,
  });
  const body = { ...ask, tools: [weather], max_tokens: 50 };
  const chat = async (stream: boolean) => {
    const response = await server.post(paths[0]!, { ...body, stream });
    if (!stream) {
      const { message, finish_reason } = (
        (await response.json()) as { choices: { message: Record<string, never>; finish_reason: string }[] }
      ).choices[0]!;
      return [message.content, message.reasoning_content, JSON.stringify(message.tool_calls), finish_reason];
    }
    let [content, reasoning, args, finish] = ["", "", "", ""];
    let call: Record<string, unknown> = {};
    for (const { choices } of await events(response)) {
      const { delta, finish_reason } = (
        choices as { delta: Record<string, string>; finish_reason: string | null }[]
      )[0]!;
      content += delta.content ?? "";
      reasoning += delta.reasoning_content ?? "";
      const piece = (
        delta.tool_calls as unknown as { id?: string; function: { name?: string; arguments: string } }[] | undefined
      )?.[0];
      if (piece?.id) call = { id: piece.id, type: "function", function: { name: piece.function.name, arguments: "" } };
      args += piece?.function.arguments ?? "";
      finish = finish_reason ?? finish;
    }
    (call.function as { arguments: string }).arguments = args;
    return [content, reasoning, JSON.stringify([call]), finish];
  };
  const anthropic = async (): Promise<unknown> =>
    (
      await server.post(paths[1]!, { ...ask, max_tokens: 50, tools: [{ name: "get_weather", input_schema: {} }] })
    ).json();
  const responses = async (): Promise<unknown> => (await server.post(paths[2]!, { model: "m", input: "hi" })).json();
  cut = 10_000;
  const expected = [await chat(false), await anthropic(), await responses()];
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 40 }), async (size) => {
      cut = size;
      expect([await chat(true), await anthropic(), await responses()]).toEqual(expected);
      expect(await chat(false)).toEqual(expected[0]);
    }),
    { numRuns: 15 },
  );
  expect(JSON.stringify(expected)).not.toMatch(/<\|/);
});

test("keys: none, wrong, right, either head; limits say when to come back; admin's routes", async () => {
  const keys = new Keys([
    { key: "key-one-1", name: "one", rpm: 2 },
    { key: "key-two-2", name: "two", concurrency: 1, tokens: 1000 },
  ]);
  let letGo = () => {};
  const held = new Promise<void>((resolve) => (letGo = resolve));
  // A minute that does not end in the middle.
  vi.useFakeTimers({ toFake: ["Date"], now: 1_700_000_000_000 });
  onTestFinished(() => void vi.useRealTimers());
  await using server = await scripted(
    async ({ messages }) => {
      if (messages[0]!.content === "slow") await held;
      return { text: "x".repeat(400) };
    },
    {
      keys,
      weightsRoot: import.meta.dirname,
      backend: { control: { version: 3, nameOf: String } as Partial<Control> as Control },
    },
  );
  const as = (headers: Record<string, string>, body: unknown = ask) => server.post(paths[0]!, body, { headers });
  expect((await as({})).status).toBe(401);
  expect((await as({ authorization: "Bearer key-one-2" })).status).toBe(401);
  expect((await fetch(`${server.url}/health`)).status).toBe(200);
  expect((await fetch(`${server.url}/metrics`)).status).toBe(401);
  const first = await as({ authorization: "Bearer key-one-1" });
  expect([first.status, first.headers.get("x-weight-version")]).toEqual([200, "3"]);
  expect((await as({ "x-api-key": "key-one-1" })).status).toBe(200);
  const third = await as({ "x-api-key": "key-one-1" });
  expect(third.status).toBe(429);
  expect(Number(third.headers.get("retry-after"))).toBeLessThanOrEqual(60);
  const slow = as({ "x-api-key": "key-two-2" }, { ...ask, messages: [{ role: "user", content: "slow" }] });
  await until(() => server.service.slots.held === 1);
  expect((await as({ "x-api-key": "key-two-2" })).status).toBe(429);
  letGo();
  await (await slow).text();
  expect((await server.post("/pause", {}, { headers: { "x-api-key": "key-one-1" } })).status).toBe(403);
  const balance = await fetch(`${server.url}/v1/users/me/balance`, { headers: { "x-api-key": "key-two-2" } });
  const { data } = (await balance.json()) as { data: { available_balance: number } };
  expect(data.available_balance).toBeGreaterThan(800);
  expect(data.available_balance).toBeLessThan(1000);
});

test("one key's stored responses are not another's", async () => {
  const keys = new Keys([
    { key: "key-one-1", name: "one" },
    { key: "key-two-2", name: "two" },
  ]);
  await using server = await scripted(() => ({ text: "mine" }), { keys });
  const kept = await server.post(
    "/v1/responses",
    { model: "m", input: "x" },
    { headers: { "x-api-key": "key-one-1" } },
  );
  const { id } = (await kept.json()) as { id: string };
  const get = async (key: string) =>
    (await fetch(`${server.url}/v1/responses/${id}`, { headers: { "x-api-key": key } })).status;
  expect([await get("key-one-1"), await get("key-two-2")]).toEqual([200, 404]);
});

test("a host that others can reach needs keys; browsers are let in by name only", async () => {
  await expect(listen({ service: new Service(), host: "0.0.0.0" })).rejects.toThrow("--api-key-file");
  await using server = await scripted(() => ({ text: "ok" }), { cors: ["https://a.example"] });
  const from = async (origin: string) =>
    (await server.post(paths[0]!, ask, { headers: { origin } })).headers.get("access-control-allow-origin");
  expect([await from("https://a.example"), await from("https://b.example")]).toEqual(["https://a.example", null]);
});

test("a reader that stops holds nobody up, waits with little, and is given up in the end", async () => {
  await using server = await scripted(() => ({ text: "x".repeat(3_000_000) }), { cut: 500, keepAlive: 20, stall: 200 });
  const body = JSON.stringify({ ...ask, stream: true });
  const socket = connect(Number(new URL(server.url).port), "127.0.0.1");
  socket.on("error", () => undefined);
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
  );
  socket.pause();
  await until(() => server.service.slots.held === 1);
  expect((await server.post("/tokenize", {})).status).toBe(400); // others are served meanwhile
  await until(() => server.service.slots.held === 0);
  expect(server.model.requests[0]!.signal!.aborted).toBe(true);
  socket.destroy();
});

test("a quiet model's stream is kept alive by comments, before its first event too", async () => {
  let letGo = () => {};
  const held = new Promise<void>((resolve) => (letGo = resolve));
  const script = async () => {
    await held;
    return { text: "ab", pause: 80 };
  };
  await using server = await scripted(script, { cut: 1, keepAlive: 5 });
  const { body } = await server.post(paths[0]!, { ...ask, stream: true });
  let text = "";
  for await (const piece of body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    if (text.split(": keep-alive").length > 3) letGo();
  }
  const begun = text.indexOf("data: ");
  expect(text.indexOf(": keep-alive")).toBe(0);
  expect(text.slice(0, begun).match(/: keep-alive/g)!.length).toBeGreaterThanOrEqual(3);
  expect(text.slice(begun)).toMatch(/: keep-alive/);
  expect(text).toMatch(/data: \[DONE\]\n\n$/);
});

test("closing: health says so, new requests are refused, those under way end", async () => {
  const server = await scripted(() => ({ text: "x".repeat(80), pause: 5 }), { grace: 5000 });
  const open = await fetch(`${server.url}/health`);
  await open.text();
  const running = server.post(paths[0]!, ask).then((response) => response.json());
  await until(() => server.service.slots.held === 1);
  const closed = server.close();
  expect(((await running) as { choices: { message: { content: string } }[] }).choices[0]!.message.content).toHaveLength(
    80,
  );
  await closed;
  await expect(post(server.url + paths[0], ask)).rejects.toThrow();
});

test("while loading: 503 with Retry-After", async () => {
  await using server = await scripted(() => ({ text: "ok" }));
  server.service.loading = "loading weights";
  const [health, chat, anthropic] = await Promise.all([
    fetch(`${server.url}/health`),
    server.post(paths[0]!, ask),
    server.post(paths[1]!, { ...ask, max_tokens: 5 }),
  ]);
  expect([health.status, chat.status, anthropic.status]).toEqual([503, 503, 529]);
  expect(chat.headers.get("retry-after")).toBe("5");
});
