import fc from "fast-check";
import { expect, test } from "vitest";
import {
  assemble,
  type ChatEvent,
  ChatParser,
  controls,
  encodeSegments,
  type FinishReason,
  mergeEvents,
  type ParserOptions,
  parse,
  readMessages,
  readTemplateName,
  render,
  textOf,
} from "./index.ts";
import { spelled } from "./markers.ts";
import { byteTokenizer, hasShared, kimiTokenizer, vectors } from "./testing.ts";

const tokenizer = byteTokenizer();
const idsOf = (text: string) => [...tokenizer.encode(text, { allowSpecial: true })];
const section = (...calls: string[]) => `<|tool_calls_section_begin|>${calls.join("")}<|tool_calls_section_end|>`;
const call = (id: string, args: string) =>
  `<|tool_call_begin|>${id}<|tool_call_argument_begin|>${args}<|tool_call_end|>`;
const end = "<|im_end|>";

/** One line an event, short enough to read in a table. */
function line(event: ChatEvent): string {
  if (event.type === "tool-call-begin") return `begin ${event.index} ${event.name} ${event.id}`;
  if (event.type === "tool-call-delta") return `delta ${event.index} ${event.arguments}`;
  if (event.type === "tool-call-end") return `end ${event.index}`;
  if (event.type === "problem") return `! ${event.code} ${event.text}`.trimEnd();
  return event.type === "finish" ? `finish ${event.reason}` : `${event.type} ${event.text}`;
}
/** The events of a text, which must be those of its ids. */
function read(text: string, options: ParserOptions = {}, reason?: FinishReason): string[] {
  const lines = parse(text, options, reason).map(line);
  expect(parse(idsOf(text), { ...options, tokenizer }, reason).map(line)).toEqual(lines);
  return lines;
}

test("reasoning, text, calls, end", () => {
  expect(
    read(
      `<think>hm</think>Let me look.${section(call("functions.get:0", '{"a": 1}'), call("functions.mcp.x-y:1", "{}"))}${end}`,
    ),
  ).toEqual([
    "reasoning hm",
    "text Let me look.",
    "begin 0 get functions.get:0",
    'delta 0 {"a": 1}',
    "end 0",
    "begin 1 mcp.x-y functions.mcp.x-y:1",
    "delta 1 {}",
    "end 1",
    "finish tool_calls",
  ]);
  expect(read(`Hello${end}`)).toEqual(["text Hello", "finish stop"]);
  expect(read("[EOS]")).toEqual(["finish stop"]);
});

