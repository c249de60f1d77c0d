import { Ajv } from "ajv";
import { afterAll, describe, expect, test } from "vitest";
import type { Message, TemplateName, ToolSpec } from "../../chat/index.ts";
import { type ChatRequest, complete, type ModelEvent, mergeModelEvents, type Trace } from "../../llm/index.ts";
import { byteTokenizer, tinyEngine, tinyModel } from "../testing.ts";
import { engineModel } from "./language-model.ts";

const weights = tinyModel(1, { maxPositionEmbeddings: 4096 });
const tokenizer = byteTokenizer();
const engine = tinyEngine({ model: weights, tokenizer, exact: true, cacheBytes: 8 << 20 });
const modelOf = (template: TemplateName) => engineModel(engine, { template });
const model = modelOf("instruct-v2");
afterAll(() => {
  expect(engine.metrics().blocks.held).toBe(0);
  engine[Symbol.dispose]();
  weights.dispose();
});

const tool = (name: string, parameters: object): ToolSpec => ({
  type: "function",
  function: { name, parameters: { ...parameters } },
});
const weather = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 }, days: { type: "integer", minimum: 1, maximum: 14 } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [
  tool("weather.now", weather),
  tool("stop-all", { type: "object", properties: {}, additionalProperties: false }),
];
const messages: Message[] = [{ role: "user", content: "What is the weather in Ulm?" }];
const ask = (request: Partial<ChatRequest>): ChatRequest => ({
  messages,
  ...request,
  sampling: { maxTokens: 80, seed: 1, ...request.sampling },
});

describe.each(["instruct-v2", "thinking"] as const)("%s", (template) => {
  test("random weights call tools with arguments that fit their schema, whatever the seed", async () => {
    const valid = new Ajv().compile(weather);
    for (let seed = 0; seed < 12; seed++) {
      const parallelToolCalls = seed % 2 === 0;
      const request = ask({ tools, toolChoice: "required", parallelToolCalls, sampling: { maxTokens: 160, seed } });
      const { message, finish, problems, usage } = await complete(modelOf(template), request);
      expect(problems).toEqual([]);
      expect(finish).toBe("tool_calls");
      const calls = message.tool_calls!;
      if (!parallelToolCalls) expect(calls).toHaveLength(1);
      for (const [i, { id, function: fn }] of calls.entries()) {
        expect(id).toBe(`functions.${fn.name}:${i}`);
        const value = JSON.parse(String(fn.arguments));
        if (fn.name === "weather.now") expect(valid(value), String(fn.arguments)).toBe(true);
        else expect(value).toEqual({});
      }
      expect(usage!.completionTokens).toBeLessThanOrEqual(160);
      expect((usage!.reasoningTokens ?? 0) > 0).toBe(template === "thinking");
    }
  });
});

test("a named tool, a format, and a choice of none are kept to", async () => {
  const named = await complete(model, ask({ tools, toolChoice: { name: "stop-all" }, parallelToolCalls: false }));
  expect(named.message.tool_calls).toMatchObject([{ function: { name: "stop-all", arguments: "{}" } }]);
  const schema = { type: "array", items: { enum: [1, 2] }, minItems: 2, maxItems: 3 };
  const json = await complete(model, ask({ responseFormat: { type: "json_schema", name: "x", schema } }));
  expect(json.finish).toBe("stop");
  expect(new Ajv().validate(schema, JSON.parse(String(json.message.content)))).toBe(true);
  const none = await complete(model, ask({ tools, toolChoice: "none" }));
  expect(none.message.tool_calls).toBeUndefined();
  expect(none.problems).toEqual([]);
});

