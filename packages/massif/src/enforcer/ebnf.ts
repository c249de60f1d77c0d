/** Grammars as people write them: EBNF as vLLM and llama.cpp read it (`root ::= "a" [0-9]+`), and what OpenAI's custom
 *  tools take of Lark (`start: "a" DIGIT+`). Terminals are read character by character: a text that Lark's lexer would cut
 *  otherwise is still a sentence. `%ignore` is refused. */
import { MassifError } from "../common/index.ts";
import { alt, cat, compile, optional, type Re, repeat, TooLarge } from "./dfa.ts";
import { patternRe, Unsupported } from "./regex.ts";
import type { Rules, Term } from "./rules.ts";
import { ALL, type Interval, raw } from "./text.ts";

type Expr = { re: Re } | { rule: string } | { cat: Expr[] } | { alt: Expr[] } | { of: Expr; min: number; max: number };

/** How code points become bytes: as they are, or as JSON writes them within a string. */
export type Spell = (intervals: readonly Interval[]) => Re;

const MAX_GRAMMAR = 20_000;
const MAX_REPEAT = 1000;

/** Lark's terminals that grammars import from `common`. */
const common: Record<string, string> = {
  ...{ DIGIT: "[0-9]", INT: "[0-9]+", SIGNED_INT: "[+-]?[0-9]+", HEXDIGIT: "[0-9a-fA-F]", WS_INLINE: "[ \\t]+" },
  ...{ DECIMAL: "[0-9]+\\.[0-9]*|\\.[0-9]+", LCASE_LETTER: "[a-z]", UCASE_LETTER: "[A-Z]", LETTER: "[A-Za-z]" },
  ...{ FLOAT: "([0-9]+\\.[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+", NEWLINE: "(\\r?\\n)+" },
  ...{ NUMBER: "([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?", WORD: "[A-Za-z]+", WS: "[ \\t\\f\\r\\n]+" },
  ...{ SIGNED_NUMBER: "[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]+)?", CR: "\\r", LF: "\\n" },
  ...{ CNAME: "[A-Za-z_][A-Za-z_0-9]*", ESCAPED_STRING: '"([^"\\\\\\n]|\\\\[^\\n])*"' },
};

/** Throws `schema.grammar` with the line. */
export function readGrammar(text: string, spell: Spell = raw): Rules {
  if (text.length > MAX_GRAMMAR) throw wrong(`more than ${MAX_GRAMMAR} characters`);
  return new Reader(text, spell).rules();
}

class Reader {
  readonly #text: string;
  readonly #spell: Spell;
  readonly #lark: boolean;
  readonly #rules: Rules;
  #at = 0;
  #depth = 0;

  constructor(text: string, spell: Spell) {
    this.#text = text;
    this.#spell = spell;
    this.#lark = !text.includes("::=");
    this.#rules = { start: this.#lark ? "start" : "root", of: new Map() };
  }

  rules(): Rules {
    for (this.#blank(true); this.#at < this.#text.length; this.#blank(true)) {
      if (this.#take(/%import\s+common\.(\w+)(?:\s*->\s*(\w+))?/y)) this.#import();
      else if (this.#take(/%/y)) throw this.#wrong("a directive other than %import common.NAME");
      else this.#rule();
    }
    return this.#rules;
  }

  #found: RegExpExecArray | undefined;
  #take(pattern: RegExp): boolean {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (!found) return false;
    this.#found = found;
    this.#at = pattern.lastIndex;
    return true;
  }

  /** White space and comments; those that end a line too where a rule may go on behind it. */
  #blank(lines: boolean): void {
    const comment = this.#lark ? /\/\/[^\n]*/y : /#[^\n]*/y;
    while (this.#take(lines ? /\s+/y : /[ \t]+/y) || this.#take(comment));
  }

  #import(): void {
    const [, name, alias] = this.#found!;
    const pattern = common[name!];
    if (pattern === undefined) throw this.#wrong(`common.${name}`);
    this.#define(alias ?? name!, { re: this.#pattern(pattern) });
  }