const begun = ["begin 0 f functions.f:0", "delta 0 {}"];
test.each([
  [
    "a section ends reasoning",
    `<think>hm${section(call("functions.f:0", "{}"))}${end}`,
    ["reasoning hm", ...begun, "end 0", "finish tool_calls"],
  ],
  [
    "reasoning again after text",
    `<think>a</think>b<think>c</think>d${end}`,
    ["reasoning a", "text b", "reasoning c", "text d", "finish stop"],
  ],
  [
    "white space between markers is nothing",
    `${section("\n", call(" functions.f:0\n", "{}"), " ")}\n${end}`,
    [...begun, "end 0", "finish tool_calls"],
  ],
  [
    "text in and after the section",
    `a${section("b", call("functions.f:0", "{}"), "c")}d${end}`,
    [
      "text a",
      "! text-in-section b",
      ...begun,
      "end 0",
      "! text-in-section c",
      "! text-after-section d",
      "finish tool_calls",
    ],
  ],
  [
    "a second section",
    `${section(call("functions.f:0", "{}"))}${section(call("functions.f:1", "{}"))}${end}`,
    [...begun, "end 0", "! section-repeated", "begin 1 f functions.f:1", "delta 1 {}", "end 1", "finish tool_calls"],
  ],
  [
    "a call without a section",
    `x${call("functions.f:0", "{}")}${end}`,
    ["text x", "! section-missing", ...begun, "end 0", "! section-unclosed", "finish tool_calls"],
  ],
  [
    "no end of the call before the next",
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_calls_section_end|><|im_end|>",
    [
      ...begun,
      "! call-unclosed",
      "end 0",
      "begin 1 g functions.g:1",
      "delta 1 {}",
      "! call-unclosed",
      "end 1",
      "finish tool_calls",
    ],
  ],
  [
    "the end within arguments",
    `<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}${end}`,
    [...begun, "! call-unclosed", "end 0", "! section-unclosed", "finish tool_calls"],
  ],
  [
    "the end within an id",
    `<|tool_calls_section_begin|><|tool_call_begin|>functions.f${end}`,
    ["! call-unclosed functions.f", "! section-unclosed", "finish stop"],
  ],
  [
    "no argument marker",
    `${section("<|tool_call_begin|>functions.f:0<|tool_call_end|>")}${end}`,
    ["begin 0 f functions.f:0", "! arguments-missing", "delta 0 {}", "end 0", "finish tool_calls"],
  ],
  ["empty arguments", `${section(call("functions.f:0", ""))}${end}`, [...begun, "end 0", "finish tool_calls"]],
  [
    "arguments that are no JSON object",
    `${section(call("functions.f:0", '{"a":'), call("functions.f:1", "[1]"))}${end}`,
    [
      "begin 0 f functions.f:0",
      'delta 0 {"a":',
      "! arguments-invalid",
      "end 0",
      "begin 1 f functions.f:1",
      "delta 1 [1]",
      "! arguments-invalid",
      "end 1",
      "finish tool_calls",
    ],
  ],
  [
    "ids without prefix, counter or both",
    `${section(call("f:0", "{}"), call("functions.g", "{}"), call("h", "{}"))}${end}`,
    [
      "! bad-id f:0",
      "begin 0 f functions.f:0",
      "delta 0 {}",
      "end 0",
      "! bad-id functions.g",
      "begin 1 g functions.g:1",
      "delta 1 {}",
      "end 1",
      "! bad-id h",
      "begin 2 h functions.h:2",
      "delta 2 {}",
      "end 2",
      "finish tool_calls",
    ],
  ],
  [
    "an id twice",
    `${section(call("functions.f:0", "{}"), call("functions.f:0", "{}"))}${end}`,
    [
      ...begun,
      "end 0",
      "! repeated-id functions.f:0",
      "begin 1 f functions.f:1",
      "delta 1 {}",
      "end 1",
      "finish tool_calls",
    ],
  ],
  [
    "a call that names nothing",
    `${section(call("0", "{}"), call("", '{"a":1}'), call(":3", ""))}${end}`,
    ["! nameless-call 0{}", '! nameless-call {"a":1}', "! nameless-call :3", "finish stop"],
  ],
  [
    "nested and stray markers",
    `a<|tool_call_end|>b</think>c<|im_middle|>d${section(section(call("functions.f:0", "{<|tool_call_argument_begin|>}<think>")))}${end}`,
    [
      "text a",
      "! stray-marker tool_call_end",
      "text b",
      "! stray-marker /think",
      "text c",
      "! stray-marker im_middle",
      "text d",
      "! stray-marker tool_calls_section_begin",
      "begin 0 f functions.f:0",
      "delta 0 {",
      "! stray-marker tool_call_argument_begin",
      "delta 0 }",
      "! stray-marker think",
      "end 0",
      "! stray-marker tool_calls_section_end",
      "finish tool_calls",
    ],
  ],
  [
    "text after the end",
    `a${end}b${end}<think>c[EOS]`,
    ["text a", "! stray-marker think", "! text-after-end bc", "finish stop"],
  ],
  [
    "the header of another turn",
    "a<|im_user|>user<|im_middle|>b",
    ["text a", "! turn-unclosed", "! stray-marker im_middle", "! text-after-end userb", "finish stop"],
  ],
] as [string, string, string[]][])("%s", (_, text, lines) => {
  expect(read(text)).toEqual(lines);
});

