/** Scalars of JSON Schema → nodes: strings, numbers, literals; and the two ways to refuse a schema. */
import { MassifError } from "../common/index.ts";
import { cat, compile, counted, type Dfa, intersect, literal, oneOf, TooLarge } from "./dfa.ts";
import { formats } from "./formats.ts";
import { type Node, none, struct } from "./node.ts";
import { type Bounds, integerDfa, numberDfa } from "./numbers.ts";
import { patternRe, Unsupported } from "./regex.ts";
import { plainText } from "./text.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type Dict = { [key: string]: Json };

export const isDict = (x: unknown): x is Dict => typeof x === "object" && x !== null && !Array.isArray(x);

/** The keywords that speak of one type. */
export const BY_TYPE: Record<string, string[]> = {
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  object: ["properties", "required", "additionalProperties"],
};
export const bytes = (text: string) => new TextEncoder().encode(text);

/** Strings: bounds alone stay a count, patterns and formats become an automaton. */
export function stringNode(schema: Dict, path: string): Node {
  const min = count(schema, "minLength", path) ?? 0;
  const max = count(schema, "maxLength", path) ?? Infinity;
  const patterns: [key: string, pattern: string][] = [];
  if (schema.pattern !== undefined) {
    if (typeof schema.pattern !== "string") throw invalid(`${path}/pattern`, "a pattern is a string");
    patterns.push(["pattern", schema.pattern]);
  }
  if (schema.format !== undefined) {
    const pattern = typeof schema.format === "string" ? formats[schema.format] : undefined;
    if (!pattern) throw unsupported(`${path}/format`, `the format ${JSON.stringify(schema.format)}`);
    patterns.push(["format", pattern]);
  }
  if (!patterns.length) return { kind: "text", min, max };
  const quoted = (inside: ReturnType<typeof patternRe>) => compile(cat(literal('"'), inside, literal('"')));
  let dfa: Dfa | undefined;
  for (const [key, pattern] of patterns) {
    dfa = small(`${path}/${key}`, () => {
      const one = quoted(patternRe(pattern));
      return dfa ? intersect(dfa, one) : one;
    });
  }
  if (min > 0 || max < Infinity) dfa = small(path, () => counted(dfa!, plainText, min, max));
  return { kind: "regular", dfa: dfa! };
}

/** Numbers and integers within their bounds. */
export function numberOf(schema: Dict, integer: boolean, path: string): Dfa {
  const value = (key: string): number | undefined => {
    const x = schema[key];
    if (x === undefined) return undefined;
    if (typeof x !== "number" || !Number.isFinite(x)) throw invalid(`${path}/${key}`, "a bound is a number");
    return x;
  };
  const bounds: Bounds = { min: value("minimum"), max: value("maximum") };
  const [above, below] = [value("exclusiveMinimum"), value("exclusiveMaximum")];
  if (above !== undefined && !(bounds.min !== undefined && bounds.min > above)) {
    Object.assign(bounds, { min: above, above: true });
  }
  if (below !== undefined && !(bounds.max !== undefined && bounds.max < below)) {
    Object.assign(bounds, { max: below, below: true });
  }
  const step = value("multipleOf");
  if (step === undefined) return small(path, () => (integer ? integerDfa(bounds) : numberDfa(bounds)));
  if (step <= 0) throw invalid(`${path}/multipleOf`, "a number above zero");
  if (!Number.isInteger(step) || step > 2000) {
    throw unsupported(`${path}/multipleOf`, "a step that is no whole number up to 2000");
  }
  return small(path, () => integerDfa(bounds, step));
}

export function count(schema: Dict, key: string, path: string): number | undefined {
  const x = schema[key];
  if (x === undefined) return undefined;
  if (typeof x !== "number" || !Number.isInteger(x) || x < 0) throw invalid(`${path}/${key}`, "a whole number from 0");
  return x;
}

export const inLength = (text: string, { min, max }: { min: number; max: number }) => {
  const length = [...text].length;
  return length >= min && length <= max;
};

/** These words of JSON and no other. */
export const regular = (words: string[]): Node => ({ kind: "regular", dfa: oneOf(words.map(bytes)) });

/** The given values: scalars as one set of words, lists and objects as what they are, keys in any order. */
export function valuesNode(values: Json[]): Node {
  const scalars = values.filter((value) => typeof value !== "object" || value === null);
  const nested = values.filter((value) => typeof value === "object" && value !== null);
  const of = nested.map((value): Node => {
    if (Array.isArray(value)) {
      return {
        kind: "list",
        prefix: value.map((item) => valuesNode([item])),
        items: none,
        min: value.length,
        max: value.length,
      };
    }
    return struct(
      Object.entries(value as Dict).map(([name, item]) => ({
        name,
        bytes: spelled(name),
        value: valuesNode([item]),
        required: true,
      })),
      none,
    );
  });
  return { kind: "union", of: [regular(scalars.map((value) => JSON.stringify(value))), ...of] };
}

/** A name as `JSON.stringify` writes it, without quotes. */
export const spelled = (name: string) => bytes(JSON.stringify(name).slice(1, -1));

function small(path: string, build: () => Dfa): Dfa {
  try {
    return build();
  } catch (cause) {
    if (cause instanceof Unsupported) throw unsupported(path, cause.message);
    if (cause instanceof TooLarge) throw unsupported(path, `an automaton this large (${cause.message})`);
    throw cause;
  }
}

export const invalid = (path: string, expected: string) =>
  new MassifError("schema.invalid", { found: `${path} is not a valid schema`, expected });

export const unsupported = (path: string, what: string, instead?: string) =>
  new MassifError("schema.unsupported", {
    found: `${path}: ${what} cannot be enforced`,
    fix: instead ? `use “${instead}”, or leave it out` : "leave it out, or check it after the answer",
  });