test("the stream has one start, one usage, one finish; the same seed streams the same; cached prompts change nothing", async () => {
  const request = ask({ tools, logprobs: 2, tokenIds: true });
  const runs: ModelEvent[][] = [];
  for (let i = 0; i < 2; i++) runs.push(await Array.fromAsync(model.stream(request)));
  for (const events of runs) {
    expect(events[0]!.type).toBe("start");
    expect(events.at(-1)!.type).toBe("finish");
    expect(events.filter(({ type }) => type === "start" || type === "usage" || type === "finish")).toHaveLength(3);
  }
  const [first, second] = runs.map((events) => mergeModelEvents(events)) as [ModelEvent[], ModelEvent[]];
  const bare = (events: ModelEvent[]) => events.filter(({ type }) => type !== "usage");
  expect(bare(second)).toEqual(bare(first));
  const usage = (events: ModelEvent[]) => events.find((event) => event.type === "usage")!.usage;
  const prompt = first.find((event) => event.type === "start")!.promptIds!;
  const tokens = first.find((event) => event.type === "tokens")!.tokens;
  expect(usage(first)).toMatchObject({ promptTokens: prompt.length, completionTokens: tokens.length });
  expect(usage(second).cachedTokens).toBe(Math.floor((prompt.length - 1) / 16) * 16);
  for (const { top } of tokens) expect(top).toHaveLength(2);
});

test("a stop string ends the text before it, and says which", async () => {
  const letters = Object.fromEntries(Array.from({ length: 26 }, (_, i) => [String(97 + i), 50]));
  const sampling = { maxTokens: 60, seed: 4, logitBias: letters };
  const text = String((await complete(model, ask({ sampling }))).message.content);
  expect(text).toMatch(/^[a-z]{60}$/);
  const stop = [text.slice(9, 12), "never said"];
  const { message, finish, stop: said } = await complete(model, ask({ sampling: { ...sampling, stop } }));
  expect(message.content).toBe(text.slice(0, text.indexOf(stop[0]!)));
  expect([finish, said]).toEqual(["stop", stop[0]]);
});

test("an aborted request throws llm.aborted and frees its slot", async () => {
  const control = new AbortController();
  const events = model.stream(ask({ signal: control.signal, sampling: { maxTokens: 2000 } }));
  const read = (async () => {
    for await (const { type } of events) if (type === "text") control.abort();
  })();
  await expect(read).rejects.toMatchObject({ code: "llm.aborted" });
  expect(engine.metrics()).toMatchObject({ running: 0, waiting: 0 });
});

describe("reasoning is bounded, and the answer goes on after it", () => {
  const thinking = modelOf("thinking");
  const never = { [String(tokenizer.idOf("</think>"))]: -100, [String(tokenizer.idOf("<think>"))]: -100 };
  const cases: [string, ChatRequest["reasoning"], number][] = [
    ["a budget", { budget: 7 }, 7],
    ["a small effort", { effort: "minimal" }, 12],
    ["effort none", { effort: "none" }, 0],
    ["no budget at all", { budget: 0 }, 0],
    ["switched off", { enabled: false }, 0],
  ];
  test.each(cases)("%s", async (_, reasoning, most) => {
    for (const more of [
      {},
      { tools, toolChoice: "required" as const },
      { responseFormat: { type: "json_object" } as const },
    ]) {
      const request = ask({ ...more, reasoning, tokenIds: true, sampling: { maxTokens: 120, logitBias: never } });
      const { message, usage, tokens, problems } = await complete(thinking, request);
      const end = tokens.findIndex(({ id }) => id === tokenizer.idOf("</think>"));
      if (Object.keys(more).length) {
        // An answer that is held to a grammar says where its reasoning begins and ends.
        expect(end).toBe(most ? most : -1);
        expect(usage!.reasoningTokens ?? 0).toBe(most);
        expect(problems).toEqual([]);
      }
      expect(message.content || message.tool_calls).toBeTruthy();
    }
  });
  test("a model that does not reason keeps to any wish about it", async () => {
    const plain = await complete(model, ask({}));
    const asked = await complete(model, ask({ reasoning: { budget: 5, effort: "low" } }));
    expect(asked.message).toEqual(plain.message);
  });
});

