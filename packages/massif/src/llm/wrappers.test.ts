import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { Budget, BudgetedModel } from "./budget.ts";
import { CachedModel } from "./cache.ts";
import { LlmError } from "./errors.ts";
import { complete, type ModelEvent } from "./model.ts";
import { RecordingModel, ReplayedModel } from "./recording.ts";
import { type ChatRequest, canonical, firstDifference, requestKey } from "./request.ts";
import { ScriptedModel } from "./scripted.ts";

const root = await mkdtemp(join(tmpdir(), "massif-llm-"));
afterAll(() => rm(root, { recursive: true }));
const folder = () => mkdtemp(join(root, "t-"));

const ask = (content: string, more: Partial<ChatRequest> = {}): ChatRequest => ({
  messages: [{ role: "user", content }],
  ...more,
});
/** Answers each request with how many it was. */
const counting = () =>
  new ScriptedModel((request, index) => ({ text: `answer ${index} to ${request.messages[0]!.content}` }));
const text = async (
  model: { stream(request: ChatRequest): AsyncIterable<ModelEvent>; name: string },
  request: ChatRequest,
) => (await complete(model, request)).message.content;

test("a key is of all that decides the answer, and of nothing else", () => {
  const tool = { type: "function", function: { name: "f", parameters: { properties: { a: {}, b: {} } } } };
  const turned = { type: "function", function: { name: "f", parameters: { properties: { b: {}, a: {} } } } };
  const base = ask("a", { tools: [tool], sampling: { temperature: 1, seed: 2 } });
  const key = requestKey("m", base);
  expect(key).toMatch(/^[0-9a-f]{64}$/);
  const same: ChatRequest[] = [
    {
      sampling: { seed: 2, temperature: 1, topK: undefined },
      tools: [tool],
      messages: [{ content: "a", role: "user", name: undefined }],
    },
    { ...base, signal: AbortSignal.abort(), metadata: { who: "me" }, toolChoice: undefined, extra: {} },
  ];
  for (const request of same) expect(requestKey("m", request)).toBe(key);
  const others: ChatRequest[] = [
    ask("b", base && { tools: base.tools, sampling: base.sampling }),
    { ...base, tools: [turned] },
    { ...base, tools: [] },
    { ...base, sampling: { temperature: 1, seed: 3 } },
    { ...base, toolChoice: "none" },
    { ...base, logprobs: 0 },
    { ...base, extra: { top_k: 1 } },
    { ...base, responseFormat: { type: "json_object" } },
  ];
  expect(new Set([key, requestKey("n", base), ...others.map((request) => requestKey("m", request))]).size).toBe(10);
  expect(firstDifference(canonical(base), canonical(others[1]!))).toEqual({
    path: "tools[0].function.parameters.properties (order of keys)",
    a: "a,b",
    b: "b,a",
  });
  expect(firstDifference(canonical(base), canonical(same[1]!))).toBeUndefined();
});

test("the cache answers again what was finished, in another process too, and forgets what was not", async () => {
  const at = await folder();
  const model = counting();
  const cached = new CachedModel(model, at);
  const events = await Array.fromAsync(cached.stream(ask("a")));
  expect(await Array.fromAsync(cached.stream(ask("a")))).toEqual(events);
  expect(await Array.fromAsync(new CachedModel(counting(), at).stream(ask("a")))).toEqual(events);
  expect([model.requests.length, cached.hits, cached.misses]).toEqual([1, 1, 1]);

  for await (const event of cached.stream(ask("b"))) if (event.type === "text") break;
  expect(await text(cached, ask("b"))).toBe("answer 2 to b");
  // Who leaves at the finish has it kept.
  for await (const event of cached.stream(ask("c"))) if (event.type === "finish") break;
  expect(await text(cached, ask("c"))).toBe("answer 3 to c");
  const failing = new CachedModel(new ScriptedModel([{ text: "x", error: new Error("no") }, { text: "yes" }]), at);
  await expect(complete(failing, ask("d"))).rejects.toThrow("no");
  expect(await text(failing, ask("d"))).toBe("yes");
});

test("the cache streams: the first piece is there before the last is made", async () => {
  const gate = Promise.withResolvers<void>();
  const slow = {
    name: "slow",
    async *stream(): AsyncGenerator<ModelEvent> {
      yield { type: "text", text: "now" };
      await gate.promise;
      yield { type: "finish", reason: "stop" };
    },
  };
  const chain = new BudgetedModel(
    new RecordingModel(new CachedModel(slow, await folder()), join(await folder(), "r")),
    new Budget({}),
  );
  const stream = chain.stream(ask("a"));
  expect((await stream.next()).value).toEqual({ type: "text", text: "now" });
  gate.resolve();
  expect((await stream.next()).value).toEqual({ type: "finish", reason: "stop" });
});