test("where the stream just stops: the engine's word, or else length if it stopped inside of something", () => {
  const cut = "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{";
  const partial = ["begin 0 f functions.f:0", "delta 0 {", "! call-unclosed", "end 0", "! section-unclosed"];
  expect(read(cut)).toEqual([...partial, "finish length"]);
  expect(read(cut, {}, "stop")).toEqual([...partial, "finish tool_calls"]);
  expect(read("<think>a")).toEqual(["reasoning a", "finish length"]);
  expect(read("a")).toEqual(["text a", "finish stop"]);
  expect(read("a", {}, "length")).toEqual(["text a", "finish length"]);
  expect(read(`a${end}`, {}, "length")).toEqual(["text a", "finish stop"]);
  expect(read(section(call("functions.f:0", "{}")))).toEqual([...begun, "end 0", "finish tool_calls"]);
  expect(read("", {}, "tool_calls")).toEqual(["finish stop"]);
});

test("a bare counter means the single declared tool; repaired ids count on from the conversation's calls", () => {
  expect(read(`${section(call("0", "{}"), call("f", "{}"))}${end}`, { tools: ["f"], callCount: 4 })).toEqual([
    ...["! bad-id 0", "begin 0 f functions.f:4", "delta 0 {}", "end 0"],
    ...["! bad-id f", "begin 1 f functions.f:5", "delta 1 {}", "end 1", "finish tool_calls"],
  ]);
});

test("the singular that models misspell, in text", () => {
  const text = section(call("functions.f:0", "{}")).replaceAll("calls", "call");
  expect(parse(text).map(line)).toEqual([...begun, "end 0", "finish tool_calls"]);
});

test("in ids a marker is its token and nothing else; think tags are spelled where the tokenizer lacks them", () => {
  const said = "write <|im_end|> and <think>";
  expect(parse(tokenizer.encode(said), { tokenizer }).map(line)).toEqual([`text ${said}`, "finish stop"]);
  const plain = byteTokenizer(["<think>", "</think>"]);
  const ids = plain.encode("<think>a</think>b<|im_end|>", { allowSpecial: true });
  expect(parse(ids, { tokenizer: plain }).map(line)).toEqual(["reasoning a", "text b", "finish stop"]);
  const instruct = { tokenizer: plain, think: false };
  expect(parse(ids, instruct).map(line)).toEqual(["text <think>a</think>b", "finish stop"]);
  expect(parse("<think>a</think>b", { think: false }).map(line)).toEqual(["text <think>a</think>b", "finish stop"]);
});

test("characters over several tokens, half ones, and a byte order mark", () => {
  const parser = new ChatParser({ tokenizer });
  const deltas = [...Buffer.from("é😀")].map((byte) => parser.push([byte]).map(line));
  expect(deltas).toEqual([[], ["text é"], [], [], [], ["text 😀"]]);
  expect(parser.push([0xf0, 0x9f]).map(line)).toEqual([]);
  expect(parser.push(idsOf(end)).map(line)).toEqual(["text \ufffd"]);
  expect(parse("\ufeffa\ud83d", {}).map(line)).toEqual(["text \ufeffa\ufffd", "finish stop"]);
  expect(read("\ufeffa\ufeff")).toEqual(["text \ufeffa\ufeff", "finish stop"]);
});

test("arguments stream as they come, and a marker's first half is held back", () => {
  const parser = new ChatParser();
  const said = [
    "a <",
    "b <|tool_calls",
    "_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument",
    "_begin|>{",
    '"a"',
    ":1}<|tool_call_end|>",
  ];
  expect(said.map((text) => parser.push(text).map(line).join("; "))).toEqual([
    "text a ",
    "text <b ",
    "",
    "begin 0 f functions.f:0; delta 0 {",
    'delta 0 "a"',
    "delta 0 :1}; end 0",
  ]);
});

test("text where ids were announced is an error, and the other way round", () => {
  expect(() => new ChatParser({ tokenizer }).push("a")).toThrow(/text in a stream of token ids/);
  expect(() => new ChatParser().push([1])).toThrow(/token ids, and no tokenizer/);
});

