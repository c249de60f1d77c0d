/** JSON Schema (draft 2020-12) → nodes. Whatever is asked for and cannot be enforced throws with its path. */
import { MassifError, nearest } from "../../common/index.ts";
import { cat, compile, counted, type Dfa, intersect, literal, matches, oneOf, TooLarge } from "./dfa.ts";
import { formats } from "./formats.ts";
import { type Key, type List, type Node, none, struct, type Union } from "./node.ts";
import { type Bounds, integerDfa, numberDfa } from "./numbers.ts";
import { patternRe, Unsupported } from "./regex.ts";
import { plainText } from "./text.ts";

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Dict = { [key: string]: Json };

const TYPES = ["null", "boolean", "object", "array", "number", "string", "integer"];
/** Say nothing about which values are valid. */
const ANNOTATIONS = new Set(
  "title description default examples example $comment $schema $defs definitions deprecated readOnly writeOnly contentEncoding contentMediaType contentSchema $anchor".split(
    " ",
  ),
);
const BY_TYPE: Record<string, string[]> = {
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  object: ["properties", "required", "additionalProperties"],
};
const CONSTRAINTS = Object.values(BY_TYPE).flat();
const KNOWN = new Set([
  ...ANNOTATIONS,
  ...CONSTRAINTS,
  "type",
  "nullable",
  "enum",
  "const",
  "anyOf",
  "oneOf",
  "allOf",
  "$ref",
  "$id",
]);

export const isDict = (x: unknown): x is Dict => typeof x === "object" && x !== null && !Array.isArray(x);

const MAX_DEPTH = 64;
const MAX_NODES = 20_000;

/** Any JSON value. */
export function anyValue(): Node {
  const any: Union = { kind: "union", of: [] };
  any.of.push(
    { kind: "regular", dfa: oneOf(["null", "true", "false"].map(bytes)) },
    { kind: "regular", dfa: numberDfa({}) },
    { kind: "text", min: 0, max: Infinity },
    { kind: "list", prefix: [], items: any, min: 0, max: Infinity },
    struct([], any),
  );
  return any;
}

/** Any JSON object. */
export const anyObject = (): Node => struct([], anyValue());

/** Compiles a schema. Throws `schema.invalid` and `schema.unsupported`, both with the path in `found`. */
export function read(schema: Json): Node {
  return new Reader(schema).read(schema, "#", 0);
}

const bytes = (text: string) => new TextEncoder().encode(text);

class Reader {
  readonly #root: Json;
  readonly #known = new Map<Json, Union>();
  readonly #any = anyValue();

  constructor(root: Json) {
    this.#root = root;
  }