test("a damaged entry is written anew; many at once leave one whole file a request", async () => {
  const at = await folder();
  const cached = new CachedModel(counting(), at);
  await complete(cached, ask("a"));
  const files = async () => (await readdir(at, { recursive: true })).filter((file) => file.includes("."));
  const [file] = await files();
  await truncate(join(at, file!), 40);
  expect(await text(cached, ask("a"))).toBe("answer 1 to a");
  const asks = Array.from({ length: 60 }, (_, i) => complete(cached, ask(`x${i % 6}`)));
  await Promise.all(asks);
  const all = await files();
  expect(all.length).toBe(7);
  for (const file of all)
    expect(JSON.parse(await readFile(join(at, file), "utf8"))).toMatchObject({ model: "scripted" });
});

test("budgets: requests, tokens, cost, and what was left early", async () => {
  const usage = { promptTokens: 100, completionTokens: 50, cachedTokens: 40 };
  const model = new ScriptedModel(() => ({ text: "twelve bytes", usage }), { cut: 12 });
  const code = { code: "llm.budget" };
  const two = new BudgetedModel(model, new Budget({ requests: 2 }));
  await complete(two, ask("a"));
  await complete(two, ask("a"));
  await expect(complete(two, ask("a"))).rejects.toMatchObject(code);

  const budget = new Budget({ tokens: 300, cost: 1 });
  const one = new BudgetedModel(model, budget, { prompt: 1000, completion: 4000, cached: 100 });
  await complete(one, ask("a"));
  // 60 fresh at 1000, 40 cached at 100, 50 written at 4000, a million.
  expect(budget.spent).toEqual({ requests: 1, tokens: 150, cost: 0.264 });
  for await (const event of one.stream(ask("a"))) if (event.type === "text") break;
  expect(budget.spent.tokens).toBe(150 + 1 + 3);
  await complete(one, ask("a"));
  await expect(complete(one, ask("a"))).rejects.toThrow("the budget of 300 tokens is used up (304)");
  await expect(complete(new BudgetedModel(model, new Budget({ cost: 0 })), ask("a"))).rejects.toMatchObject(code);
});

test("a recording tells the same pieces and errors again, whatever order they are asked in", async () => {
  const file = join(await folder(), "upstream.jsonl");
  const refused = new LlmError(
    "llm.rate-limit",
    { found: "slow down" },
    { status: 429, retryAfter: 1000, error: { type: "t" } },
  );
  const script = new ScriptedModel(
    [{ text: "first answer", reasoning: "hm" }, { text: "half", error: refused }, { text: "third" }],
    { name: "m" },
  );
  const recording = new RecordingModel(script, file);
  const first = await Array.fromAsync(recording.stream(ask("a")));
  await expect(complete(recording, ask("b"))).rejects.toBe(refused);
  const third = await Array.fromAsync(recording.stream(ask("a")));
  expect(third).not.toEqual(first);

  const replay = await ReplayedModel.open(file);
  expect(replay.name).toBe("m");
  const half: ModelEvent[] = [];
  const failing = (async () => {
    for await (const event of replay.stream(ask("b"))) half.push(event);
  })();
  await expect(failing).rejects.toMatchObject({
    code: "llm.rate-limit",
    message: "slow down",
    upstream: refused.upstream,
  });
  expect(half).toEqual([{ type: "text", text: "half" }]);
  expect(await Array.fromAsync(replay.stream(ask("a", { metadata: { any: "thing" } })))).toEqual(first);
  expect(replay.left).toBe(1);

  const other = ask("a", { sampling: { temperature: 0.5 } });
  await expect(complete(replay, other)).rejects.toThrow(/sampling is \{"temperature":0.5\}\n {2}expected: missing/);
  await expect(complete(replay, ask("zzz"))).rejects.toThrow(/messages\[0\]\.content is "zzz"\n {2}expected: "a"/);
  expect(await Array.fromAsync(replay.stream(ask("a")))).toEqual(third);
  await expect(complete(replay, ask("a"))).rejects.toThrow("and one more");
});

test("a recording is checked when it is read", async () => {
  const file = join(await folder(), "bad.jsonl");
  await writeFile(file, '{"model":"m","request":{},"events":[{"type":"text"}]}\n');
  await expect(ReplayedModel.open(file)).rejects.toThrow(/bad\.jsonl:1: "events\.0/);
});
