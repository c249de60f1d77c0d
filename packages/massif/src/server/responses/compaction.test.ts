import type OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { alice, bob, type Kept, kept } from "../testing.ts";

let server: Kept;
beforeAll(async () => {
  server = await kept(({ messages }) => {
    const last = String(messages.at(-1)!.content);
    if (last.startsWith("Summarize")) return { text: `it was about ${messages.length} messages` };
    return { text: messages.map(({ role, content }) => `${role}: ${content}`).join(" | ") };
  });
});
afterAll(() => server[Symbol.asyncDispose]());

const call = { type: "function_call" as const, call_id: "c1", name: "look", arguments: "{}" };
const input: OpenAI.Responses.ResponseInputItem[] = [
  { role: "user", content: "first" },
  { role: "assistant", content: "thought about it" },
  call,
  { type: "function_call_output", call_id: "c1", output: "seen" },
  { role: "user", content: [{ type: "input_text", text: "second" }] },
];

test("what users said stays, the rest is one sealed summary that the next request reads, after a restart too", async () => {
  const compacted = await server.clientOf(alice).responses.compact({ model: "m", input });
  expect(compacted.object).toBe("response.compaction");
  expect(compacted.usage.total_tokens).toBeGreaterThan(0);
  const shown = compacted.output.map((item) => [item.type, "content" in item ? item.content : undefined]);
  expect(shown).toEqual([
    ["message", [{ type: "input_text", text: "first" }]],
    ["message", [{ type: "input_text", text: "second" }]],
    ["compaction", undefined],
  ]);
  const sealed = (compacted.output.at(-1) as { encrypted_content: string }).encrypted_content;
  expect(Buffer.from(sealed, "base64").toString("latin1")).not.toContain("messages");
  await server.restart();
  const next = [...compacted.output, { role: "user", content: "third" }] as OpenAI.Responses.ResponseInputItem[];
  const answer = await server.clientOf(alice).responses.create({ model: "m", input: next });
  const summary = "user: Summary of the conversation before, by the assistant:\nit was about 5 messages";
  expect(answer.output_text).toBe(`user: first | user: second | ${summary} | user: third`);
  // Compacted again, the summary is part of the new one.
  const again = await server.clientOf(alice).responses.compact({ model: "m", previous_response_id: answer.id });
  expect(again.output.map(({ type }) => type)).toEqual(["message", "message", "message", "compaction"]);
});

test("another key's summary, a changed one and an empty request are refused by name", async () => {
  const { output } = await server.clientOf(alice).responses.compact({ model: "m", input: "hello" });
  const item = output.at(-1) as { encrypted_content: string };
  const read = (apiKey: string, encrypted_content: string) =>
    server.clientOf(apiKey).responses.create({ model: "m", input: [{ type: "compaction", encrypted_content }] });
  const param = "input[0].encrypted_content";
  await expect(read(bob, item.encrypted_content)).rejects.toMatchObject({ status: 400, param });
  const changed = `${item.encrypted_content.slice(0, 45)}${item.encrypted_content[45] === "A" ? "B" : "A"}${item.encrypted_content.slice(46)}`;
  await expect(read(alice, changed)).rejects.toMatchObject({ status: 400, param });
  await expect(server.clientOf(alice).responses.compact({ model: "m" })).rejects.toMatchObject({
    status: 400,
    param: "input",
  });
  const colour = { model: "m", input: "x", colour: 1 } as OpenAI.Responses.ResponseCompactParams;
  await expect(server.clientOf(alice).responses.compact(colour)).rejects.toMatchObject({
    status: 400,
    param: "colour",
  });
});
