import fc from "fast-check";
import { expect, test } from "vitest";
import { CleanConfig, Cleaner, stripMarkdown } from "./clean.ts";

const clean = (text: string, config: object = {}) => new Cleaner(CleanConfig.parse(config)).clean(text);

test.each([
  ["line ends", "a\r\nb\rc\u2028d\fe", "a\nb\nc\nd\ne"],
  ["byte-order marks and control characters, not tabs", "\ufeffa\0\x07\tb\x7fc\x9b", "a\tbc"],
  ["a lone surrogate", "a\ud800b", "a\ufffdb"],
  ["decomposed letters", "e\u0301", "é"],
  ["trailing space and blank edges", "\n\n a  \nb\t\n\n", "a\nb"],
  ["runs of blank lines", "a\n\n\n\nb\n\nc\n \n\t\n \nd\ne", "a\n\nb\n\nc\n\nd\ne"],
])("cleans %s", (_, dirty, want) => expect(clean(dirty)).toBe(want));

test("options are obeyed", () => {
  expect(clean("e\u0301", { unicode: "none" })).toBe("e\u0301");
  expect(clean("a\n\n\n\nb", { maxBlankLines: 0 })).toBe("a\nb");
  expect(clean("a\n\n\n\nb", { maxBlankLines: 2 })).toBe("a\n\n\nb");
  expect(clean(" a ", { trimSpace: false })).toBe(" a ");
  expect(clean("## a", { markdown: "strip" })).toBe("a");
  expect(clean("## a")).toBe("## a");
  expect(() => CleanConfig.parse({ dedupe: true })).toThrow();
});

test("short documents and exact duplicates are dropped, and everything is counted", () => {
  const cleaner = new Cleaner(CleanConfig.parse({ minChars: 3 }));
  const out = ["one two", "one two\r\n", "x ", "  one  two", "thr\0ee"].map((text) => cleaner.clean(text));
  expect(out).toEqual(["one two", undefined, undefined, "one  two", "three"]);
  expect(cleaner.counts).toEqual({
    documents: 5,
    kept: 3,
    short: 1,
    duplicate: 1,
    charsIn: 34,
    charsOut: 20,
    changed: { lineEnds: 1, controls: 1, surrogates: 0, markdown: 0, unicode: 0, trailingSpace: 3, blankLines: 0 },
  });
});

test.each([
  ["#### CHAPTER I - A SMALL TOWN", "CHAPTER I - A SMALL TOWN"],
  ["##  CHAPTER I ##", "CHAPTER I"],
  ["_Translated by Horace B. Samuel_", "Translated by Horace B. Samuel"],
  ["of the __Korosko__.", "of the Korosko."],
  ['*"A MESSAGE RECEIVED FROM MARS."*', '"A MESSAGE RECEIVED FROM MARS."'],
  ["**THE END**", "THE END"],
  ["a\n---\nb\n* * *\nc", "a\n\nb\n\nc"],
  ["> quoted\n> twice", "quoted\ntwice"],
  ["[text](http://x.org) ![alt](a.png)", "text alt"],
  ["\\*not emphasis\\* 3 \\- 2 &amp; more", "*not emphasis* 3 - 2 & more"],
  ["snake_case_name 2 * 3 * 4 #tag - item", "snake_case_name 2 * 3 * 4 #tag - item"],
  ["* item\n- item\n| a | b |", "* item\n- item\n| a | b |"],
])("strips Markdown %j", (marked, plain) => expect(stripMarkdown(marked)).toBe(plain));

test("cleaning what is clean changes nothing", () => {
  const pieces = fc.constantFrom(
    "a",
    "B",
    " ",
    "\n",
    "\r",
    "\t",
    "é",
    "e\u0301",
    "\ud83d",
    "\ude00",
    "\0",
    "\ufeff",
    "#",
  );
  fc.assert(
    fc.property(fc.array(pieces, { maxLength: 40 }), (parts) => {
      const once = clean(parts.join("")) ?? "";
      expect(clean(once) ?? "").toBe(once);
      expect(Buffer.from(once, "utf8").toString("utf8")).toBe(once);
    }),
  );
});
