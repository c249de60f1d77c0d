import fc from "fast-check";
import OpenAI from "openai";
import { describe, expect, test } from "vitest";
import type { Turn } from "../../llm/index.ts";
import { scripted } from "../testing.ts";
import { InputReader, inputArguments, inputOf } from "./custom-tools.ts";

test("a text comes out as it went in, however its JSON is cut", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.array(fc.nat(5)), fc.boolean(), (text, cuts, escaped) => {
      let json = inputArguments(text);
      if (escaped) json = json.replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
      const reader = new InputReader();
      let out = "";
      for (let at = 0, i = 0; at < json.length; i++) {
        const n = 1 + (cuts[i % (cuts.length || 1)] ?? 3);
        out += reader.push(json.slice(at, at + n));
        at += n;
      }
      expect(out).toBe(text.toWellFormed() === text ? text : out);
      if (text.toWellFormed() === text) expect(inputOf(json)).toBe(text);
    }),
    { numRuns: 50 },
  );
  expect(inputOf('{"input": "half\\u00')).toBe("half");
  expect(inputOf('{"other":"x"}')).toBe("");
});

const patch = '*** Begin\n"quoted" \\ é 😀\n*** End';
const turn: Turn = { text: "now", calls: [{ name: "apply_patch", arguments: inputArguments(patch) }] };
const format = { type: "grammar" as const, syntax: "regex" as const, definition: "[^z]*" };
const first = { role: "user" as const, content: "mend it" };

describe("chat", () => {
  const tools = [
    {
      type: "custom" as const,
      custom: {
        name: "apply_patch",
        description: "mends",
        format: { type: "grammar" as const, grammar: { syntax: "regex" as const, definition: "[^z]*" } },
      },
    },
    { type: "function" as const, function: { name: "other", parameters: { type: "object", properties: {} } } },
  ];
  test("a call is told as text, whole and in a stream, and shown to the model as a function", async () => {
    await using server = await scripted([turn, turn], { cut: 3 });
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "k", maxRetries: 0 });
    const body = {
      model: "m",
      messages: [first],
      tools,
      tool_choice: { type: "custom" as const, custom: { name: "apply_patch" } },
    };
    const { choices } = await client.chat.completions.create(body);
    expect(choices[0]).toMatchObject({
      finish_reason: "tool_calls",
      message: { tool_calls: [{ type: "custom", custom: { name: "apply_patch", input: patch } }] },
    });
    const call = { type: "", name: "", input: "" };
    for await (const { choices } of await client.chat.completions.create({ ...body, stream: true })) {
      for (const one of (choices[0]?.delta.tool_calls ?? []) as unknown as {
        type?: string;
        custom: { name?: string; input?: string };
      }[]) {
        call.type ||= one.type ?? "";
        call.name += one.custom.name ?? "";
        call.input += one.custom.input ?? "";
      }
    }
    expect(call).toEqual({ type: "custom", name: "apply_patch", input: patch });
    expect(server.model.requests[0]).toMatchObject({
      toolChoice: { name: "apply_patch" },
      tools: [
        {
          type: "function",
          function: {
            name: "apply_patch",
            description: "mends",
            parameters: { properties: { input: { pattern: "^(?:[^z]*)$" } } },
          },
        },
        { function: { name: "other" } },
      ],
    });
  });

  test("its history is read back", async () => {
    await using server = await scripted([{ text: "done" }]);
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "k", maxRetries: 0 });
    const called = { id: "call_1", type: "custom" as const, custom: { name: "apply_patch", input: patch } };
    await client.chat.completions.create({
      ...{ model: "m", tools },
      messages: [
        first,
        { role: "assistant", tool_calls: [called] },
        { role: "tool", tool_call_id: "call_1", content: "ok" },
      ],
    });
    expect(server.model.requests[0]!.messages[1]).toMatchObject({
      tool_calls: [{ function: { name: "apply_patch", arguments: inputArguments(patch) } }],
    });
  });

  test.each([
    [{ syntax: "lark", definition: "start: /a/" }, "regex"],
    [{ syntax: "regex", definition: "(" }, "definition"],
    [{ syntax: "regex", definition: "((a{999}){999}){999}" }, "repeats"],
  ])("%o is a 400", async (grammar, message) => {
    await using server = await scripted([]);
    const bad = [{ type: "custom", custom: { name: "a", format: { type: "grammar", grammar } } }];
    const response = await server.post("/v1/chat/completions", { model: "m", messages: [first], tools: bad });
    const { error } = (await response.json()) as { error: { param: string; message: string } };
    expect([response.status, error.param]).toEqual([400, expect.stringContaining("tools[0].custom.format")]);
    expect(error.message).toContain(message);
  });
});

test("responses: items, events and history of a custom tool", async () => {
  await using server = await scripted([turn, turn, { text: "done" }], { cut: 3 });
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "k", maxRetries: 0 });
  const tools = [{ type: "custom" as const, name: "apply_patch", format }];
  const body = { model: "m", input: "mend it", tools, tool_choice: { type: "custom" as const, name: "apply_patch" } };
  const whole = await client.responses.create(body);
  const item = whole.output.find(({ type }) => type === "custom_tool_call") as { input: string; call_id: string };
  expect(item).toMatchObject({ name: "apply_patch", input: patch, status: "completed" });
  expect(whole.tools).toMatchObject([{ type: "custom", name: "apply_patch" }]);
  let [deltas, done] = ["", ""];
  for await (const event of await client.responses.create({ ...body, stream: true })) {
    if (event.type === "response.custom_tool_call_input.delta") deltas += event.delta;
    if (event.type === "response.custom_tool_call_input.done") done = event.input;
  }
  expect([deltas, done]).toEqual([patch, patch]);
  await client.responses.create({
    ...{ model: "m", tools, previous_response_id: whole.id },
    input: [{ type: "custom_tool_call_output", call_id: item.call_id, output: "ok" }],
  });
  const messages = server.model.requests[2]!.messages;
  expect(messages.find(({ role }) => role === "assistant")).toMatchObject({
    tool_calls: [{ function: { name: "apply_patch", arguments: inputArguments(patch) } }],
  });
  expect(messages.at(-1)).toMatchObject({ role: "tool", content: "ok", tool_call_id: item.call_id });
});
