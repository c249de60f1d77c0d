/** `pattern` (ECMA-262 with the `u` flag) as a regular language over the bytes of a JSON string's inside.
 *
 *  As JSON Schema asks, a pattern matches anywhere unless anchored. What is not regular, or would need the text around a
 *  position (back-references, look-around, `\b`, anchors in the middle), throws `Unsupported`. */
import { alt, cat, empty, type Re, repeat } from "./dfa.ts";
import { ALL, complement, type Interval, written } from "./text.ts";

export class Unsupported extends Error {}

const DIGIT: Interval[] = [[0x30, 0x39]];
const WORD: Interval[] = [...DIGIT, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]];
const SPACE: Interval[] = [0x20, 0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0xfeff].map((c) => [c, c]);
SPACE.push([9, 13], [0x2000, 0x200a]);
const NEWLINE: Interval[] = [
  [10, 10],
  [13, 13],
  [0x2028, 0x2029],
];
const CONTROL: Record<string, number> = { t: 9, n: 10, v: 11, f: 12, r: 13, "0": 0 };
const MAX_REPEAT = 1000;
const MAX_PATTERN = 2000;

export interface PatternOptions {
  /** How code points become bytes. Default: as `JSON.stringify` writes them within a string. */
  spell?: (intervals: readonly Interval[]) => Re;
  /** The pattern is all of the text, with anchors or without. */
  whole?: boolean;
}

/** The texts in which `pattern` is found. Throws `Unsupported`. */
export function patternRe(pattern: string, options: PatternOptions = {}): Re {
  if (pattern.length > MAX_PATTERN) throw new Unsupported(`a pattern of more than ${MAX_PATTERN} characters`);
  try {
    new RegExp(pattern, "u");
  } catch (cause) {
    throw new Unsupported(`not a regular expression: ${cause instanceof Error ? cause.message : cause}`);
  }
  return new Parser(pattern, options).whole();
}

class Parser {
  #chars: string[];
  #at = 0;
  #depth = 0;
  readonly #spell: (intervals: readonly Interval[]) => Re;
  /** What may stand before and after what is found. */
  readonly #around: Re;

  constructor(pattern: string, { spell = written, whole = false }: PatternOptions) {
    this.#chars = [...pattern];
    this.#spell = spell;
    this.#around = whole ? empty : repeat(spell(ALL), 0);
  }

  whole(): Re {
    return this.#alternatives(true);
  }

