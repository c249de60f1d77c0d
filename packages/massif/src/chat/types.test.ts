import { expect, test } from "vitest";
import { readMessages, readTools, textOf } from "./index.ts";

test("what other programs send, in normal form", () => {
  const read = readMessages([
    { role: "developer", content: ["a", { type: "text", text: "b", cache_control: {} }], name: null },
    { role: "_input", content: "c" },
    { role: "assistant", reasoning: "r", refusal: null, tool_calls: [] },
    { role: "assistant", content: null, function_call: { name: "f", arguments: null } },
    { role: "function", name: "f", content: "4" },
  ]);
  expect(JSON.parse(JSON.stringify(read))).toEqual([
    {
      role: "system",
      content: [
        { type: "text", text: "a" },
        { type: "text", text: "b" },
      ],
    },
    { role: "system", content: "c" },
    { role: "assistant", content: null, reasoning_content: "r" },
    { role: "assistant", content: null, tool_calls: [{ type: "function", function: { name: "f", arguments: "{}" } }] },
    { role: "tool", name: "f", content: "4" },
  ]);
  expect(read.map((message) => textOf(message.content))).toEqual(["ab", "c", "", "", "4"]);
});

test.each([
  [
    [{ role: "user", content: ["a", { type: "image_url" }] }],
    "messages[0].content[1].type: only text parts: K2 reads no images, audio or files",
  ],
  [[{ role: "user", content: 5 }], "messages[0].content: a content is a string, a list of text parts, or null"],
  [
    [{ role: "user", content: "" }, { role: "bot" }],
    "messages[1].role: role must be system, developer, user, assistant or tool",
  ],
  [
    [{ role: "assistant", tool_calls: [{ function: { name: "" } }] }],
    "messages[0].tool_calls[0].function.name: a tool call needs the name of its function",
  ],
  [
    [{ role: "assistant", tool_calls: [{ function: { name: "f", arguments: 5 } }] }],
    "messages[0].tool_calls[0].function.arguments: JSON text or an object",
  ],
])("%j is refused with its path", (messages, found) => {
  expect(() => readMessages(messages)).toThrow(found);
});

test("tools stay as they are, key for key; null is none", () => {
  const tools = [{ function: { zeta: 1, parameters: {}, name: "f" }, type: "function", extra: true }];
  expect(JSON.stringify(readTools(tools))).toBe(JSON.stringify(tools));
  expect(readTools(null)).toEqual([]);
  expect(() => readTools([{ type: "function" }])).toThrow(
    "tools[0].function: a tool of type function needs a function",
  );
  expect(() => readTools([{ type: "function", function: { name: 3 } }])).toThrow(/tools\[0\]\.function\.name/);
});