// ── properties ──

/** Anything a damaged stream may hold: markers whole and broken, text, ids, arguments. */
const piece = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...Object.values(controls), "[EOS]", "[PAD]") },
  { weight: 3, arbitrary: fc.constantFrom("functions.f:0", "g:1", "0", "{}", '{"a":1}', " ", "\n", "é", "😀", "a") },
  fc.string({ unit: "binary", maxLength: 4 }),
);
const broken = fc.oneof(
  { weight: 3, arbitrary: piece },
  fc.constantFrom(...spelled.slice(0, 20)).chain((name) => fc.nat(name.length).map((n) => name.slice(0, n))),
  fc.constantFrom(...spelled.slice(0, 20)).chain((name) => fc.nat(name.length).map((n) => name.slice(n))),
  fc.constantFrom("<", "[", "<|", "\ud83d", "\ude00"),
);
const stream = fc.array(piece, { maxLength: 25 }).map((parts) => parts.join(""));
const damaged = fc.array(broken, { maxLength: 25 }).map((parts) => parts.join(""));
const cuts = fc.array(fc.nat(7), { minLength: 1, maxLength: 10 }).filter((sizes) => sizes.some((size) => size > 0));

/** The events of a stream cut into pieces of these sizes, over and over. */
function inPieces(whole: string | number[], sizes: number[], options: ParserOptions): ChatEvent[] {
  const parser = new ChatParser(options);
  const events: ChatEvent[] = [];
  for (let at = 0, i = 0; at < whole.length; at += sizes[i++ % sizes.length]!)
    events.push(...parser.push(whole.slice(at, at + sizes[i % sizes.length]!)));
  return mergeEvents([...events, ...parser.end()]);
}

test("the events are the same for every way of cutting the stream, in text and in ids", () => {
  fc.assert(
    fc.property(damaged, cuts, fc.boolean(), (text, sizes, think) => {
      expect(inPieces(text, sizes, { think })).toEqual(parse(text, { think }));
      const ids = idsOf(text);
      expect(inPieces(ids, sizes, { tokenizer, think })).toEqual(parse(ids, { tokenizer, think }));
    }),
    { numRuns: 2000 },
  );
});

test("ids and the text they spell give the same events", () => {
  fc.assert(
    fc.property(stream, (text) => {
      expect(parse(text)).toEqual(parse(idsOf(text), { tokenizer }));
    }),
    { numRuns: 2000 },
  );
});

/** Everything that a reader sees of a message. */
const shown = (events: ChatEvent[]): string[] => {
  const { message, problems } = assemble(events);
  const calls = message.tool_calls?.flatMap((c) => [c.id!, c.function.name, String(c.function.arguments)]) ?? [];
  return [textOf(message.content), message.reasoning_content ?? "", ...calls, ...problems.map((p) => p.text)];
};

test("no marker is ever shown, not even one put together from the halves around a dropped one", () => {
  expect(assemble(parse("a<|im_<|im_middle|>end|>b<thi<think>x</think>nk>")).message.content).toBe(
    "a<|im_ end|>b<thi nk>",
  );
  fc.assert(
    fc.property(damaged, (text) => {
      const parts = shown(parse(text));
      expect(spelled.filter((name) => parts.some((part) => part.includes(name)))).toEqual([]);
    }),
    { numRuns: 2000 },
  );
});

