import fc from "fast-check";
import { expect, test } from "vitest";
import type { AssistantMessage } from "../chat/index.ts";
import { complete, mergeModelEvents } from "./model.ts";
import type { ChatRequest } from "./request.ts";
import { ScriptedModel, type Turn } from "./scripted.ts";
import { InstantClock } from "./testing.ts";

const hello: ChatRequest = { messages: [{ role: "user", content: "hello" }] };
const turn: Turn = {
  reasoning: "Hm 🙂",
  text: "Grüße",
  calls: [
    { name: "add", arguments: { a: 1 } },
    { name: "now", id: "x" },
  ],
};
const message: AssistantMessage = {
  role: "assistant",
  content: "Grüße",
  reasoning_content: "Hm 🙂",
  tool_calls: [
    { id: "functions.add:0", type: "function", function: { name: "add", arguments: '{"a":1}' } },
    { id: "x", type: "function", function: { name: "now", arguments: "{}" } },
  ],
};

test("says its turns one after the other, and then no more", async () => {
  const model = new ScriptedModel([
    turn,
    { text: "done", finish: "length", usage: { promptTokens: 1, completionTokens: 2 } },
  ]);
  const first = await complete(model, hello);
  // 5 bytes asked; 7 of reasoning, and 7 + 15 + 7 + 1 + 2 written: four to a token.
  expect(first).toEqual({
    message,
    problems: [],
    tokens: [],
    finish: "tool_calls",
    usage: { promptTokens: 2, completionTokens: 10 },
  });
  const second = await complete(model, { messages: [...hello.messages, message] });
  expect(second).toMatchObject({
    message: { content: "done" },
    finish: "length",
    usage: { promptTokens: 1, completionTokens: 2 },
  });
  await expect(complete(model, hello)).rejects.toMatchObject({ code: "llm.script" });
  expect(model.requests.map(({ messages }) => messages.length)).toEqual([1, 2, 1]);
});

test("any cut is the same message, and pieces are as long as told", async () => {
  await fc.assert(
    fc.asyncProperty(fc.infiniteStream(fc.integer({ min: 1, max: 9 })), async (lengths) => {
      const cut = () => lengths.next().value!;
      const events = await Array.fromAsync(new ScriptedModel([turn], { cut }).stream(hello));
      const whole = await Array.fromAsync(new ScriptedModel([turn], { cut: 1000 }).stream(hello));
      expect(mergeModelEvents(events)).toEqual(whole);
    }),
  );
  const events = await Array.fromAsync(new ScriptedModel([{ text: "abcdefg" }], { cut: 3 }).stream(hello));
  expect(events.flatMap((event) => (event.type === "text" ? event.text : []))).toEqual(["abc", "def", "g"]);
});

test("K2's format is read by chat's parser, and an index of calls goes on", async () => {
  const tokens =
    "<think>so</think>hi<|tool_calls_section_begin|><|tool_call_begin|>add:0<|tool_call_argument_begin|>{}";
  const model = new ScriptedModel((_, index) => ({ tokens: index ? "hi<|im_end|>" : tokens }));
  expect(await complete(model, hello)).toMatchObject({
    message: { content: "hi", reasoning_content: "so", tool_calls: [{ id: "functions.add:0" }] },
    problems: [{ code: "bad-id" }, { code: "call-unclosed" }, { code: "section-unclosed" }],
    finish: "length",
  });
  expect((await complete(model, hello)).finish).toBe("stop");
});

test("errors come after what was said, waits are the clock's, abort ends them", async () => {
  const clock = new InstantClock();
  const failing = new ScriptedModel([{ text: "abcdefgh", error: new Error("fell over"), delay: 30, pause: 5 }], {
    clock,
  });
  const seen: string[] = [];
  const reading = async () => {
    for await (const event of failing.stream(hello)) seen.push(event.type);
  };
  await expect(reading()).rejects.toThrow("fell over");
  expect([seen, clock.waits]).toEqual([
    ["text", "text"],
    [30, 5],
  ]);

  const slow = new ScriptedModel([{ text: "never", delay: 1e9 }]);
  const controller = new AbortController();
  const waiting = complete(slow, { ...hello, signal: controller.signal });
  setImmediate(() => controller.abort());
  await expect(waiting).rejects.toMatchObject({ code: "llm.aborted" });
});