  #peek(ahead = 0): string | undefined {
    return this.#chars[this.#at + ahead];
  }

  #eat(text: string): boolean {
    const chars = [...text];
    if (!chars.every((c, i) => this.#peek(i) === c)) return false;
    this.#at += chars.length;
    return true;
  }

  /** `edge`: this group spans the whole pattern, so its branches may be anchored, and are padded where they are not. */
  #alternatives(edge: boolean): Re {
    const branches: Re[] = [];
    do {
      branches.push(this.#branch(edge));
    } while (this.#eat("|"));
    return alt(...branches);
  }

  #branch(edge: boolean): Re {
    const parts: Re[] = [];
    const from = this.#at;
    let [start, end] = [false, false];
    while (this.#at < this.#chars.length && this.#peek() !== "|" && this.#peek() !== ")") {
      const first = this.#at === from || (start && parts.length === 0);
      if (this.#eat("^")) {
        if (!edge || !first) throw new Unsupported("“^” in the middle of a pattern");
        start = true;
      } else if (this.#eat("$")) {
        const next = this.#peek();
        if (!edge || (next !== undefined && next !== "|" && next !== ")")) {
          throw new Unsupported("“$” in the middle of a pattern");
        }
        end = true;
      } else if (edge && first && this.#spansBranch()) {
        // “^(a|b)$” is parsed as a plain group; “(^a|b$)” hands its anchors down.
        this.#open();
        const inner = this.#alternatives(!start);
        this.#close();
        if (!start) return inner;
        parts.push(inner);
      } else {
        parts.push(this.#quantified());
      }
    }
    if (!edge) return cat(...parts);
    return cat(start ? empty : this.#around, ...parts, end ? empty : this.#around);
  }

  /** Whether a group begins here and its closing bracket ends the branch. */
  #spansBranch(): boolean {
    if (this.#peek() !== "(") return false;
    let depth = 0;
    let inClass = false;
    for (let i = this.#at; i < this.#chars.length; i++) {
      const c = this.#chars[i];
      if (c === "\\") i++;
      else if (inClass) inClass = c !== "]";
      else if (c === "[") inClass = true;
      else if (c === "(") depth++;
      else if (c === ")" && --depth === 0) {
        const next = this.#chars[i + 1];
        return next === undefined || next === "|" || next === ")";
      }
    }
    return false;
  }

  #open(): void {
    this.#eat("(");
    if (++this.#depth > 50) throw new Unsupported("groups nested more than 50 deep");
    if (this.#eat("?:")) return;
    if (this.#peek() === "?" && this.#peek(1) === "<" && this.#peek(2) !== "=" && this.#peek(2) !== "!") {
      while (this.#peek() !== ">") this.#at++;
      this.#at++;
    } else if (this.#peek() === "?") throw new Unsupported("look-around and flags in a pattern");
  }

  #close(): void {
    this.#eat(")");
    this.#depth--;
  }

  #quantified(): Re {
    const atom = this.#atom();
    const [min, max] = this.#quantifier();
    this.#eat("?"); // lazy or greedy, the language is the same
    if (min > MAX_REPEAT || (max !== Infinity && max > MAX_REPEAT)) {
      throw new Unsupported(`a repetition of more than ${MAX_REPEAT}`);
    }
    return min === 1 && max === 1 ? atom : repeat(atom, min, max);
  }

  #quantifier(): [number, number] {
    if (this.#eat("*")) return [0, Infinity];
    if (this.#eat("+")) return [1, Infinity];
    if (this.#peek() === "?") {
      this.#at++;
      return [0, 1];
    }
    if (!this.#eat("{")) return [1, 1];
    let text = "";
    while (!this.#eat("}")) text += this.#chars[this.#at++];
    const [min, max] = text.split(",");
    return [Number(min), max === undefined ? Number(min) : max === "" ? Infinity : Number(max)];
  }

  #atom(): Re {
    if (this.#peek() === "(") {
      this.#open();
      const inner = this.#alternatives(false);
      this.#close();
      return inner;
    }
    if (this.#eat("[")) return this.#spell(this.#class());
    if (this.#eat(".")) return this.#spell(complement(NEWLINE));
    if (this.#peek() === "\\") return this.#spell(this.#escape(false));
    const c = this.#chars[this.#at++]!.codePointAt(0)!;
    return this.#spell([[c, c]]);
  }

  #class(): Interval[] {
    const negated = this.#eat("^");
    const out: Interval[] = [];
    while (!this.#eat("]")) {
      const from = this.#member();
      if (this.#peek() === "-" && this.#peek(1) !== "]") {
        this.#at++;
        out.push([from[0]![0], this.#member()[0]![0]]);
      } else out.push(...from);
    }
    return negated ? complement(out) : out;
  }

  #member(): Interval[] {
    if (this.#peek() === "\\") return this.#escape(true);
    const c = this.#chars[this.#at++]!.codePointAt(0)!;
    return [[c, c]];
  }

  #escape(inClass: boolean): Interval[] {
    this.#at++;
    const c = this.#chars[this.#at++]!;
    const one = (code: number): Interval[] => [[code, code]];
    switch (c) {
      case "d":
        return DIGIT;
      case "D":
        return complement(DIGIT);
      case "w":
        return WORD;
      case "W":
        return complement(WORD);
      case "s":
        return SPACE;
      case "S":
        return complement(SPACE);
      case "p":
      case "P": {
        let name = "";
        while (!name.endsWith("}")) name += this.#chars[this.#at++];
        return property(`\\${c}${name}`);
      }
      case "x":
        return one(this.#hex(2));
      case "u":
        return one(this.#unicode());
      case "c":
        return one(this.#chars[this.#at++]!.codePointAt(0)! % 32);
      case "b":
        if (inClass) return one(8);
        throw new Unsupported("“\\b” in a pattern");
    }
    if (c in CONTROL) return one(CONTROL[c]!);
    if (/[1-9kB]/.test(c)) throw new Unsupported(`“\\${c}” in a pattern`);
    return one(c.codePointAt(0)!);
  }

  #hex(n: number): number {
    const text = this.#chars.slice(this.#at, this.#at + n).join("");
    this.#at += n;
    return Number.parseInt(text, 16);
  }

  #unicode(): number {
    if (this.#eat("{")) {
      let text = "";
      while (!this.#eat("}")) text += this.#chars[this.#at++];
      return Number.parseInt(text, 16);
    }
    const first = this.#hex(4);
    if (first < 0xd800 || first > 0xdbff || this.#peek() !== "\\") return first;
    this.#at += 2;
    return 0x10000 + ((first - 0xd800) << 10) + (this.#hex(4) - 0xdc00);
  }
}

const properties = new Map<string, Interval[]>();

/** The code points of a Unicode property, as this JavaScript engine knows them. */
function property(text: string): Interval[] {
  const known = properties.get(text);
  if (known) return known;
  const test = new RegExp(text, "u");
  const out: [number, number][] = [];
  for (const [from, to] of ALL) {
    for (let c = from; c <= to; c++) {
      if (!test.test(String.fromCodePoint(c))) continue;
      const last = out.at(-1);
      if (last && last[1] === c - 1) last[1] = c;
      else out.push([c, c]);
    }
  }
  properties.set(text, out);
  return out;
}
