/** Kimi K2's pre-tokenizer (spec §7.3) written out as a scanner over UTF-16 code units: what the regular expression
 *  `patterns.k2` matches, several times as fast. `pattern.test.ts` holds the two equal on random text.
 *
 *  The expression backtracks in two places only; there the scanner remembers the place to go back to. */

// What a character is to the pattern; several may hold at once (a mark is a letter of words and also punctuation).
const HAN = 1;
/** `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}--\p{Han}]`, the pattern's upper-case letters */
const UPPER = 2;
/** `[\p{Ll}\p{Lm}\p{Lo}\p{M}--\p{Han}]`, its lower-case letters */
const LOWER = 4;
const NUMBER = 8;
const SPACE = 16;
/** `\r` and `\n`; they are SPACE too */
const NEWLINE = 32;
/** `[^\s\p{L}\p{N}]` */
const MARK = 64;
/** `[^\r\n\p{L}\p{N}]`, what may stand before a word: MARK, and SPACE without NEWLINE */
const LEAD = 128;
/** two code units */
const WIDE = 256;

const expressions: [number, RegExp][] = [
  [HAN, /\p{sc=Han}/v],
  [UPPER, /[[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]--\p{sc=Han}]/v],
  [LOWER, /[[\p{Ll}\p{Lm}\p{Lo}\p{M}]--\p{sc=Han}]/v],
  [NUMBER, /\p{N}/v],
  [SPACE, /\p{White_Space}/v],
  [NEWLINE, /[\r\n]/v],
  [MARK, /[^\p{White_Space}\p{L}\p{N}]/v],
  [LEAD, /[^\r\n\p{L}\p{N}]/v],
];

/** What is a letter, number or mark since Unicode 17 only. tiktoken's tables are of Unicode 16, Node's of 17; ids must not
 *  hang on that, so these stay what they were, unassigned; and ʕ stays lower-case. */
export const after16 =
  /[\u{88f}\u{c5c}\u{cdc}\u{1acf}-\u{1add}\u{1ae0}-\u{1aeb}\u{a7ce}-\u{a7cf}\u{a7d2}\u{a7d4}\u{a7f1}\u{10940}-\u{10959}\u{10ec5}-\u{10ec7}\u{10efa}-\u{10efb}\u{11b60}-\u{11b67}\u{11db0}-\u{11ddb}\u{11de0}-\u{11de9}\u{16ea0}-\u{16eb8}\u{16ebb}-\u{16ed3}\u{16ff2}-\u{16ff6}\u{187f8}-\u{187ff}\u{18d09}-\u{18d1e}\u{18d80}-\u{18df2}\u{1e6c0}-\u{1e6de}\u{1e6e0}-\u{1e6f5}\u{1e6fe}-\u{1e6ff}\u{2b73a}-\u{2b73f}\u{2cea2}-\u{2cead}\u{323b0}-\u{33479}]/v;

/** Classes by code unit and, for the rest, by code point − 0x10000; 0 is not known yet. Surrogates stay 0 in the
 *  first, since only the pair tells. */
const narrow = new Uint8Array(0x10000);
let wide = new Uint8Array(0);

/** The class of the character at `i` where `narrow` has none; with WIDE for a pair. A lone surrogate is MARK and LEAD,
 *  as is U+FFFD, which it is encoded as. */
function classify(units: Uint16Array, i: number, end: number): number {
  const unit = units[i]!;
  const low = i + 1 < end ? units[i + 1]! : 0;
  if ((unit & 0xfc00) === 0xd800 && (low & 0xfc00) === 0xdc00) {
    if (!wide.length) wide = new Uint8Array(0x100000);
    const at = ((unit & 0x3ff) << 10) | (low & 0x3ff);
    return (wide[at] ||= flagsOf(String.fromCharCode(unit, low))) | WIDE;
  }
  if ((unit & 0xf800) === 0xd800) return MARK | LEAD;
  return (narrow[unit] = flagsOf(String.fromCharCode(unit)));
}

