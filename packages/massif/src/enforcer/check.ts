/** Which tool schemas Moonshot accepts: the rules of its validator walle (MFJS, level “ultra”), quirks included.
 *
 *  Says nothing about what our own enforcer can do, which is more. Source: github.com/MoonshotAI/walle. */
import {
  ALLOWED,
  beside,
  branches,
  COMMON,
  enumeration,
  LIMITS,
  Refusal,
  range,
  refuse,
  requirement,
  TOP_ONLY,
  typesOf,
} from "./keywords.ts";
import { type Dict, isDict, type Json } from "./scalars.ts";

export interface Verdict {
  accepted: boolean;
  /** Empty when accepted; else what is wrong and the path where. */
  reason: string;
}

export interface CheckOptions {
  /** Levels of `properties`; walle's library default. */
  maxDepth?: number;
}

const SUPPORTED = new Set(["type", "default", ...COMMON, ...TOP_ONLY, ...Object.values(ALLOWED).flat()]);
const RESERVED = ["$defs", "$ref", "anyOf", "required", "additionalProperties"];

/** Judges a schema, given as JSON text or as a value. */
export function checkToolSchema(schema: unknown, { maxDepth = 30 }: CheckOptions = {}): Verdict {
  try {
    const root = typeof schema === "string" ? parse(schema) : (schema as Json);
    if (root === null) refuse("schema must be a dict", "#");
    if (!isDict(root)) refuse("JSON schema parsing error: a schema is an object", "#");
    new Check(root, maxDepth).run();
    return { accepted: true, reason: "" };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { accepted: false, reason: error.message };
  }
}

function parse(text: string): Json {
  try {
    return JSON.parse(text, (_, value) => {
      if (typeof value === "number" && !Number.isFinite(value)) throw new SyntaxError("a number out of range");
      return value;
    });
  } catch (cause) {
    refuse(`JSON schema parsing error: ${cause instanceof Error ? cause.message : cause}`, "#");
  }
}

class Check {
  readonly #root: Dict;
  readonly #maxDepth: number;
  #properties = 0;

  constructor(root: Dict, maxDepth: number) {
    this.#root = root;
    this.#maxDepth = maxDepth;
  }

