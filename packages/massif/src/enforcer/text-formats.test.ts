/** Patterns, choices and grammars: every walk is a sentence, every sentence is a walk. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { compileTurn, type TextFormat } from "./index.ts";
import { smallVocabulary, walk } from "./testing.ts";

const vocabulary = smallVocabulary();
const end = ["<|im_end|>"];
const endId = vocabulary.special!.get("<|im_end|>")!;
const grammarOf = (format: TextFormat) => compileTurn(vocabulary, { format, end });
const said = (format: TextFormat, seed: number, maxTokens = 60): string => {
  const ids = walk(grammarOf(format).start({ maxTokens }), new Random(seed));
  expect(ids.at(-1)).toBe(endId);
  expect(ids.length).toBeLessThanOrEqual(maxTokens);
  return Buffer.concat(ids.slice(0, -1).map((id) => vocabulary.tokenBytes(id)!)).toString();
};
/** Whether a text is accepted byte by byte, to its end. */
const accepts = (format: TextFormat, text: string): boolean => {
  const matcher = grammarOf(format).start();
  try {
    for (const byte of Buffer.from(text)) matcher.accept(byte);
    return matcher.canEnd;
  } catch {
    return false;
  }
};
const seeds = fc.integer({ min: 0, max: 2 ** 31 });

test.each(["a|b+c", "^[0-9]{3}-\\d*$", "(é|世界){1,3}\\n?", "x?y?z?", '\\{"a": [^"]*\\}', ""])(
  "pattern %s",
  (regex) => {
    const whole = new RegExp(`^(?:${regex})$`, "u");
    fc.assert(
      fc.property(seeds, (seed) => {
        expect(said({ regex }, seed)).toMatch(whole);
      }),
      { numRuns: 40 },
    );
    const texts = ["", "a", "bbc", "ba", "123-", "123-45x", "é世界\n", "xz", "zx", '{"a": 1}', '{"a": "}', "世"];
    for (const text of texts) expect(accepts({ regex }, text), text).toBe(whole.test(text));
  },
);

test("a choice is one of its texts, a beginning of another too, within the smallest budget", () => {
  const choice = ["yes", "yes, surely", "no", "世界", ""];
  const found = new Set(Array.from({ length: 200 }, (_, seed) => said({ choice }, seed)));
  expect([...found].toSorted()).toEqual(choice.toSorted());
  expect(said({ choice: choice.slice(0, 4) }, 1, 2)).toBe("世界");
});

const sums = {
  ebnf: 'root ::= expr # sums\nexpr ::= term ("+" term)*\nterm ::= [0-9]+ | "(" expr ")"\n',
  left: 'root ::= expr\nexpr ::= expr "+" term | term\nterm ::= [0-9]{1,} | "(" expr ")"',
  lark: '?start: expr\nexpr: expr "+" term -> add\n    | term\nterm: INT | "(" expr ")" // nested\n%import common.INT',
};
test.each(Object.entries(sums))("sums with brackets, written as %s", (_, grammar) => {
  const isSum = (text: string): boolean => {
    let flat = text;
    for (let before = ""; before !== flat; ) {
      before = flat;
      flat = flat.replace(/\((\d+(?:\+\d+)*)\)/, "1");
    }
    return /^\d+(\+\d+)*$/.test(flat);
  };
  fc.assert(
    fc.property(seeds, (seed) => {
      const text = said({ grammar }, seed);
      expect(isSum(text), text).toBe(true);
    }),
    { numRuns: 60 },
  );
  for (const text of ["1", "12+3", "((1)+2)+(3)", "", "(", "1+", "(1", "1)", "+1", "()"])
    expect(accepts({ grammar }, text), text).toBe(isSum(text));
});

test("what the two notations can say", () => {
  const yes: [string, string[], string[]][] = [
    ['root ::= "a"? [x-z]{2} .', ["axy!", "zz世"], ["a!", "xy"]],
    ['root ::= a-b | "q" root "q"\na-b ::= "\\n" \'"\'', ['\n"', 'q\n"q'], ["qq"]],
    ['root ::= (("a" root) | "")', ["", "aaa"], ["b"]],
    ['root ::= x{2,3}\nx ::= "a" x | "b"', ["bb", "abb", "aabbab"], ["b", "bbbb"]],
    ['start: "a".."f"~2..3 ["!"]', ["ab", "fed!"], ["a", "abcd", "g"]],
  ];
  for (const [grammar, good, bad] of yes) {
    for (const text of good) expect(accepts({ grammar }, text), `${grammar} ${text}`).toBe(true);
    for (const text of bad) expect(accepts({ grammar }, text), `${grammar} ${text}`).toBe(false);
  }
  const lark =
    'start: KEY ":" WS_INLINE? value\nKEY.2: /[a-z]+/\nvalue: "yes"i\n  | SIGNED_NUMBER\n%import common.WS_INLINE\n%import common.SIGNED_NUMBER';
  for (const text of ["on: YeS", "x:-1.5e3"]) expect(accepts({ grammar: lark }, text), text).toBe(true);
  for (const text of [": yes", "x:no"]) expect(accepts({ grammar: lark }, text), text).toBe(false);
});

test.each([
  ['root ::= "a" other', /root names other/],
  ['first ::= "a"', /no first rule/],
  ['root ::= a\na ::= b "x" | "y"\nb ::= a "z"', /begin with itself/],
  ['root ::= "a" root', /no text ends/],
  ['root ::= ("a"', /line 1.*missing/],
  ["start: A\nA: /(?=x)/", /line 2.*look-around/],
  ["start: A\n%ignore A", /line 2.*directive/],
  ["nonsense", /line 1/],
])("%s is refused by name", (grammar, message) => {
  expect(() => grammarOf({ grammar })).toThrow(message);
});

test("beside tools: an answer in the format, or calls", () => {
  const tools = [{ name: "stop", parameters: { type: "object", additionalProperties: false } as const }];
  const grammar = compileTurn(vocabulary, { format: { regex: "ok|[0-9]+" }, tools, end });
  const kinds = new Set<string>();
  for (let seed = 0; seed < 60; seed++) {
    const ids = walk(grammar.start({ maxTokens: 60 }), new Random(seed));
    const called = ids[0] === vocabulary.special!.get("<|tool_calls_section_begin|>");
    kinds.add(called ? "call" : "text");
    if (!called)
      expect(Buffer.concat(ids.slice(0, -1).map((id) => vocabulary.tokenBytes(id)!)).toString()).toMatch(/^(ok|\d+)$/);
  }
  expect(kinds).toEqual(new Set(["call", "text"]));
});
