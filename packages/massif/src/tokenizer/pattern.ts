/** Pre-tokenizer patterns: regular expressions that cut text into the pieces within which byte pairs merge. They are
 *  kept as tiktoken and Hugging Face write them (Rust, Oniguruma), and translated for JavaScript. */
import { MassifError, nearest } from "../common/index.ts";
import { nextPiece } from "./scanner.ts";

const k2Letters = (cased: string) => `[${cased}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]`;
const k2Upper = k2Letters("\\p{Lu}\\p{Lt}");
const k2Lower = k2Letters("\\p{Ll}");
const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/** By name, in their own notation: Kimi K2 (spec §7.3), GPT-2 (the ByteLevel of Hugging Face), GPT-4, Qwen. */
export const patterns = {
  k2: [
    "[\\p{Han}]+",
    `[^\\r\\n\\p{L}\\p{N}]?${k2Upper}*${k2Lower}+${contractions}?`,
    `[^\\r\\n\\p{L}\\p{N}]?${k2Upper}+${k2Lower}*${contractions}?`,
    "\\p{N}{1,3}",
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*",
    "\\s*[\\r\\n]+",
    "\\s+(?!\\S)",
    "\\s+",
  ].join("|"),
  gpt2: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  cl100k: `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  qwen: `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
} as const;

export type PatternName = keyof typeof patterns;

/** Cuts text into pieces. */
export interface Splitter {
  /** The pattern in its own notation, as the files keep it. */
  readonly pattern: string;
  /** True for Kimi K2's pattern, whose encoder also cuts very long texts and runs (spec §7.4). */
  readonly k2: boolean;
  /** Calls `piece(start, end)` for each piece of `text`, in order and without gaps (what the pattern does not match is a
   *  piece too); `units` holds the code units of `text`. */
  split(text: string, units: Uint16Array, piece: (start: number, end: number) => void): void;
}

/** A splitter for a named pattern or a pattern in Rust's or Oniguruma's notation. Throws `tokenizer.pattern`. */
export function splitter(nameOrPattern: PatternName | (string & {}) = "k2"): Splitter {
  const pattern = Object.hasOwn(patterns, nameOrPattern) ? patterns[nameOrPattern as PatternName] : nameOrPattern;
  if (pattern === patterns.k2) return { pattern, k2: true, split: scan };
  const expression = toRegExp(pattern);
  return { pattern, k2: false, split: (text, _units, piece) => match(expression, text, piece) };
}

function scan(text: string, units: Uint16Array, piece: (start: number, end: number) => void): void {
  const end = text.length;
  for (let start = 0; start < end; ) {
    const next = nextPiece(units, start, end);
    piece(start, next);
    start = next;
  }
}

/** The pieces a sticky expression matches; from a place where it matches nothing, the next match is looked for. */
export function match(expression: RegExp, text: string, piece: (start: number, end: number) => void): void {
  for (let start = 0; start < text.length; ) {
    expression.lastIndex = start;
    if (expression.test(text) && expression.lastIndex > start) {
      piece(start, (start = expression.lastIndex));
      continue;
    }
    let gap = start;
    do {
      gap += text.codePointAt(gap)! > 0xffff ? 2 : 1;
      expression.lastIndex = gap;
    } while (gap < text.length && !(expression.test(text) && expression.lastIndex > gap));
    piece(start, (start = gap));
  }
}

const inClass: Record<string, string> = {
  "\\s": "\\p{White_Space}",
  "\\S": "\\P{White_Space}",
  "\\d": "\\p{Nd}",
  "\\D": "\\P{Nd}",
  "\\w": "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]",
  "\\W": "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]",
};
/** A pattern in Rust's or Oniguruma's notation as a sticky JavaScript expression: white space as Unicode has it
 *  (JavaScript's `\s` lacks U+0085 and has U+FEFF), `&&` between sets, scripts by bare name. Throws `tokenizer.pattern`
 *  for what JavaScript cannot say. */
