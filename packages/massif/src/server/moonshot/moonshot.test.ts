import { createServer, type Server } from "node:http";
import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Engine, openEngine } from "../../engine/index.ts";
import type { Model } from "../../model/index.ts";
import { engineBackend } from "../engine.ts";
import { Keys } from "../keys.ts";
import { type Listening, listen } from "../listen.ts";
import { Service } from "../service.ts";
import { alice, bob, post, type Scripted, scripted, until } from "../testing.ts";
import { byteTokenizer, tinyModel } from "../testing-model.ts";
import { searchEndpoint } from "./web-search.ts";

let engine: Engine;
let model: Model;
let server: Listening;
let now = 1_700_000_000;
beforeAll(async () => {
  model = tinyModel();
  engine = openEngine({ model, tokenizer: byteTokenizer(), cacheBytes: 1 << 20, exact: true });
  const service = new Service();
  service.add(await engineBackend(engine, { names: ["k2"], template: "instruct-v2" }));
  const keys = new Keys([alice, bob].map((key, i) => ({ key, name: `k${i}` })));
  server = await listen({ service, keys, unixTime: () => now });
});
afterAll(async () => {
  await server.close();
  engine[Symbol.dispose]();
  model.dispose();
});

type Told = Record<string, unknown> & { status: number; headers: Headers; error?: { param: string } };
async function ask(method: string, path: string, body?: unknown, key = alice, more = {}): Promise<Told> {
  const response = await fetch(server.url + path, {
    method,
    ...(body !== undefined && { body: JSON.stringify(body) }),
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json", ...more },
  });
  const { status, headers } = response;
  const { status: state, ...told } = (await response.json()) as Record<string, unknown>;
  return { ...told, state, status, headers } as Told;
}
const long = { role: "system", content: "A long beginning. ".repeat(12) };
const question = { role: "user", content: "Well?" };
const chat = (messages: unknown[], more = {}) => ({ model: "k2", messages, max_tokens: 4, temperature: 0, ...more });
type Completion = Told & { choices: unknown[]; usage: { prompt_tokens: number; cached_tokens: number } };

test("a context cache: made, pinned, used by message and by head, changed, tagged, deleted; each key's own", async () => {
  const made = await ask("POST", "/v1/caching", { model: "k2", messages: [long], ttl: 60, metadata: { a: "b" } });
  expect(made).toMatchObject({
    status: 200,
    object: "context_cache_object",
    expired_at: now + 60,
    metadata: { a: "b" },
  });
  const id = String(made.id);
  await until(() => engine.metrics().blocks.held > 0);
  expect(await ask("GET", `/v1/caching/${id}`)).toMatchObject({ state: "ready" });
  const plain = (await ask("POST", "/v1/chat/completions", chat([long, question]))) as Completion;
  const uses = [
    { role: "cache", content: `cache_id=${id};reset_ttl=600` },
    { role: "cache", content: { cache_id: id } },
    { role: "cache", cache_id: id },
  ];
  for (const use of uses) {
    const used = (await ask("POST", "/v1/chat/completions", chat([use, question]))) as Completion;
    expect(used.choices).toEqual(plain.choices);
    expect(used.usage.prompt_tokens).toBe(plain.usage.prompt_tokens);
    expect(used.usage.cached_tokens).toBeGreaterThanOrEqual(192);
    expect(used.headers.get("msh-context-cache-id")).toBe(id);
    expect(used.headers.get("msh-context-cache-token-ttl")).toBe("600");
    expect(Number(used.headers.get("msh-context-cache-token-saved"))).toBeGreaterThanOrEqual(176);
  }
  const head = { "x-msh-context-cache": id, "x-msh-context-cache-reset-ttl": "900" };
  const streamed = await post(`${server.url}/v1/chat/completions`, chat([question], { stream: true }), {
    headers: { authorization: `Bearer ${alice}`, ...head },
  });
  await streamed.text();
  expect(streamed.headers.get("msh-context-cache-token-ttl")).toBe("900");
  const counted = await ask("POST", "/v1/tokenizers/estimate-token-count", { ...chat([uses[1], question]) });
  expect(counted.data).toEqual({ total_tokens: plain.usage.prompt_tokens });

  expect(await ask("POST", "/v1/caching/refs/tags", { tag: "latest", cache_id: id })).toMatchObject({ tag: "latest" });
  expect(await ask("GET", "/v1/caching/refs/tags/latest/content")).toMatchObject({ id });
  const tagged = await ask("POST", "/v1/chat/completions", chat([{ role: "cache", content: "tag=latest" }, question]));
  expect(tagged.choices).toEqual(plain.choices);
  expect(await ask("PUT", `/v1/caching/${id}`, { ttl: 30, metadata: { c: "d" } })).toMatchObject({
    ...{ expired_at: now + 30, metadata: { c: "d" } },
  });
  expect((await ask("GET", "/v1/caching")).data).toHaveLength(1);

  expect((await ask("GET", "/v1/caching", undefined, bob)).data).toEqual([]);
  for (const [method, path] of [
    ["GET", `/v1/caching/${id}`],
    ["DELETE", `/v1/caching/${id}`],
    ["GET", "/v1/caching/refs/tags/latest"],
  ] as const)
    expect(await ask(method, path, undefined, bob)).toMatchObject({ status: 404 });
  expect(await ask("POST", "/v1/chat/completions", chat([uses[1], question]), bob)).toMatchObject({ status: 404 });

  await engine.updateWeights();
  expect(await ask("GET", `/v1/caching/${id}`)).toMatchObject({ state: "inactive" });
  await ask("POST", "/v1/chat/completions", chat([uses[1], question]));
  await until(() => engine.metrics().blocks.held > 0 && engine.metrics().running === 0);
  expect(await ask("GET", `/v1/caching/${id}`)).toMatchObject({ state: "ready" });
  now += 31;
  expect(await ask("GET", `/v1/caching/${id}`)).toMatchObject({ state: "expired" });
  expect(await ask("POST", "/v1/chat/completions", chat([uses[1], question]))).toMatchObject({ status: 400 });
  expect(await ask("DELETE", `/v1/caching/${id}`)).toMatchObject({ id, deleted: true });
  await until(() => engine.metrics().blocks.held === 0);
});