  #rule(): void {
    const head = this.#lark ? /[?!]*([A-Za-z_]\w*)(?:\.-?\d+)?[ \t]*:/y : /([A-Za-z_][\w-]*)\s*::=/y;
    if (!this.#take(head)) throw this.#wrong(JSON.stringify(this.#text.slice(this.#at, this.#at + 20)));
    const name = this.#found![1]!;
    if (this.#rules.of.has(name)) throw this.#wrong(`a second rule ${name}`);
    this.#define(name, this.#alternatives(false));
  }

  /** `inside`: of brackets, where lines do not matter. */
  #alternatives(inside: boolean): Expr {
    if (++this.#depth > 50) throw this.#wrong("brackets nested more than 50 deep");
    const branches = [this.#sequence(inside)];
    for (;;) {
      const here = this.#at;
      this.#blank(true);
      if (this.#take(/\|/y)) branches.push(this.#sequence(inside));
      else {
        if (!inside) this.#at = here;
        break;
      }
    }
    this.#depth--;
    if (branches.every((one) => "re" in one)) return { re: alt(...branches.map(({ re }) => re)) };
    return branches.length === 1 ? branches[0]! : { alt: branches };
  }

  #sequence(inside: boolean): Expr {
    const parts: Expr[] = [];
    for (;;) {
      const here = this.#at;
      this.#blank(true);
      // A line that begins another rule ends this one.
      const next = this.#lark ? /[?!]*\w+(?:\.-?\d+)?[ \t]*:|%/y : /[A-Za-z_][\w-]*\s*::=/y;
      next.lastIndex = this.#at;
      if (!inside && next.test(this.#text)) {
        this.#at = here;
        break;
      }
      if (this.#lark && this.#take(/->[ \t]*\w+/y)) continue;
      const part = this.#atom();
      if (!part) break;
      parts.push(this.#repeated(part));
    }
    if (parts.every((one) => "re" in one)) return { re: cat(...parts.map(({ re }) => re)) };
    return { cat: parts };
  }

  #atom(): Expr | undefined {
    if (this.#take(/\(/y)) return this.#bracket(")");
    if (this.#lark && this.#take(/\[/y)) return times(this.#bracket("]"), 0, 1);
    if (!this.#lark && this.#take(/\[(?:\\.|[^\]\\])+\]/sy)) return { re: this.#pattern(this.#found![0]) };
    if (!this.#lark && this.#take(/\./y)) return { re: this.#spell(ALL) };
    if (this.#take(/"((?:\\.|[^"\\\n])*)"(i?)/y) || (!this.#lark && this.#take(/'((?:\\.|[^'\\\n])*)'/y))) {
      const [, text, fold] = this.#found!;
      const from = this.#unescaped(text!);
      if (this.#lark && this.#take(/\s*\.\.\s*"((?:\\.|[^"\\\n])*)"/y)) {
        const [lo, hi] = [from, this.#unescaped(this.#found![1]!)].map((one) => one.codePointAt(0) ?? 0);
        return { re: this.#spell([[lo!, hi!]]) };
      }
      return { re: cat(...[...from].map((c) => this.#spell(fold ? cases(c) : cases(c).slice(0, 1)))) };
    }
    if (this.#lark && this.#take(/\/((?:\\.|[^/\\\n])+)\/([a-z]*)/y)) {
      const [, pattern, flags] = this.#found!;
      if (flags) throw this.#wrong(`flags “${flags}” of a pattern`);
      return { re: this.#pattern(pattern!) };
    }
    if (this.#take(this.#lark ? /[A-Za-z_]\w*/y : /[A-Za-z_][\w-]*/y)) return { rule: this.#found![0] };
    return undefined;
  }

  #bracket(close: string): Expr {
    const inner = this.#alternatives(true);
    this.#blank(true);
    if (this.#text[this.#at] !== close) throw this.#wrong(`“${close}” is missing`);
    this.#at++;
    return inner;
  }

  #repeated(part: Expr): Expr {
    let whole = part;
    while (this.#take(/([*+?])|\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?/y)) {
      const [, sign, low, comma, high, from, to] = this.#found!;
      const min = sign ? Number(sign === "+") : Number(low ?? from);
      const max = sign
        ? sign === "?"
          ? 1
          : Infinity
        : from
          ? Number(to ?? from)
          : comma
            ? Number(high || Infinity)
            : min;
      if (min > MAX_REPEAT || (max > MAX_REPEAT && max < Infinity) || max < min)
        throw this.#wrong(`a repetition of ${min} to ${max}`);
      whole = times(whole, min, max);
    }
    return whole;
  }

  #unescaped(text: string): string {
    return text.replace(/\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|(.))/gs, (_, x, u, big, c) =>
      c === undefined ? String.fromCodePoint(Number.parseInt(x ?? u ?? big, 16)) : (escapes[c] ?? c),
    );
  }

  #pattern(pattern: string): Re {
    try {
      return patternRe(pattern, { spell: this.#spell, whole: true });
    } catch (error) {
      if (error instanceof Unsupported) throw this.#wrong(error.message);
      throw error;
    }
  }

  /** Takes a rule up; what is nested in it becomes rules of its own. */
  #define(name: string, expr: Expr): void {
    this.#rules.of.set(name, []);
    let inner = 0;
    const rule = (alternatives: (own: string) => Term[][]): Term[] => {
      const own = `${name}#${++inner}`;
      this.#rules.of.set(own, alternatives(own));
      return [own];
    };
    const terms = (one: Expr): Term[] => {
      if ("re" in one) return [this.#compile(one.re)];
      if ("rule" in one) return [one.rule];
      if ("cat" in one) return one.cat.flatMap(terms);
      if ("alt" in one) return rule(() => one.alt.map(terms));
      const { of, min, max } = one;
      const item = terms(of);
      const first = Array.from({ length: min }, () => item).flat();
      if (max === Infinity) return [...first, ...rule((own) => [[], [...item, own]])];
      // Each is there only if the one before it is.
      let rest: Term[] = [];
      for (let i = min; i < max; i++) {
        const after = rest;
        rest = rule(() => [[], [...item, ...after]]);
      }
      return [...first, ...rest];
    };
    this.#rules.of.set(name, "alt" in expr ? expr.alt.map(terms) : [terms(expr)]);
  }

  #compile(re: Re) {
    try {
      return compile(re);
    } catch (error) {
      if (error instanceof TooLarge) throw this.#wrong(error.message);
      throw error;
    }
  }

  #wrong(what: string): MassifError {
    return wrong(`line ${this.#text.slice(0, this.#at).split("\n").length}: ${what}`);
  }
}

const escapes: Record<string, string> = { n: "\n", r: "\r", t: "\t", f: "\f", v: "\v", b: "\b" };

const times = (of: Expr, min: number, max: number): Expr =>
  "re" in of ? { re: max === 1 && min === 0 ? optional(of.re) : repeat(of.re, min, max) } : { of, min, max };

/** A character, and its other case. */
function cases(c: string): Interval[] {
  const codes = [...new Set([c, c.toLowerCase(), c.toUpperCase()].map((one) => one.codePointAt(0)!))];
  return codes.map((code) => [code, code]);
}

const wrong = (what: string) =>
  new MassifError("schema.grammar", {
    found: `the grammar, ${what}`,
    expected: "EBNF with a rule root, or Lark with a rule start",
  });