test("formats beside JSON: a pattern, a choice, a grammar", async () => {
  const said = async (responseFormat: ChatRequest["responseFormat"]) =>
    (await complete(model, ask({ responseFormat: responseFormat! }))).message.content;
  expect(await said({ type: "regex", pattern: "[a-c]{3}-\\d" })).toMatch(/^[a-c]{3}-\d$/);
  expect(["left", "right"]).toContain(await said({ type: "choice", choices: ["left", "right"] }));
  expect(await said({ type: "grammar", grammar: 'root ::= "<" [a-z]+ ">" | "none"' })).toMatch(/^(<[a-z]+>|none)$/);
  await expect(said({ type: "regex", pattern: "(?=a)" })).rejects.toMatchObject({ code: "schema.pattern" });
});

test("an end that is ignored ends nothing; stop tokens are told; nothing stops too soon", async () => {
  const end = tokenizer.idOf("<|im_end|>");
  const sampling = { maxTokens: 30, logitBias: { [String(end)]: 100 } };
  const ended = await complete(model, ask({ sampling }));
  expect([ended.finish, ended.usage!.completionTokens]).toEqual(["stop", 1]);
  const late = await complete(model, ask({ sampling: { ...sampling, minTokens: 9 } }));
  expect([late.finish, late.usage!.completionTokens]).toEqual(["stop", 10]);
  const never = await complete(model, ask({ sampling: { ...sampling, ignoreEnd: true } }));
  expect([never.finish, never.usage!.completionTokens]).toEqual(["length", 30]);
  expect(never.problems).toEqual([]);
  const only = { maxTokens: 30, allowedIds: [97, 98], stopIds: [98] };
  const stopped = await complete(model, ask({ sampling: only }));
  expect([stopped.finish, stopped.stop]).toEqual(["stop", 98]);
  expect(stopped.message.content).toMatch(/^a*$/);
  const kept = await complete(model, ask({ sampling: { ...only, includeStop: true } }));
  expect(kept.message.content).toBe(`${stopped.message.content}b`);
});

test("tools that a message declares are shown where it stands, and can be called", async () => {
  const dynamic: Message[] = [...messages, { role: "system", content: null, tools: [tool("late.one", weather)] }];
  const { message } = await complete(
    model,
    ask({ messages: dynamic, toolChoice: { name: "late.one" }, sampling: { maxTokens: 120 } }),
  );
  expect(message.tool_calls![0]!.function.name).toBe("late.one");
  const { rendered } = model.prompt(ask({ messages: dynamic }));
  expect(rendered.indexOf("What is the weather")).toBeLessThan(
    rendered.indexOf("<|im_system|>tool_declare<|im_middle|>"),
  );
});

test("the end of a prompt, its log-probabilities, and what became of the request", async () => {
  let trace: Trace | undefined;
  const whole = await complete(model, ask({ tokenIds: true, promptLogprobs: 2, onTrace: (told) => (trace = told) }));
  const ids = whole.start!.promptIds!;
  const rows = whole.start!.promptLogprobs!;
  expect(rows).toHaveLength(ids.length);
  expect(rows[0]).toBeNull();
  for (const [i, row] of rows.entries()) if (row) expect(Object.keys(row)).toContain(String(ids[i]));
  expect(trace).toMatchObject({ preemptions: 0, blocksFound: 0, masks: { asked: 0 } });
  expect(trace!.finished).toBeGreaterThanOrEqual(trace!.firstToken!);
  const cut = await complete(model, ask({ tokenIds: true, truncatePrompt: 12 }));
  expect(cut.start!.promptIds).toEqual(ids.slice(-12));
});

test("what cannot be honoured is refused by name", async () => {
  const refused = (request: Partial<ChatRequest>) => expect(complete(model, ask(request))).rejects;
  await refused({ extra: { top_a: 1 } }).toMatchObject({ code: "llm.unsupported" });
  await refused({ toolChoice: "required" }).toMatchObject({ code: "schema.tool" });
  await refused({ tools, toolChoice: "required", sampling: { maxTokens: 5 } }).toMatchObject({ code: "schema.budget" });
  await refused({ messages: [{ role: "user", content: "x".repeat(5000) }] }).toMatchObject({ code: "llm.context" });
});
