import { Ajv2020 } from "ajv/dist/2020.js";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { compileTurn, type Json, type TurnOptions } from "./index.ts";
import { allowed, CONTROLS, smallVocabulary, walk } from "./testing.ts";

const vocabulary = smallVocabulary();
const end = ["<|im_end|>"];
const tools: { name: string; parameters: Json }[] = [
  {
    name: "get_weather",
    parameters: {
      type: "object",
      properties: { city: { type: "string" }, days: { type: "integer", minimum: 1, maximum: 9 } },
      required: ["city"],
      additionalProperties: false,
    },
  },
  { name: "get_time", parameters: { type: "object", properties: {} } },
  { name: "stop", parameters: { type: "object", additionalProperties: false } },
];
const nameOf = new Map([...vocabulary.special!].map(([name, id]) => [id, name]));
const ajv = new Ajv2020({ strict: false });

/** A turn as bytes with its control tokens spelled out; text bytes that look like them stay apart by a mark. */
const spelled = (ids: readonly number[]): string =>
  Buffer.concat(
    ids.map((id) => (nameOf.has(id) ? Buffer.from(`\u0001${nameOf.get(id)}\u0001`) : vocabulary.tokenBytes(id)!)),
  ).toString();

function run(options: TurnOptions, seed: number, maxTokens = 200): string {
  return spelled(walk(compileTurn(vocabulary, { end, ...options }).start({ maxTokens }), new Random(seed)));
}

const CALL =
  /\u0001<\|tool_call_begin\|>\u0001functions\.(\w+):(\d+)\u0001<\|tool_call_argument_begin\|>\u0001([^\u0001]*)\u0001<\|tool_call_end\|>\u0001/g;
const SECTION =
  /^\u0001<\|tool_calls_section_begin\|>\u0001(.*)\u0001<\|tool_calls_section_end\|>\u0001\u0001<\|im_end\|>\u0001$/s;

function calls(text: string): { name: string; index: number; args: Json }[] {
  const section = SECTION.exec(text);
  expect(section, text).not.toBeNull();
  expect(section![1]!.replaceAll(CALL, "")).toBe("");
  return [...section![1]!.matchAll(CALL)].map(([, name, index, args]) => ({
    name: name!,
    index: Number(index),
    args: JSON.parse(args!),
  }));
}

test("required: calls in K2's form, numbered on, arguments valid, within the budget", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 31 }), fc.integer({ min: 30, max: 120 }), (seed, maxTokens) => {
      const made = calls(run({ tools, toolChoice: "required", firstIndex: 3 }, seed, maxTokens));
      expect(made.length).toBeGreaterThan(0);
      made.forEach(({ name, index, args }, i) => {
        expect(index).toBe(3 + i);
        expect(ajv.validate(tools.find((tool) => tool.name === name)!.parameters as object, args)).toBe(true);
      });
    }),
    { numRuns: 60 },
  );
});

test("a named tool, and one call only", () => {
  for (let seed = 0; seed < 20; seed++) {
    const made = calls(run({ tools, toolChoice: { name: "stop" }, parallel: false }, seed));
    expect(made).toEqual([{ name: "stop", index: 0, args: {} }]);
  }
});

test("reasoning comes first and leaves room for the call", () => {
  for (let seed = 0; seed < 20; seed++) {
    const text = run({ tools, toolChoice: "required", reasoning: true }, seed, 60);
    const at = text.indexOf("\u0001</think>\u0001");
    expect(text.slice(0, at)).not.toContain("\u0001<|");
    expect(calls(text.slice(at + 10)).length).toBeGreaterThan(0);
  }
});