  read(schema: Json, path: string, depth: number): Node {
    if (schema === true) return this.#any;
    if (schema === false) return none;
    if (!isDict(schema)) throw invalid(path, "a schema is an object, true or false");
    const known = this.#known.get(schema);
    if (known) return known;
    if (depth > MAX_DEPTH) throw unsupported(path, `schemas nested more than ${MAX_DEPTH} deep`);
    if (this.#known.size >= MAX_NODES) throw unsupported(path, `more than ${MAX_NODES} subschemas`);
    // Known before it is read, so that a reference to what encloses it finds it.
    const node: Union = { kind: "union", of: [] };
    this.#known.set(schema, node);
    node.of.push(...this.#alternatives(schema, path, depth));
    return node;
  }

  #alternatives(schema: Dict, path: string, depth: number): Node[] {
    for (const key of Object.keys(schema)) {
      if (KNOWN.has(key)) continue;
      if (key === "uniqueItems" && schema[key] === false) continue;
      throw unsupported(`${path}/${pointer(key)}`, `the keyword “${key}”`, nearest(key, KNOWN));
    }
    if ("$id" in schema && path !== "#") throw unsupported(`${path}/$id`, "“$id” inside a schema");
    const nullable: Node[] = schema.nullable === true ? [regular(["null"])] : [];
    for (const key of ["$ref", "anyOf", "oneOf", "allOf"]) {
      if (!(key in schema)) continue;
      const beside = Object.keys(schema).find(
        (k) => k !== key && k !== "nullable" && k !== "$id" && !ANNOTATIONS.has(k),
      );
      if (beside !== undefined) throw unsupported(`${path}/${beside}`, `“${beside}” beside “${key}”`);
      return [
        ...(key === "$ref" ? [this.#reference(schema.$ref!, path, depth)] : this.#branches(schema, key, path, depth)),
        ...nullable,
      ];
    }
    const types = this.#types(schema, path);
    if ("const" in schema || "enum" in schema) return [this.#literals(schema, types, path), ...nullable];
    return [...types.map((type) => this.#typed(type, schema, path, depth)), ...nullable];
  }

  #types(schema: Dict, path: string): string[] {
    const { type } = schema;
    if (type === undefined) return TYPES.filter((t) => t !== "integer");
    const list = Array.isArray(type) ? type : [type];
    for (const t of list) {
      if (typeof t !== "string" || !TYPES.includes(t))
        throw invalid(`${path}/type`, `a type is one of ${TYPES.join(", ")}`);
    }
    const types = [...new Set(list as string[])];
    return types.includes("number") ? types.filter((t) => t !== "integer") : types;
  }

  #typed(type: string, schema: Dict, path: string, depth: number): Node {
    switch (type) {
      case "null":
        return regular(["null"]);
      case "boolean":
        return regular(["true", "false"]);
      case "string":
        return this.#string(schema, path);
      case "array":
        return this.#array(schema, path, depth);
      case "object":
        return this.#object(schema, path, depth);
      default:
        return { kind: "regular", dfa: this.#number(schema, type === "integer", path) };
    }
  }

  #string(schema: Dict, path: string): Node {
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

  #number(schema: Dict, integer: boolean, path: string): Dfa {
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

  #array(schema: Dict, path: string, depth: number): Node {
    const { items, prefixItems = [] } = schema;
    if (!Array.isArray(prefixItems)) throw invalid(`${path}/prefixItems`, "a list of schemas");
    if (Array.isArray(items)) throw unsupported(`${path}/items`, "a list as “items”", "prefixItems");
    const list: List = {
      kind: "list",
      prefix: prefixItems.map((item, i) => this.read(item, `${path}/prefixItems/${i}`, depth + 1)),
      items: items === undefined ? this.#any : this.read(items, `${path}/items`, depth + 1),
      min: count(schema, "minItems", path) ?? 0,
      max: count(schema, "maxItems", path) ?? Infinity,
    };
    return list;
  }

  #object(schema: Dict, path: string, depth: number): Node {
    const { properties = {}, required = [], additionalProperties = true } = schema;
    if (!isDict(properties)) throw invalid(`${path}/properties`, "an object of schemas");
    if (!Array.isArray(required) || !required.every((name) => typeof name === "string")) {
      throw invalid(`${path}/required`, "a list of names");
    }
    const additional = this.read(additionalProperties, `${path}/additionalProperties`, depth + 1);
    const names = [...new Set([...Object.keys(properties), ...(required as string[])])];
    const keys = names.map((name): Key => {
      if (!name.isWellFormed())
        throw unsupported(`${path}/properties/${pointer(name)}`, "a name that is not valid Unicode");
      const own = Object.hasOwn(properties, name);
      return {
        name,
        bytes: spelled(name),
        value: own ? this.read(properties[name]!, `${path}/properties/${pointer(name)}`, depth + 1) : additional,
        required: required.includes(name),
      };
    });
    return struct(keys, additional);
  }

  /** `enum` and `const`, scalars in the spelling of `JSON.stringify`; values that the other keywords refuse are left out. */
  #literals(schema: Dict, types: string[], path: string): Node {
    const listed = "enum" in schema ? schema.enum : [schema.const!];
    if (!Array.isArray(listed)) throw invalid(`${path}/enum`, "a list of values");
    const fixed = "const" in schema ? JSON.stringify(schema.const) : undefined;
    const values = listed.filter((value) => {
      if (fixed !== undefined && JSON.stringify(value) !== fixed) return false;
      const type = typeOf(value);
      if (!types.includes(type) && !(type === "number" && types.includes("integer") && Number.isInteger(value)))
        return false;
      const asked = (BY_TYPE[type] ?? []).filter((key) => key in schema);
      if (!asked.length) return true;
      if (type === "array" || type === "object")
        throw unsupported(`${path}/${asked[0]}`, `“${asked[0]}” beside “enum”`);
      const node = this.#typed(type, schema, path, 0);
      if (node.kind === "text") return inLength(value as string, node);
      return node.kind === "regular" && matches(node.dfa, bytes(JSON.stringify(value)));
    });
    return anyOf(values);
  }

  #branches(schema: Dict, key: string, path: string, depth: number): Node[] {
    const list = schema[key];
    if (!Array.isArray(list) || !list.length) throw invalid(`${path}/${key}`, "a list of schemas");
    if (key === "allOf" && list.length > 1) throw unsupported(`${path}/allOf`, "“allOf” with more than one schema");
    if (key === "oneOf" && list.length > 1) {
      const clash = this.#overlap(list);
      if (clash) throw unsupported(`${path}/oneOf`, `branches ${clash.join(" and ")} that may both match`, "anyOf");
    }
    return list.map((branch, i) => this.read(branch, `${path}/${key}/${i}`, depth + 1));
  }

  /** Two branches that one value might satisfy; undefined when types, literals or a required tag keep them apart. */
  #overlap(list: Json[]): [number, number] | undefined {
    const apart = (a: Json, b: Json): boolean => {
      if (!isDict(a) || !isDict(b)) return a === false || b === false;
      const [p, q] = [literalsOf(a), literalsOf(b)];
      if (p && q) return !p.some((value) => q.includes(value));
      const [s, t] = [this.#types(a, "#"), this.#types(b, "#")].map((types) =>
        types.map((type) => (type === "integer" ? "number" : type)),
      );
      if ("$ref" in a || "$ref" in b || "anyOf" in a || "anyOf" in b || "oneOf" in a || "oneOf" in b) return false;
      const shared = s!.filter((type) => t!.includes(type));
      if (!shared.length) return true;
      if (shared.join() !== "object" || !isDict(a.properties) || !isDict(b.properties)) return false;
      return Object.entries(a.properties).some(([name, left]) => {
        const right = (b.properties as Dict)[name];
        const both = [a.required, b.required].every((names) => Array.isArray(names) && names.includes(name));
        return (
          both &&
          right !== undefined &&
          isDict(left) &&
          isDict(right) &&
          !!literalsOf(left) &&
          !!literalsOf(right) &&
          apart(left, right)
        );
      });
    };
    const open = list.map((branch) => this.#resolve(branch));
    for (let i = 0; i < open.length; i++) for (let j = 0; j < i; j++) if (!apart(open[i]!, open[j]!)) return [j, i];
    return undefined;
  }

  /** A branch that is only a reference, replaced by what it names. */
  #resolve(schema: Json): Json {
    for (let hops = 0; hops < 20 && isDict(schema) && typeof schema.$ref === "string"; hops++) {
      const target = this.#find(schema.$ref);
      if (target === undefined) break;
      schema = target;
    }
    return schema;
  }

