import fc from "fast-check";
import { Tiktoken } from "tiktoken";
import { expect, test } from "vitest";
import { match, patterns, splitter, toRegExp } from "./pattern.ts";
import { after16, flagsOf } from "./scanner.ts";

/** Kimi K2's pattern for JavaScript, written by hand (spec §7.3): the oracle of both translation and scanner. */
const upper = "[[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]--\\p{sc=Han}]";
const lower = "[[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]--\\p{sc=Han}]";
const tail = "(?:'[sSſ]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?";
const k2 = new RegExp(
  [
    "\\p{sc=Han}+",
    `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${tail}`,
    `[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${tail}`,
    "\\p{N}{1,3}",
    " ?[^\\p{White_Space}\\p{L}\\p{N}]+[\\r\\n]*",
    "\\p{White_Space}*[\\r\\n]+",
    "\\p{White_Space}+(?!\\P{White_Space})",
    "\\p{White_Space}+",
  ].join("|"),
  "vy",
);

function pieces(cut: (text: string, units: Uint16Array, piece: (a: number, b: number) => void) => void, text: string) {
  const found: string[] = [];
  const units = Uint16Array.from({ length: text.length }, (_, i) => text.charCodeAt(i));
  cut(text, units, (start, end) => found.push(text.slice(start, end)));
  return found;
}
const byHand = (text: string) => pieces((text, _, piece) => match(k2, text, piece), text);
const scanned = (text: string) => pieces(splitter("k2").split, text);
const translated = (text: string) => pieces((text, _, piece) => match(toRegExp(patterns.k2), text, piece), text);

/** All sorts of characters that the pattern tells apart, mixed thickly; lone surrogates and any code unit too. */
const characters = fc.oneof(
  fc.constantFrom(
    ..."aZßǅʰªſÀ\u0301\u0e31中〇々〡⺀𠀀あア한אᏣꭰ٣²Ⅷ😀\u{1f1e9}_'’.-$€ \t\n\r\v\f\u0085\u00a0\u2028\u3000\ufeff\u200b\0\x1c𝐀𝐚𝟗𞤀𞤢",
  ),
  fc.constantFrom("'s", "'S", "'ſ", "'LL", "'rE", "'Ve", "'m", "'D", "'t", "\r\n", "   ", "\ud800", "\udc00"),
  fc.string({ unit: "binary", minLength: 1, maxLength: 2 }),
  fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)),
);
const texts = fc
  .array(characters, { maxLength: 30 })
  .map((parts) => parts.join(""))
  .filter((text) => !after16.test(text) && !text.includes("\u0295")); // there the scanner keeps to Unicode 16

test("the scanner and the translated expression cut as the expression written by hand", () => {
  fc.assert(
    fc.property(texts, (text) => {
      const want = byHand(text);
      expect(want.join("")).toBe(text);
      expect(scanned(text)).toEqual(want);
      expect(translated(text)).toEqual(want);
    }),
    { numRuns: 20_000 },
  );
});

test("every character has the classes that tiktoken gives it, whatever Node's Unicode version", () => {
  const everything: string[] = [];
  for (let code = 0; code < 0x110000; code++)
    if (code < 0xd800 || code > 0xdfff) everything.push(String.fromCodePoint(code));
  const flags = everything.map(flagsOf);
  const bytes = Array.from({ length: 256 }, (_, byte) => Buffer.of(byte).toString("base64")).join(" ");
  const expressions = [
    "\\p{Han}",
    "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]",
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]",
    "\\p{N}",
    "\\s",
    "[\\r\\n]",
    "[^\\s\\p{L}\\p{N}]",
    "[^\\r\\n\\p{L}\\p{N}]",
  ];
  for (const [i, expression] of expressions.entries()) {
    const oracle = new Tiktoken(`! 0 ${bytes}`, {}, expression); // gives the bytes that the expression matches
    const matched = Buffer.from(oracle.encode(everything.join(""), [], [])).toString();
    const ours = everything.filter((_, at) => flags[at]! & (1 << i)).join("");
    expect(ours === matched, expression).toBe(true);
    oracle.free();
  }
});

test("words, numbers, contractions, spaces as each named pattern cuts them", () => {
  const text = "Don't PANIC'll 12345 naïve汉字!!\r\n\n  x";
  const cut = (name: string) => pieces(splitter(name).split, text);
  expect(cut("k2")).toEqual(["Don't", " PANIC'll", " ", "123", "45", " naïve", "汉字", "!!\r\n\n", " ", " x"]);
  expect(cut("cl100k")).toEqual(["Don", "'t", " PANIC", "'ll", " ", "123", "45", " naïve汉字", "!!\r\n\n", " ", " x"]);
  expect(cut("qwen").slice(4, 10)).toEqual([" ", "1", "2", "3", "4", "5"]);
  expect(cut("gpt2")).toEqual(["Don", "'t", " PANIC", "'ll", " 12345", " naïve汉字", "!!", "\r\n\n ", " x"]);
});

test("what a pattern does not match is a piece of its own", () => {
  const letters = (text: string) => pieces(splitter("[a-z]+").split, text);
  expect(letters("ab12😀cd.")).toEqual(["ab", "12😀", "cd", "."]);
  expect(letters("12")).toEqual(["12"]);
});

test("notation: sets, escapes, white space, scripts", () => {
  const cut = (pattern: string, text: string) => pieces(splitter(pattern).split, text);
  expect(cut("[(){}|/]+", "a(){}|/b")).toEqual(["a", "(){}|/", "b"]);
  expect(cut("[\\s\\-_]+|[^\\s\\-_]+", "a -_\u0085b")).toEqual(["a", " -_\u0085", "b"]);
  expect(cut("\\'\\d+\\ ", "'12 x")).toEqual(["'12 ", "x"]);
  expect(cut("[\\w&&[^a]]+", "abca")).toEqual(["a", "bc", "a"]);
  expect(cut("\\p{Hangul}+|\\P{Hangul}+", "한a")).toEqual(["한", "a"]);
});

test("patterns that cannot be used are errors that say why", () => {
  expect(() => splitter("k3")).toThrow("did you mean 'k2'?");
  expect(() => splitter("(a")).toThrow("cannot be used");
  expect(() => splitter("\\p{L}++|.")).toThrow("possessive");
  expect(() => splitter("\\p{Klingon}+")).toThrow("cannot be used");
});
