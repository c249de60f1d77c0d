/** The inside of a JSON string as a regular language over bytes: UTF-8 without overlong forms or surrogates, and escapes.
 *
 *  Values may use every escape of RFC 8259, with surrogate pairs whole. Keys and patterns are matched in the one form
 *  that `JSON.stringify` writes, so that two spellings of a key are never two keys. */
import { alt, cat, compile, type Dfa, literal, type Re, range, repeat } from "./dfa.ts";

/** Code points [from, to], inclusive. */
export type Interval = readonly [from: number, to: number];

export const ALL: readonly Interval[] = [
  [0, 0xd7ff],
  [0xe000, 0x10ffff],
];

/** What is in neither list. */
export function complement(intervals: readonly Interval[]): Interval[] {
  const out: Interval[] = [];
  let at = 0;
  for (const [from, to] of [...intervals].sort((a, b) => a[0] - b[0])) {
    if (from > at) out.push([at, from - 1]);
    at = Math.max(at, to + 1);
  }
  if (at <= 0x10ffff) out.push([at, 0x10ffff]);
  return out;
}

export function intersection(a: readonly Interval[], b: readonly Interval[]): Interval[] {
  return a.flatMap(([p, q]) =>
    b.flatMap(([r, s]): Interval[] => (Math.max(p, r) <= Math.min(q, s) ? [[Math.max(p, r), Math.min(q, s)]] : [])),
  );
}

/** The code points of `intervals` as `JSON.stringify` writes them inside a string. */
export function written(intervals: readonly Interval[]): Re {
  const has = (c: number) => intervals.some(([from, to]) => from <= c && c <= to);
  const escapes: Re[] = [];
  for (const c of [0x22, 0x5c, ...Array(0x20).keys()]) {
    if (has(c)) escapes.push(literal(JSON.stringify(String.fromCharCode(c)).slice(1, -1)));
  }
  const raw = intersection(intervals, [
    [0x20, 0x21],
    [0x23, 0x5b],
    [0x5d, 0xd7ff],
    [0xe000, 0x10ffff],
  ]);
  return alt(...escapes, factored(raw.flatMap(utf8)));
}

/** The code points of `intervals` as UTF-8. */
export const raw = (intervals: readonly Interval[]): Re => factored(intersection(intervals, ALL).flatMap(utf8));

/** Byte ranges in sequence. */
type Sequence = Interval[];

/** Alternatives that begin with the same range share it: the classes of `\p{…}` have hundreds. */
function factored(sequences: Sequence[]): Re {
  const groups = new Map<string, { head: Interval; tails: Sequence[] }>();
  for (const [head, ...tail] of sequences) {
    if (!head) return cat();
    const group = groups.get(head.join()) ?? { head, tails: [] };
    group.tails.push(tail);
    groups.set(head.join(), group);
  }
  return alt(...[...groups.values()].map(({ head, tails }) => cat(range(...head), factored(tails))));
}

const LENGTHS: readonly Interval[] = [
  [0, 0x7f],
  [0x80, 0x7ff],
  [0x800, 0xffff],
  [0x10000, 0x10ffff],
];

/** UTF-8 of a range of code points. */
function utf8(interval: Interval): Sequence[] {
  return intersection([interval], LENGTHS).flatMap(([from, to]) => sequences(bytesOf(from), bytesOf(to)));
}

const bytesOf = (c: number): number[] => [...new TextEncoder().encode(String.fromCodePoint(c))];

/** Byte strings of one length between two that end a run of continuation bytes. */
function sequences(lo: number[], hi: number[]): Sequence[] {
  const [a, b] = [lo[0]!, hi[0]!];
  if (lo.length === 1) return [[[a, b]]];
  const [tailLo, tailHi] = [lo.slice(1), hi.slice(1)];
  const from = (head: Interval, tails: Sequence[]): Sequence[] => tails.map((tail) => [head, ...tail]);
  const lowest = tailLo.map(() => 0x80);
  const highest = tailLo.map(() => 0xbf);
  const all = (bytes: number[], each: number[]) => bytes.join() === each.join();
  if (a === b) return from([a, a], sequences(tailLo, tailHi));
  if (all(tailLo, lowest) && all(tailHi, highest)) return from([a, b], sequences(lowest, highest));
  return [
    ...from([a, a], sequences(tailLo, highest)),
    ...(a + 1 <= b - 1 ? from([a + 1, b - 1], sequences(lowest, highest)) : []),
    ...from([b, b], sequences(lowest, tailHi)),
  ];
}

const hex = alt(range(0x30, 0x39), range(0x41, 0x46), range(0x61, 0x66));
const either = (...chars: string[]) => alt(...chars.map(literal));
const digit = range(0x30, 0x39);
const high = cat(either("d", "D"), either("8", "9", "a", "A", "b", "B"), hex, hex);
const low = cat(either("d", "D"), either("c", "C", "d", "D", "e", "E", "f", "F"), hex, hex);
const basic = alt(
  cat(alt(digit, either("a", "A", "b", "B", "c", "C", "e", "E", "f", "F")), hex, hex, hex),
  cat(either("d", "D"), range(0x30, 0x37), hex, hex),
);
const anyChar = alt(
  written(ALL),
  cat(literal("\\"), either('"', "\\", "/", "b", "f", "n", "r", "t")),
  cat(literal("\\u"), alt(basic, cat(high, literal("\\u"), low))),
);

/** Any text. State 0, the only accepting one, is between two characters. */
export const anyText: Dfa = compile(repeat(anyChar, 0));
/** Any text, in the spelling of `JSON.stringify`. */
export const plainText: Dfa = compile(repeat(written(ALL), 0));