test("a cache is named first, in its own model, and is what it says", async () => {
  for (const [body, param] of [
    [{ model: "k2", messages: [{ role: "nobody" }] }, "messages[0].role"],
    [{ model: "k2", messages: [long], ttl: 0 }, "ttl"],
    [{ model: "k2", messages: [long], ttl: 5, expired_at: now + 5 }, "ttl"],
    [{ model: "k2", messages: [long], colour: 1 }, "colour"],
  ] as const) {
    const told = await ask("POST", "/v1/caching", body);
    expect([told.status, told.error?.param]).toEqual([400, param]);
  }
  const late = chat([question, { role: "cache", content: "cache_id=x" }]);
  expect(await ask("POST", "/v1/chat/completions", late)).toMatchObject({ status: 400 });
  for (const content of ["", "nonsense", "cache_id=a;tag=b", "cache_id=a;colour=1"])
    expect(await ask("POST", "/v1/chat/completions", chat([{ role: "cache", content }]))).toMatchObject({
      status: 400,
    });
});

test("formulas are listed and run; what is wrong with a call is told", async () => {
  const tools = async (name: string) => {
    const { tools } = await ask("GET", `/v1/formulas/moonshot/${name}:latest/tools`);
    return (tools as { function: { name: string } }[]).map(({ function: fn }) => fn.name);
  };
  expect(await tools("base64")).toEqual(["base64_encode", "base64_decode"]);
  const run = async (formula: string, name: string, args: object) => {
    const path = `/v1/formulas/moonshot/${formula}:latest/fibers`;
    const told = await ask("POST", path, { name, arguments: JSON.stringify(args) });
    return [told.state ?? told.status, (told.context as { output?: string } | undefined)?.output];
  };
  expect(await run("base64", "base64_encode", { text: "Grüß" })).toEqual(["succeeded", "R3LDvMOf"]);
  expect(await run("base64", "base64_decode", { data: "R3LDvMOf" })).toEqual(["succeeded", "Grüß"]);
  expect(await run("convert", "convert", { value: 212, from_unit: "F", to_unit: "C" })).toEqual(["succeeded", "100"]);
  expect(await run("convert", "convert", { value: 3, from_unit: "mi", to_unit: "m" })).toEqual([
    "succeeded",
    "4828.032",
  ]);
  expect((await run("convert", "convert", { value: 3, from_unit: "mi", to_unit: "kg" }))[0]).toBe("failed");
  expect(await run("random-choice", "random_choice", { candidates: ["x"] })).toEqual(["succeeded", "x"]);
  now = 1_700_000_100;
  const [state, date] = await run("date", "date", { timezone: "Europe/Berlin" });
  expect([state, JSON.parse(String(date))]).toEqual([
    "succeeded",
    { datetime: "2023-11-14 23:15:00", weekday: "Tuesday", timezone: "Europe/Berlin", unix: now },
  ]);
  expect((await run("date", "date", { colour: "red" }))[0]).toBe(400);
  expect((await run("date", "nothing", {}))[0]).toBe(400);
  expect((await run("nothing", "nothing", {}))[0]).toBe(404);
  expect((await run("web-search", "web_search", { query: "x" }))[0]).toBe(400);
});