/** The classes of one character, by Unicode 16. */
export function flagsOf(character: string): number {
  if (after16.test(character)) return MARK | LEAD;
  if (character === "\u0295") return LOWER;
  let flags = 0;
  for (const [flag, expression] of expressions) if (expression.test(character)) flags |= flag;
  return flags;
}

const classAt = (units: Uint16Array, i: number, end: number): number =>
  i < end ? narrow[units[i]!] || classify(units, i, end) : 0;

/** The end of the piece that starts at `start` (`start < end`). */
export function nextPiece(units: Uint16Array, start: number, end: number): number {
  const first = classAt(units, start, end);
  const width = 1 + (first >> 8);
  let i = start;
  let c = first;
  // [\p{Han}]+
  if (c & HAN) return skip(units, start + width, end, HAN);
  // [^\r\n\p{L}\p{N}]?[upper]*[lower]+('s|…)?  with the lead first, then without
  if (c & LEAD) {
    const second = classAt(units, start + width, end);
    if (second & (UPPER | LOWER)) {
      const word = lowerWord(units, start + width, end);
      if (word) return contraction(units, word, end);
    }
  }
  if (c & (UPPER | LOWER)) {
    const word = lowerWord(units, start, end);
    if (word) return contraction(units, word, end);
  }
  // [^\r\n\p{L}\p{N}]?[upper]+[lower]*('s|…)?
  if (c & LEAD && classAt(units, start + width, end) & UPPER) {
    return contraction(units, upperWord(units, start + width, end), end);
  }
  if (c & UPPER) return contraction(units, upperWord(units, start, end), end);
  // \p{N}{1,3}
  if (c & NUMBER) {
    for (let n = 0; n < 3 && c & NUMBER; n++, c = classAt(units, i, end)) i += 1 + (c >> 8);
    return i;
  }
  //  ?[^\s\p{L}\p{N}]+[\r\n]*
  if (c & MARK || (units[start] === 32 && classAt(units, start + 1, end) & MARK)) {
    i = skip(units, start + width, end, MARK);
    while (i < end && (units[i] === 10 || units[i] === 13)) i++;
    return i;
  }
  // \s*[\r\n]+  |  \s+(?!\S)  |  \s+
  let line = 0;
  while (c & SPACE) {
    i++;
    if (c & NEWLINE) line = i;
    c = classAt(units, i, end);
  }
  if (line) return line;
  return i === end || i === start + 1 ? i : i - 1;
}

/** `[upper]*[lower]+` from `i`: its end, or 0. Upper-case takes all it can; if no lower-case letter follows, it gives
 *  back down to the last letter that is both (without case: other scripts, marks). */
function lowerWord(units: Uint16Array, i: number, end: number): number {
  let both = 0;
  let c = classAt(units, i, end);
  while (c & UPPER) {
    i += 1 + (c >> 8);
    if (c & LOWER) both = i;
    c = classAt(units, i, end);
  }
  return c & LOWER ? skip(units, i, end, LOWER) : both;
}

/** `[upper]+[lower]*` from `i`, where an upper-case letter is: its end. */
const upperWord = (units: Uint16Array, i: number, end: number): number =>
  skip(units, skip(units, i, end, UPPER), end, LOWER);

function skip(units: Uint16Array, i: number, end: number, flag: number): number {
  let c = classAt(units, i, end);
  while (c & flag) {
    i += 1 + (c >> 8);
    c = classAt(units, i, end);
  }
  return i;
}

/** `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` at `i`: its end, or `i`. ſ (U+017F) is an s. */
function contraction(units: Uint16Array, i: number, end: number): number {
  if (i + 1 >= end || units[i] !== 39) return i;
  const a = units[i + 1]! | 32;
  if (a === 115 || units[i + 1] === 0x17f || a === 116 || a === 109 || a === 100) return i + 2;
  const b = i + 2 < end ? units[i + 2]! | 32 : 0;
  return (a === 114 && b === 101) || (a === 118 && b === 101) || (a === 108 && b === 108) ? i + 3 : i;
}
