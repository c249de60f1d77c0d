import { expect, test } from "vitest";
import { encodeSegments, render, renderedText } from "../chat/index.ts";
import { Random } from "../common/index.ts";
import { k2Specials, Tokenizer } from "../tokenizer/index.ts";
import { K2CompletionsModel } from "./completions.ts";
import { complete } from "./model.ts";
import type { ChatRequest } from "./request.ts";
import { sse, startSse, upstream } from "./testing.ts";

/** One token a byte, and K2's special tokens. */
const tokenizer = new Tokenizer({
  tokens: Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  specials: k2Specials.map((token, i) => ({ ...token, id: 256 + i })),
});
const tools = [{ type: "function", function: { name: "add", parameters: { type: "object" } } }];
const request: ChatRequest = {
  messages: [{ role: "user", content: "é <|im_end|> </think> [EOS]" }],
  tools,
  sampling: { stop: ["END"], temperature: 0 },
  logprobs: 1,
};
const written =
  '<think>Hm.</think>Grüße<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a":1}<|tool_call_end|><|tool_calls_section_end|>';
const message = {
  role: "assistant",
  content: "Grüße",
  reasoning_content: "Hm.",
  tool_calls: [{ id: "functions.add:0", type: "function", function: { name: "add", arguments: '{"a":1}' } }],
};
const usage = { prompt_tokens: 5, completion_tokens: 6 };
const chunk = (choice: object) => ({ id: "c", model: "k2", choices: [{ index: 0, ...choice }] });
const open = (baseURL: string, withIds: boolean) =>
  new K2CompletionsModel({
    baseURL,
    model: "k2",
    template: "thinking",
    random: new Random(1),
    ...(withIds && { tokenizer }),
  });

test("as text: markers are spelled, and what users spell is broken", async () => {
  await using server = await upstream((r) => {
    const logprobs = { tokens: ["<think>"], token_logprobs: [-0.5], top_logprobs: [{ "<think>": -0.5, x: -2 }] };
    const pieces = [...written].map((text) => chunk({ text }));
    startSse(r).end(
      sse(
        chunk({ text: "", logprobs }),
        ...pieces,
        chunk({ text: "", finish_reason: "stop" }),
        { choices: [], usage },
        "[DONE]",
      ),
    );
  });
  using model = open(server.baseURL, false);
  const completion = await complete(model, request);
  expect(completion).toMatchObject({
    message,
    problems: [],
    finish: "tool_calls",
    usage: { promptTokens: 5, completionTokens: 6 },
  });
  expect(completion.tokens).toEqual([
    {
      text: "<think>",
      logprob: -0.5,
      top: [
        { text: "<think>", logprob: -0.5 },
        { text: "x", logprob: -2 },
      ],
    },
  ]);
  const [{ url, body }] = server.asked as [(typeof server.asked)[number]];
  const safe = {
    ...request,
    messages: [{ role: "user" as const, content: "é <\u2060|im_end|> <\u2060/think> [\u2060EOS]" }],
  };
  expect(body).toMatchObject({
    prompt: renderedText(render({ template: "thinking", messages: safe.messages, tools, addGenerationPrompt: true })),
    stop: ["END", "<|im_end|>"],
    temperature: 0,
    logprobs: 1,
    skip_special_tokens: false,
  });
  expect(url).toBe("/v1/completions");
  expect(body).not.toHaveProperty("stop_token_ids");
});

test("as ids: the prompt is exact, and ids are parsed where the upstream tells them", async () => {
  const ids = [...tokenizer.encode(written, { allowSpecial: true })];
  await using server = await upstream((r, _, i) => {
    const pieces = i
      ? [chunk({ text: written })]
      : ids.map((id, at) => chunk({ text: "\ufffd", token_ids: [id], ...(at === 0 && { prompt_token_ids: [1, 2] }) }));
    startSse(r).end(sse(...pieces, chunk({ text: "", finish_reason: "stop", stop_reason: 999 }), "[DONE]"));
  });
  using model = open(server.baseURL, true);
  const { stop: _, ...sampling } = request.sampling!;
  const first = await complete(model, { ...request, sampling });
  expect(first).toMatchObject({ message, finish: "tool_calls", start: { promptIds: [1, 2] } });
  expect(first.tokens.map(({ id }) => id)).toEqual(ids);
  expect(first.stop).toBeUndefined();
  expect(await complete(model, request)).toMatchObject({ message, finish: "tool_calls" });
  const segments = render({ template: "thinking", messages: request.messages, tools, addGenerationPrompt: true });
  expect(server.asked[0]!.body).toMatchObject({
    prompt: encodeSegments(segments, tokenizer).ids,
    stop: [],
    stop_token_ids: [tokenizer.special.get("<|im_end|>")],
    return_token_ids: true,
  });
});

test("a message that was cut says so, and its call stands", async () => {
  await using server = await upstream((r) => {
    const half = written.slice(0, written.indexOf("1}"));
    startSse(r).end(sse(chunk({ text: half }), chunk({ text: "", finish_reason: "length" }), "[DONE]"));
  });
  using model = open(server.baseURL, false);
  const { message, finish, problems } = await complete(model, request);
  expect([finish, message.tool_calls?.[0]?.function.arguments]).toEqual(["length", '{"a":']);
  expect(problems.map(({ code }) => code)).toEqual(["call-unclosed", "section-unclosed"]);
});

test("what it cannot honour is refused before anything is asked; none means no tools", async () => {
  await using server = await upstream((r) => startSse(r).end(sse(chunk({ text: "hi", finish_reason: "stop" }))));
  using model = open(server.baseURL, false);
  const refused: Partial<ChatRequest>[] = [
    { toolChoice: "required" },
    { toolChoice: { name: "add" } },
    { parallelToolCalls: false },
    { responseFormat: { type: "json_object" } },
  ];
  for (const field of refused) {
    const asking = complete(model, { ...request, ...field });
    await expect(asking).rejects.toThrow(new RegExp(`^${Object.keys(field)[0]} asked of`));
  }
  expect(server.asked.length).toBe(0);
  await complete(model, { ...request, toolChoice: "none" });
  expect(server.asked[0]!.body.prompt).not.toContain("tool_declare");
});