const builtin = [
  { type: "builtin_function", function: { name: "$web_search" } },
] as unknown as OpenAI.ChatCompletionTool[];

test("$web_search: offered where an endpoint was named; the client echoes the arguments, the server searches", async () => {
  const searched: string[] = [];
  const endpoint: Server = createServer((request, response) => {
    const query = new URL(request.url!, "http://x").searchParams.get("q")!;
    searched.push(query);
    if (query === "broken") return void response.writeHead(500).end("no");
    response.end(JSON.stringify({ results: [{ title: "Ulm", url: "https://u.example", content: `about ${query}` }] }));
  });
  await new Promise<void>((resolve) => endpoint.listen(0, "127.0.0.1", resolve));
  const address = `http://127.0.0.1:${(endpoint.address() as { port: number }).port}/search?q={query}`;
  await using server: Scripted = await scripted(
    ({ messages }) =>
      messages.at(-1)!.role === "tool"
        ? { text: `found: ${messages.at(-1)!.content}` }
        : { calls: [{ name: "$web_search", arguments: { query: "Ulm & so" } }] },
    { search: searchEndpoint(address) },
  );
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "x", maxRetries: 0 });
  const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "What of Ulm?" }];
  const first = await client.chat.completions.create({ model: "m", messages, tools: builtin });
  const [choice] = first.choices;
  expect(choice!.finish_reason).toBe("tool_calls");
  const [call] = choice!.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
  expect(call!.function.name).toBe("$web_search");
  // As Moonshot's own example does: the arguments go back as they came.
  messages.push(choice!.message);
  messages.push({ role: "tool", tool_call_id: call!.id, content: call!.function.arguments });
  for (let i = 0; i < 2; i++) {
    const second = await client.chat.completions.create({ model: "m", messages, tools: builtin });
    expect(second.choices[0]!.message.content).toContain("about Ulm & so");
  }
  expect(searched).toEqual(["Ulm & so"]);
  const declared = server.model.requests[0]!.tools![0]!;
  expect(declared).toMatchObject({ type: "function", function: { name: "$web_search" } });
  messages[messages.length - 1] = { role: "tool", tool_call_id: call!.id, content: '{"query":"broken"}' };
  const failed = await client.chat.completions.create({ model: "m", messages, tools: builtin });
  expect(failed.choices[0]!.message.content).toContain("the search failed");
  messages[messages.length - 1] = { role: "tool", tool_call_id: call!.id, content: "not the arguments" };
  const wrong = client.chat.completions.create({ model: "m", messages, tools: builtin });
  await expect(wrong).rejects.toMatchObject({ status: 400, param: "messages[2].content" });
  const thinking = { model: "m", messages: [messages[0]!], tools: builtin, thinking: { type: "enabled" } };
  const refused = client.chat.completions.create(thinking);
  await expect(refused).rejects.toMatchObject({ status: 400, param: "thinking.type" });
  const run = await server.post("/v1/formulas/moonshot/web-search:latest/fibers", {
    ...{ name: "web_search", arguments: { query: "formula" } },
  });
  expect(((await run.json()) as { context: { output: string } }).context.output).toContain("about formula");
  endpoint.close();
});

test("$web_search without an endpoint is a 400 that says how; other builtin functions there are none", async () => {
  await using server = await scripted(() => ({ text: "ok" }));
  const told = async (tools: unknown) => {
    const response = await server.post("/v1/chat/completions", { model: "m", messages: [question], tools });
    const { error } = (await response.json()) as { error: { message: string; param: string } };
    return [response.status, error.param, error.message] as const;
  };
  const [status, param, message] = await told(builtin);
  expect([status, param]).toEqual([400, "tools[0].type"]);
  expect(message).toContain("--search URL");
  expect((await told([{ type: "builtin_function", function: { name: "$other" } }]))[1]).toBe("tools[0].function.name");
  expect((await told([{ type: "function", function: { name: "$web_search" } }]))[1]).toBe("tools[0].type");
  expect(() => searchEndpoint("ftp://x/{query}")).toThrow("{query}");
});
