/** JSON Schema (draft 2020-12) → nodes. Whatever is asked for and cannot be enforced throws with its path. */
import { nearest } from "../common/index.ts";
import { matches, oneOf } from "./dfa.ts";
import { type Key, type List, type Node, none, struct, type Union } from "./node.ts";
import { numberDfa } from "./numbers.ts";
import {
  BY_TYPE,
  bytes,
  count,
  type Dict,
  inLength,
  invalid,
  isDict,
  type Json,
  numberOf,
  regular,
  spelled,
  stringNode,
  unsupported,
  valuesNode,
} from "./scalars.ts";

const TYPES = ["null", "boolean", "object", "array", "number", "string", "integer"];
/** Say nothing about which values are valid. */
const ANNOTATIONS = new Set(
  "title description default examples example $comment $schema $defs definitions deprecated readOnly writeOnly contentEncoding contentMediaType contentSchema $anchor".split(
    " ",
  ),
);
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
        return stringNode(schema, path);
      case "array":
        return this.#array(schema, path, depth);
      case "object":
        return this.#object(schema, path, depth);
      default:
        return { kind: "regular", dfa: numberOf(schema, type === "integer", path) };
    }
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
    return valuesNode(values);
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

const pointer = (name: string) => name.replaceAll("~", "~0").replaceAll("/", "~1");

const literalsOf = (schema: Dict): string[] | undefined =>
  "const" in schema
    ? [JSON.stringify(schema.const)]
    : Array.isArray(schema.enum)
      ? schema.enum.map((value) => JSON.stringify(value))
      : undefined;

const typeOf = (value: Json): string => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