test("auto: free text, then at most one section; nothing after it", () => {
  const grammar = compileTurn(vocabulary, { tools, end });
  const matcher = grammar.start({ maxTokens: 100 });
  const id = (name: string) => vocabulary.special!.get(name)!;
  const open = () => CONTROLS.filter((name) => allowed(matcher.mask()).includes(id(name)));
  expect(open()).toEqual(["<|im_end|>", "<|tool_calls_section_begin|>"]);
  for (const byte of new TextEncoder().encode("Let me see: {")) matcher.accept(byte);
  expect(allowed(matcher.mask()).length).toBe(vocabulary.vocabSize - CONTROLS.length + 2);
  matcher.accept(id("<|tool_calls_section_begin|>"));
  expect([open(), allowed(matcher.mask()).length, matcher.canEnd]).toEqual([["<|tool_call_begin|>"], 1, false]);
  matcher.accept(id("<|tool_call_begin|>"));
  for (const byte of new TextEncoder().encode("functions.stop:0")) matcher.accept(byte);
  expect(open()).toEqual(["<|tool_call_argument_begin|>"]);
  matcher.accept(id("<|tool_call_argument_begin|>"));
  for (const byte of new TextEncoder().encode("{}")) matcher.accept(byte);
  expect(open()).toEqual(["<|tool_call_end|>"]);
  matcher.accept(id("<|tool_call_end|>"));
  expect(open()).toEqual(["<|tool_calls_section_end|>", "<|tool_call_begin|>"]);
  matcher.accept(id("<|tool_calls_section_end|>"));
  expect([open(), allowed(matcher.mask()).length]).toEqual([["<|im_end|>"], 1]);
});

test("free text may be cut by the budget, a section may not begin too late", () => {
  const grammar = compileTurn(vocabulary, { tools, end });
  const matcher = grammar.start({ maxTokens: 12 });
  const section = vocabulary.special!.get("<|tool_calls_section_begin|>")!;
  let late = 0;
  for (let i = 0; i < 12; i++) {
    late = allowed(matcher.mask()).includes(section) ? i : late;
    matcher.accept(0x61);
  }
  expect([late, matcher.canEnd, matcher.finished, allowed(matcher.mask())]).toEqual([0, true, false, []]);
});

test("what must come next is known without the model", () => {
  const grammar = compileTurn(vocabulary, { tools, toolChoice: { name: "stop" }, parallel: false, end });
  const matcher = grammar.start();
  const names = () => matcher.forced().map((id) => nameOf.get(id));
  expect(names()).toEqual(["<|tool_calls_section_begin|>", "<|tool_call_begin|>"]);
  for (const id of matcher.forced()) matcher.accept(id);
  for (const byte of new TextEncoder().encode("functions.stop:0")) matcher.accept(byte);
  matcher.accept(vocabulary.special!.get("<|tool_call_argument_begin|>")!);
  for (const byte of new TextEncoder().encode("{}")) matcher.accept(byte);
  expect(names()).toEqual(["<|tool_call_end|>", "<|tool_calls_section_end|>", "<|im_end|>"]);
});

test("none: text without sections; JSON mode: one object; JSON or calls", () => {
  const start = (options: TurnOptions) => compileTurn(vocabulary, { end, ...options }).start();
  const section = vocabulary.special!.get("<|tool_calls_section_begin|>")!;
  expect(allowed(start({ tools, toolChoice: "none" }).mask())).not.toContain(section);
  expect(
    allowed(start({ format: "json_object" }).mask()).map((id) => String.fromCharCode(vocabulary.tokenBytes(id)![0]!)),
  ).toEqual(["{", "{", "{"]);
  expect(allowed(start({ tools, format: { schema: { type: "null" } } }).mask())).toContain(section);
  for (let seed = 0; seed < 10; seed++) {
    const text = run({ format: "json_object", whitespace: 1 }, seed, 40).replace("\u0001<|im_end|>\u0001", "");
    expect(typeof JSON.parse(text)).toBe("object");
  }
});

test("wrong requests", () => {
  expect(() => compileTurn(vocabulary, { toolChoice: "required" })).toThrow(/without tools/);
  expect(() => compileTurn(vocabulary, { tools, toolChoice: { name: "nope" } })).toThrow(/no tool “nope”/);
  const odd = [{ name: "f", parameters: { type: "object", properties: { a: { not: {} } } } }];
  expect(() => compileTurn(vocabulary, { tools: odd })).toThrow(/tool f: #\/properties\/a\/not/);
  expect(() => compileTurn({ ...vocabulary, special: new Map() }, { tools })).toThrow(/tool_calls_section_begin/);
  expect(() => compileTurn(vocabulary, { tools, toolChoice: "required", end }).start({ maxTokens: 8 })).toThrow(
    /at least \d+ tokens/,
  );
});