  #reference(ref: Json, path: string, depth: number): Node {
    if (typeof ref !== "string") throw invalid(`${path}/$ref`, "a reference is a string");
    const target = this.#find(ref);
    if (target === undefined) throw unsupported(`${path}/$ref`, `the reference “${ref}”, which is not in this schema`);
    return this.read(target, ref, depth + 1);
  }

  /** A JSON pointer within the schema. */
  #find(ref: string): Json | undefined {
    if (ref !== "#" && !ref.startsWith("#/")) return undefined;
    let at: Json | undefined = this.#root;
    let text: string;
    try {
      text = decodeURIComponent(ref);
    } catch {
      return undefined;
    }
    for (const part of text.split("/").slice(1)) {
      const name = part.replaceAll("~1", "/").replaceAll("~0", "~");
      if (Array.isArray(at)) at = at[Number(name)];
      else if (isDict(at) && Object.hasOwn(at, name)) at = at[name];
      else return undefined;
    }
    return at;
  }
}

function count(schema: Dict, key: string, path: string): number | undefined {
  const x = schema[key];
  if (x === undefined) return undefined;
  if (typeof x !== "number" || !Number.isInteger(x) || x < 0) throw invalid(`${path}/${key}`, "a whole number from 0");
  return x;
}

const inLength = (text: string, { min, max }: { min: number; max: number }) => {
  const length = [...text].length;
  return length >= min && length <= max;
};

const regular = (words: string[]): Node => ({ kind: "regular", dfa: oneOf(words.map(bytes)) });

/** The given values: scalars as one set of words, lists and objects as what they are, keys in any order. */
function anyOf(values: Json[]): Node {
  const scalars = values.filter((value) => typeof value !== "object" || value === null);
  const nested = values.filter((value) => typeof value === "object" && value !== null);
  const of = nested.map((value): Node => {
    if (Array.isArray(value)) {
      return {
        kind: "list",
        prefix: value.map((item) => anyOf([item])),
        items: none,
        min: value.length,
        max: value.length,
      };
    }
    return struct(
      Object.entries(value as Dict).map(([name, item]) => ({
        name,
        bytes: spelled(name),
        value: anyOf([item]),
        required: true,
      })),
      none,
    );
  });
  return { kind: "union", of: [regular(scalars.map((value) => JSON.stringify(value))), ...of] };
}

/** A name as `JSON.stringify` writes it, without quotes. */
const spelled = (name: string) => bytes(JSON.stringify(name).slice(1, -1));

const literalsOf = (schema: Dict): string[] | undefined =>
  "const" in schema
    ? [JSON.stringify(schema.const)]
    : Array.isArray(schema.enum)
      ? schema.enum.map((value) => JSON.stringify(value))
      : undefined;

const typeOf = (value: Json): string => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);

const pointer = (name: string) => name.replaceAll("~", "~0").replaceAll("/", "~1");

function small(path: string, build: () => Dfa): Dfa {
  try {
    return build();
  } catch (cause) {
    if (cause instanceof Unsupported) throw unsupported(path, cause.message);
    if (cause instanceof TooLarge) throw unsupported(path, `an automaton this large (${cause.message})`);
    throw cause;
  }
}

const invalid = (path: string, expected: string) =>
  new MassifError("schema.invalid", { found: `${path} is not a valid schema`, expected });

const unsupported = (path: string, what: string, instead?: string) =>
  new MassifError("schema.unsupported", {
    found: `${path}: ${what} cannot be enforced`,
    fix: instead ? `use “${instead}”, or leave it out` : "leave it out, or check it after the answer",
  });