test("nothing is lost: every character of the text is in an event, and the events are in order", () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.oneof(
          piece.filter((p) => !/[\s:{}]|functions/.test(p)),
          fc.constant("functions.f:0"),
        ),
        { maxLength: 25 },
      ),
      (parts) => {
        const letters = (text: string) =>
          [...text]
            .filter((c) => /[a-z\u0100-\u{10ffff}]/u.test(c))
            .sort()
            .join("");
        const events = parse(idsOf(parts.join("")), { tokenizer });
        const kept = events.map((e) => {
          if (e.type === "tool-call-begin") return e.id;
          if (e.type === "tool-call-delta") return e.arguments;
          // What was wrong with an id is told beside the call that has it repaired.
          if (e.type === "problem") return /marker|bad-id|repeated-id/.test(e.code) ? "" : e.text;
          return "text" in e ? e.text : "";
        });
        const repaired = events.filter((e) => e.type === "problem" && e.code === "bad-id").length;
        const said = parts
          .filter((p) => !(Object.values(controls) as string[]).includes(p) && !p.startsWith("["))
          .join("");
        const open = events.map((e) => (e.type === "tool-call-begin" ? 1 : 0)).reduce((a: number, b) => a + b, 0);
        const ends = events.filter((e) => e.type === "tool-call-end").length;
        expect(ends).toBe(open);
        expect(events.findIndex((e) => e.type === "finish")).toBe(events.length - 1);
        if (!repaired) expect(letters(kept.join(""))).toBe(letters(said.toWellFormed()));
      },
    ),
    { numRuns: 1000 },
  );
});

const words = fc.string({ unit: "grapheme", maxLength: 12 });
const assistant = fc.record(
  {
    content: fc.oneof(words, fc.constantFrom("<|im_end|>", "a <think>", "\n\n")),
    reasoning_content: words.filter((s) => s !== ""),
    calls: fc.array(
      fc.record({ name: fc.constantFrom("f", "mcp.a-b", "查"), args: fc.dictionary(words, fc.jsonValue()) }),
      { maxLength: 3 },
    ),
  },
  { requiredKeys: ["content"] },
);

test("what is rendered is parsed to the same message", () => {
  fc.assert(
    fc.property(assistant, fc.nat(3), ({ content, reasoning_content, calls = [] }, before) => {
      const tool_calls = calls.map(({ name, args }, i) => ({
        id: `functions.${name}:${before + i}`,
        type: "function",
        function: { name, arguments: JSON.stringify(args) },
      }));
      const message = {
        role: "assistant",
        content,
        ...(reasoning_content && { reasoning_content }),
        ...(calls.length && { tool_calls }),
      };
      const { ids, sources } = encodeSegments(
        render({ template: "thinking", messages: readMessages([message]), keepReasoning: true }),
        tokenizer,
      );
      const parsed = assemble(
        parse(
          ids.filter((_, i) => sources[i] === "assistant"),
          { tokenizer },
        ),
      );
      expect(JSON.parse(JSON.stringify(parsed.message))).toEqual(message);
      expect([parsed.problems, parsed.finish]).toEqual([[], calls.length ? "tool_calls" : "stop"]);
    }),
  );
});

test.skipIf(!hasShared)("the assistant messages of the 300 vectors, through Kimi's own tokens and back", async () => {
  const kimi = await kimiTokenizer();
  let count = 0;
  for (const row of await vectors()) {
    const messages = readMessages(row.messages);
    const template = readTemplateName(row.template);
    const { ids, sources, messages: of } = encodeSegments(render({ template, messages, keepReasoning: true }), kimi);
    for (const [i, message] of messages.entries()) {
      if (message.role !== "assistant") continue;
      const parsed = assemble(
        parse(
          ids.filter((_, t) => of[t] === i && sources[t] === "assistant"),
          { tokenizer: kimi },
        ),
      );
      expect(parsed.problems).toEqual([]);
      expect(parsed.message.content).toBe(textOf(message.content));
      expect(parsed.message.reasoning_content ?? "").toBe(message.reasoning_content ?? "");
      expect(
        parsed.message.tool_calls?.map((c) => [c.id, c.function.name, JSON.parse(String(c.function.arguments))]),
      ).toEqual(
        message.tool_calls?.map(({ id, function: { name, arguments: a } }) => [
          id,
          name,
          typeof a === "string" ? JSON.parse(a) : a,
        ]),
      );
      count++;
    }
  }
  expect(count).toBe(793);
});