export function toRegExp(original: string): RegExp {
  const pattern = spellCases(original);
  if (/^\w+$/.test(pattern)) {
    const like = nearest(pattern, Object.keys(patterns));
    throw new MassifError("tokenizer.pattern", {
      found: `there is no pattern named '${pattern}'`,
      expected: `one of ${Object.keys(patterns).join(", ")}, or a regular expression`,
      fix: like && `did you mean '${like}'?`,
    });
  }
  let source = "";
  let depth = 0;
  const tokens = pattern.matchAll(/\\[pP]\{\^?[^}]*\}|\\.|\[\^?|\]|&&|./gsu);
  // The `&&` of Rust joins whole unions, that of JavaScript single operands: each side becomes a set of its own.
  const joins = joinsOf(pattern);
  const joined: boolean[] = [];
  for (const [token] of tokens) {
    if (token in inClass) source += inClass[token];
    else if (/^\\[pP]/.test(token)) source += property(token);
    else if (token.startsWith("[")) {
      depth++;
      joined.push(joins.shift()!);
      source += token + (joined.at(-1) ? "[" : "");
    } else if (token === "]" && depth > 0) {
      depth--;
      source += joined.pop() ? "]]" : "]";
    } else if (token === "&&" && depth > 0) source += "]&&[";
    else if (depth > 0 && /^[(){}/|]$/.test(token)) source += `\\${token}`;
    else if (token === "." && depth === 0) source += "[^\\n]";
    else if (depth > 0 ? /^\\[ '"_]$/.test(token) : /^\\[ '"_#&%~!@:;<>=`,-]$/.test(token)) source += token[1];
    else source += token;
  }
  try {
    const bare = pattern.replace(/\\[pP]\{[^}]*\}|\\./g, "_").replace(/\[[^\]]*\]/g, "_");
    if (/[*+?}]\+/.test(bare)) throw new Error("possessive quantifiers");
    return new RegExp(source, "vy");
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new MassifError("tokenizer.pattern", {
      found: `the pre-tokenizer pattern ${original} cannot be used: ${text}`,
      fix: "write it in what Rust's, Oniguruma's and JavaScript's expressions share",
      cause,
    });
  }
}

/** `(?i:…)` of plain letters with both cases spelled out (ſ is an s, K a k): V8 14 has such groups, but with one in an
 *  expression, sets elsewhere in it no longer match U+0345. */
function spellCases(pattern: string): string {
  const more: Record<string, string> = { s: "ſ", k: "\u212a" };
  return pattern.replace(/\(\?i:([a-z'|]*)\)/gi, (_, letters: string) => {
    const spelled = letters.replace(
      /[a-z]/gi,
      (c) => `[${c.toLowerCase()}${c.toUpperCase()}${more[c.toLowerCase()] ?? ""}]`,
    );
    return `(?:${spelled})`;
  });
}

/** For each set of a pattern, in the order they open: does an `&&` stand in it (not in a set within)? */
function joinsOf(pattern: string): boolean[] {
  const joins: boolean[] = [];
  const open: number[] = [];
  for (const [token] of pattern.matchAll(/\\.|\[|\]|&&|./gsu)) {
    if (token === "[") open.push(joins.push(false) - 1);
    else if (token === "]") open.pop();
    else if (token === "&&" && open.length) joins[open.at(-1)!] = true;
  }
  return joins;
}

/** `\p{…}` for JavaScript, which wants `sc=` before the name of a script. */
function property(token: string): string {
  const name = token.replace(/^\\[pP]\{?\^?|\}$/g, "");
  const sign = (token[1] === "P") !== token.includes("^") ? "P" : "p";
  try {
    new RegExp(`\\p{${name}}`, "v");
    return `\\${sign}{${name}}`;
  } catch {
    return `\\${sign}{sc=${name}}`;
  }
}