  run(): void {
    if (!Object.keys(this.#root).length) return;
    if (Buffer.byteLength(JSON.stringify(this.#root)) > LIMITS.size) refuse("schema exceeds maximum allowed size", "#");
    this.#visit(this.#root, "#", 0);
    this.#references(this.#root, "#");
    if (!this.#terminates(this.#root, new Set()))
      refuse("detected infinite recursion without termination condition", "#");
  }

  #visit(schema: Dict, path: string, depth: number): void {
    if (depth > this.#maxDepth) refuse(`schema depth exceeds maximum limit of ${this.#maxDepth}`, path);
    const unknown = Object.keys(schema).filter((key) => !SUPPORTED.has(key));
    if (unknown.length) refuse(`unsupported keywords: ${unknown.sort().join(", ")}`, path);
    this.#defs(schema, path, depth);
    if ("type" in schema) {
      if ("anyOf" in schema)
        refuse("when using anyOf, type should be defined in anyOf items instead of the parent schema", path);
      if ("$ref" in schema)
        refuse("when using $ref, type should be defined in the referenced schema instead of the parent schema", path);
      this.#typed(schema, typesOf(schema, path), path);
    }
    this.#keywords(schema, path);
    if (typeof schema.$ref === "string" && depth + this.#depthBehind(schema, new Set()) > this.#maxDepth) {
      refuse(`schema depth exceeds maximum limit of ${this.#maxDepth}`, path);
    }
    for (const [child, at, deeper] of inner(schema, path)) this.#visit(child, at, depth + (deeper ? 1 : 0));
  }

  #defs(schema: Dict, path: string, depth: number): void {
    const { $defs } = schema;
    if ($defs === undefined) return;
    if (!isDict($defs)) refuse("$defs must be an object", `${path}/$defs`);
    for (const [name, def] of Object.entries($defs)) {
      const at = `${path}/$defs/${name}`;
      if (name === "") refuse("$defs property name cannot be empty", `${path}/$defs`);
      if (!isDict(def)) {
        // A schema written where names belong: walle reports its keywords first.
        for (const other of Object.values($defs)) if (isDict(other)) this.#visit(other, at, depth);
        refuse(`$defs schema must be object: ${name}`, at);
      }
      this.#visit(def, at, depth);
      noSlash({ [name]: def }, at);
    }
  }

  #typed(schema: Dict, types: string[], path: string): void {
    if (types.length > 1 && "enum" in schema) {
      const nested = types.find((type) => type === "object" || type === "array");
      if (nested) refuse(`type ${nested} is not allowed in combination with enum`, path);
    }
    const keys = Object.keys(schema);
    const pairedEnum = types.length === 2 && "enum" in schema;
    if (types.length > 1 && !pairedEnum) {
      const odd = keys.find(
        (key) => key !== "type" && !COMMON.includes(key) && !(path === "#" && TOP_ONLY.includes(key)),
      );
      if (odd) refuse(`keyword ${odd} is not allowed in combination with multiple types`, path);
    }
    const low = path === "#" ? undefined : keys.find((key) => TOP_ONLY.includes(key));
    if (low) refuse(`keyword ${low} must be at root level`, path);
    const allowed = (key: string) =>
      key === "type" ||
      key === "default" ||
      COMMON.includes(key) ||
      TOP_ONLY.includes(key) ||
      types.every((type) => ALLOWED[type]!.includes(key));
    const invalid = keys.filter((key) => !allowed(key));
    if (invalid.length) refuse(`invalid keywords: ${invalid.sort().join(", ")}`, path);
    range(schema, "minLength", "maxLength", "a whole number", path);
    range(schema, "minimum", "maximum", types.includes("integer") ? "an integer" : "a number", path);
    range(schema, "minItems", "maxItems", "a whole number", path);
  }

  #keywords(schema: Dict, path: string): void {
    const {
      $id,
      $ref,
      additionalProperties: extra,
      anyOf,
      description,
      enum: listed,
      items,
      pattern,
      properties,
      required,
    } = schema;
    if ($id !== undefined && $id !== null && typeof $id !== "string") refuse("$id must be a string", path);
    if ($ref !== undefined) this.#reference(schema, path);
    if (extra !== undefined && typeof extra !== "boolean" && !isDict(extra)) {
      refuse("additionalProperties must be a boolean or an object", path);
    }
    if (anyOf !== undefined) branches(schema, path);
    if (description !== undefined && typeof description !== "string") refuse("description must be a string", path);
    if (listed !== undefined) enumeration(schema, path);
    if (items !== undefined && !isDict(items)) refuse("items must be an object", path);
    if (pattern !== undefined && pattern !== null && typeof pattern !== "string")
      refuse("pattern must be a string", path);
    if (properties !== undefined) {
      if (!isDict(properties)) refuse("properties must be an object", path);
      for (const [name, value] of Object.entries(properties)) {
        const at = `${path}/properties/${name}`;
        if (name === "") refuse("property name cannot be empty", at);
        if (RESERVED.includes(name)) refuse(`property name '${name}' is reserved for JSON Schema keywords`, at);
        if (!isDict(value)) refuse(`property schema for '${name}' must be an object`, at);
      }
      this.#properties += Object.keys(properties).length;
      if (this.#properties > LIMITS.properties) {
        refuse(
          `total number of properties keys(${this.#properties}) across all objects exceeds maximum limit of ${LIMITS.properties}`,
          path,
        );
      }
    }
    if (required !== undefined) requirement(schema, path);
  }

  #reference(schema: Dict, path: string): void {
    const { $ref } = schema;
    if (typeof $ref !== "string") refuse("$ref must be a string", path);
    if ($ref === "#") return;
    if (!$ref.startsWith("#/$defs/")) refuse("references must start with #/$defs/", path);
    if ($ref === "#/$defs/") refuse("definition name cannot be empty", path);
    if (!("$defs" in this.#root)) refuse(`$defs not found for reference: ${$ref}`, path);
    beside(schema, "$ref", path);
  }

  #find(ref: string, path: string): Dict {
    let at: Json = this.#root;
    for (const part of ref === "#" ? [] : ref.slice(2).split("/")) {
      const next: Json | undefined = isDict(at) && Object.hasOwn(at, part) ? at[part] : undefined;
      if (!isDict(next)) refuse(`invalid $ref path: ${ref}`, path);
      at = next;
    }
    return at as Dict;
  }

  /** References outside `$defs`: what stands beside them may not stand in what they name. */
  #references(schema: Dict, path: string): void {
    if (typeof schema.$ref === "string") {
      const beside = Object.keys(schema).filter((key) => key !== "$ref");
      const target = this.#expand(schema.$ref, path);
      const inBranches = Array.isArray(target.anyOf)
        ? target.anyOf.filter(isDict).flatMap((branch) => Object.keys(branch))
        : [];
      const twice = beside.filter((key) => key in target || inBranches.includes(key));
      if (twice.length)
        refuse(
          `conflicting keywords found after $ref expansion: keywords (${twice.sort().join(", ")}) are defined twice`,
          path,
        );
    }
    for (const [child, at] of inner(schema, path)) this.#references(child, at);
  }

  /** What a chain of references ends in, with the titles and descriptions met on the way. */
  #expand(ref: string, path: string): Dict {
    const seen = new Set([ref]);
    let target = this.#find(ref, path);
    const kept: Dict = {};
    while (typeof target.$ref === "string" && !seen.has(target.$ref)) {
      const { $ref, ...rest } = target;
      if (Object.keys(rest).some((key) => !COMMON.includes(key))) break;
      for (const [key, value] of Object.entries(rest)) {
        if (key in kept)
          refuse(
            `conflicting keywords found after $ref expansion: keyword "${key}" appears at multiple levels in a chained "$ref"`,
            path,
          );
        kept[key] = value;
      }
      seen.add($ref);
      target = this.#find($ref, path);
    }
    return { ...target, ...kept };
  }

  /** Levels of properties behind a schema, through references but not through items. */
  #depthBehind(schema: Dict, seen: Set<string>): number {
    let depth = 0;
    const { $ref } = schema;
    // The root is not among walle's precomputed depths.
    if (typeof $ref === "string" && $ref !== "#" && !seen.has($ref))
      depth = this.#depthBehind(this.#find($ref, "#"), new Set([...seen, $ref]));
    for (const [child, at, deeper] of inner(schema, "")) {
      if (at !== "/items") depth = Math.max(depth, this.#depthBehind(child, seen) + (deeper ? 1 : 0));
    }
    return depth;
  }

  /** Whether some finite value exists, as walle sees it: an array needs an item, one required property is enough. */
  #terminates(schema: Dict, seen: ReadonlySet<string>): boolean {
    const { $ref, anyOf, items, properties, required, type } = schema;
    if (typeof $ref === "string") {
      return !seen.has($ref) && this.#terminates(this.#find($ref, "#"), new Set([...seen, $ref]));
    }
    if (Array.isArray(anyOf)) return anyOf.some((branch) => isDict(branch) && this.#terminates(branch, seen));
    const types = Array.isArray(type) ? type : [type];
    if (types.some((one) => one !== "object" && one !== "array")) return true;
    if (types.includes("array") && (!isDict(items) || this.#terminates(items, seen))) return true;
    if (!types.includes("object")) return false;
    if (!Array.isArray(required) || !required.length || !isDict(properties)) return true;
    return required.some((name) => this.#terminates(properties[name as string] as Dict, seen));
  }
}

/** The schemas within a schema, `$defs` aside; `deeper` for those of properties. */
function inner(schema: Dict, path: string): [child: Dict, path: string, deeper: boolean][] {
  const out: [Dict, string, boolean][] = [];
  for (const [name, value] of Object.entries(isDict(schema.properties) ? schema.properties : {})) {
    if (isDict(value)) out.push([value, `${path}/properties/${name}`, true]);
  }
  for (const key of ["items", "additionalProperties"]) {
    const value = schema[key];
    if (isDict(value)) out.push([value, `${path}/${key}`, false]);
  }
  if (Array.isArray(schema.anyOf)) {
    for (const [i, value] of schema.anyOf.entries()) if (isDict(value)) out.push([value, `${path}/anyOf/${i}`, false]);
  }
  return out;
}

/** No key at any level below a definition may hold a slash: references could not reach it. */
function noSlash(value: Json, path: string): void {
  if (Array.isArray(value)) for (const one of value) if (isDict(one)) noSlash(one, path);
  if (!isDict(value)) return;
  for (const [key, child] of Object.entries(value)) {
    if (key.includes("/")) refuse(`$defs property name '${key}' cannot contain '/' character`, path);
    noSlash(child, path);
  }
}
