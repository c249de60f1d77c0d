import fc from "fast-check";
import { expect, test } from "vitest";
import { cat, compile, intersect, literal, matches, oneOf, range, repeat, TooLarge } from "./dfa.ts";
import { formats } from "./formats.ts";
import { integerDfa, numberDfa } from "./numbers.ts";
import { patternRe, Unsupported } from "./regex.ts";
import { anyText, plainText } from "./text.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const inside = (text: string) => bytes(JSON.stringify(text).slice(1, -1));

test("bounded numbers hold exactly the decimals in range", () => {
  const tenths = fc.integer({ min: -50_000, max: 50_000 }).map((n) => n / 100);
  fc.assert(
    fc.property(
      tenths,
      tenths,
      fc.boolean(),
      fc.boolean(),
      fc.array(tenths, { minLength: 20 }),
      (a, b, above, below, xs) => {
        const [min, max] = [Math.min(a, b), Math.max(a, b)];
        const numbers = numberDfa({ min, max, above, below });
        const integers = integerDfa({ min, max, above, below });
        for (const x of [...xs, min, max, Math.trunc(a)]) {
          if (Object.is(x, -0)) continue;
          const within = (above ? x > min : x >= min) && (below ? x < max : x <= max);
          expect([x, matches(numbers, bytes(String(x)))]).toEqual([x, within]);
          expect([x, matches(integers, bytes(String(x)))]).toEqual([x, within && Number.isInteger(x)]);
        }
      },
    ),
    { numRuns: 60 },
  );
});

test("one-sided bounds, multiples, and forms that are no JSON", () => {
  const from = numberDfa({ min: 2.5 });
  expect(["2.5", "2.50", "3", "99999", "2.49", "-3", "02.6", "2."].filter((x) => matches(from, bytes(x)))).toEqual([
    "2.5",
    "2.50",
    "3",
    "99999",
  ]);
  const sevens = integerDfa({ min: -21, max: 100 }, 7);
  const found = Array.from({ length: 200 }, (_, i) => i - 100).filter((n) => matches(sevens, bytes(String(n))));
  expect(found).toEqual(Array.from({ length: 18 }, (_, i) => (i - 3) * 7));
  const any = numberDfa({});
  expect(["-0", "1e5", "1E-7", "1.5e+289"].every((x) => matches(any, bytes(x)))).toBe(true);
  expect(["+1", "01", ".5", "1.", "1e", "1e300", "--1", "NaN"].some((x) => matches(any, bytes(x)))).toBe(false);
});

test("patterns agree with JavaScript's own engine", () => {
  const patterns = [
    "^a+$",
    "b",
    "^(foo|ba[rz])",
    "^[^x]*$",
    "(^a|b$)",
    "^\\S+@\\S+$",
    "^(a|b)*c{2,4}$",
    "^$",
    "o{0}",
    "[\\d\\-a]x?$",
    "^.é.$",
    "\\u0041|\\x62",
    "^(?:a|(?<n>b))+?$",
    "^(a|b)$",
    "^(a|b)|c$",
    "^\\p{Lu}",
  ];
  const text = fc.string({ unit: fc.constantFrom(...'abcxfoorzé@A1-\n" 😊'), maxLength: 6 });
  for (const pattern of patterns) {
    const dfa = compile(patternRe(pattern));
    const own = new RegExp(pattern, "u");
    fc.assert(
      fc.property(text, (s) => {
        expect([pattern, s, matches(dfa, inside(s))]).toEqual([pattern, s, own.test(s)]);
      }),
      { numRuns: 300 },
    );
  }
});

test("what is not regular or too large is refused, quickly", () => {
  for (const pattern of ["(a)\\1", "(?=a)b", "a\\b", "a^b", "a$b", "(", "a{1001}"]) {
    expect(() => patternRe(pattern), pattern).toThrow(Unsupported);
  }
  for (const pattern of ["^(([a-z]{100}){100}){100}$", "(a|b)*a(a|b){20}$"]) {
    expect(() => compile(patternRe(pattern)), pattern).toThrow(TooLarge);
  }
});

test("strings take every escape and only whole characters", () => {
  const good = ["", "é世😊", "\\u0041\\n\\/", "\\ud83d\\ude0a", "\u007f"];
  const bad = ["\\ud83d", "\\ude0a", "\\x", '"', "\n", "\\u12"];
  expect(good.filter((s) => !matches(anyText, bytes(s)))).toEqual([]);
  expect(bad.filter((s) => matches(anyText, bytes(s)))).toEqual([]);
  expect(
    [
      [0xc0, 0x80],
      [0xed, 0xa0, 0x80],
      [0xf4, 0x90, 0x80, 0x80],
      [0xe4, 0xb8],
    ].filter((b) => matches(anyText, b)),
  ).toEqual([]);
  fc.assert(fc.property(fc.string({ unit: "binary" }), (s) => matches(plainText, inside(s))));
});

test("formats: matches are valid, common values match", () => {
  const good: Record<string, string> = {
    date: "2024-02-29",
    time: "23:59:59.5Z",
    "date-time": "1999-12-31T00:00:00+01:00",
    duration: "P3Y6M4D",
    uuid: "2EB8AA08-aa98-11ea-b4aa-73b441d16380",
    ipv4: "255.0.10.1",
    ipv6: "::1",
    hostname: "a-b.example",
    email: "joe.bloggs@example.com",
  };
  const bad: Record<string, string> = {
    date: "2023-02-29",
    time: "24:00:00Z",
    "date-time": "1999-12-31 00:00:00Z",
    duration: "P",
    uuid: "2eb8aa08",
    ipv4: "256.1.1.1",
    ipv6: "1::2::3",
    hostname: "-a",
    email: "a@",
  };
  for (const [name, pattern] of Object.entries(formats)) {
    const dfa = compile(patternRe(pattern));
    expect([name, matches(dfa, inside(good[name]!)), matches(dfa, inside(bad[name]!))]).toEqual([name, true, false]);
  }
});

test("automata: intersection, finite sets, minimal size", () => {
  const even = compile(repeat(cat(range(0x61), range(0x61)), 0));
  const thirds = compile(repeat(literal("aaa"), 0));
  const both = intersect(even, thirds);
  expect([even.size, thirds.size, both.size]).toEqual([2, 3, 6]);
  expect([0, 2, 3, 6, 12].map((n) => matches(both, bytes("a".repeat(n))))).toEqual([true, false, false, true, true]);
  const set = oneOf(["ab", "abc", ""].map(bytes));
  expect(["", "a", "ab", "abc", "abcd"].map((w) => matches(set, bytes(w)))).toEqual([true, false, true, true, false]);
});
