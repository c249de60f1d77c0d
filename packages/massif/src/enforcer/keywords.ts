/** What walle asks of single keywords: kinds, ranges, neighbours. Source: github.com/MoonshotAI/walle. */
import { type Dict, isDict } from "./scalars.ts";

export const LIMITS = { enumItems: 1000, anyOfItems: 500, size: 120_000, properties: 3000 };
export const COMMON = ["description", "title"];
export const TOP_ONLY = ["$defs", "$id"];
export const ALLOWED: Record<string, string[]> = {
  object: ["properties", "required", "additionalProperties", "$ref", "anyOf"],
  array: ["items", "minItems", "maxItems", "$ref"],
  string: ["minLength", "maxLength", "pattern", "enum"],
  number: ["minimum", "maximum", "enum"],
  integer: ["minimum", "maximum", "enum"],
  boolean: ["enum"],
  null: ["enum"],
};

/** Ends a check: the message is the reason. */
export class Refusal extends Error {}

export function refuse(what: string, path: string): never {
  throw new Refusal(`${what} (at ${path})`);
}

export function typesOf({ type }: Dict, path: string): string[] {
  if (typeof type !== "string" && !Array.isArray(type)) refuse("type must be string or array of strings", path);
  const list = typeof type === "string" ? [type] : type!;
  if (!list.length) refuse("type array cannot be empty", path);
  for (const one of list) {
    if (typeof one !== "string" || !(one in ALLOWED))
      refuse(typeof type === "string" ? "invalid type" : "invalid type in type array", path);
  }
  if (new Set(list).size < list.length) refuse("duplicate types in type array", path);
  return list as string[];
}

export function range(
  schema: Dict,
  low: string,
  high: string,
  kind: "a number" | "an integer" | "a whole number",
  path: string,
): void {
  for (const key of [low, high]) {
    const x = schema[key];
    if (x === undefined || x === null) continue;
    if (typeof x !== "number") refuse(`${key} must be ${kind === "a number" ? kind : "an integer"}`, path);
    if (kind === "a whole number" && x < 0) refuse(`${key} must be non-negative`, path);
    if (kind !== "a number" && !Number.isInteger(x)) refuse(`${key} is not a valid integer`, path);
  }
  const [a, b] = [schema[low], schema[high]];
  if (typeof a === "number" && typeof b === "number" && a > b)
    refuse(`${low} (${a}) cannot be greater than ${high} (${b})`, path);
}

/** `$ref` and `anyOf` stand alone but for titles and descriptions (and, at the root, `$defs` and `$id`). */
export function beside(schema: Dict, own: string, path: string): void {
  for (const key of Object.keys(schema)) {
    if (key === own || COMMON.includes(key) || (path === "#" && TOP_ONLY.includes(key))) continue;
    refuse(`keyword '${key}' is not allowed at the same level as ${own}`, path);
  }
}

export function branches(schema: Dict, path: string): void {
  const { anyOf } = schema;
  if (!Array.isArray(anyOf)) refuse("anyOf must be an array", path);
  if (!anyOf.length || anyOf.length > LIMITS.anyOfItems) refuse(`anyOf must have 1-${LIMITS.anyOfItems} items`, path);
  if (!anyOf.every(isDict)) refuse("schema in anyOf must be an object", path);
  beside(schema, "anyOf", path);
  const twice = anyOf.flatMap((branch) => Object.keys(branch)).filter((key) => key !== "anyOf" && key in schema);
  if (twice.length)
    refuse(
      `conflicting keywords found in anyOf with parent: keywords (${[...new Set(twice)].sort().join(", ")})`,
      path,
    );
}

export function enumeration(schema: Dict, path: string): void {
  const { enum: values } = schema;
  if (!Array.isArray(values)) refuse("enum must be an array", path);
  if (!values.length) refuse("enum array cannot be empty", path);
  if (values.length > LIMITS.enumItems) refuse(`enum array cannot have more than ${LIMITS.enumItems} items`, path);
  if (!("type" in schema)) refuse("type is not defined", path);
  const types = typesOf(schema, path);
  if (types.length > 2 || (types.length === 2 && !types.includes("null"))) {
    refuse("when type is array and enum is specified, currently only 2 types are supported, one must be null", path);
  }
  for (const value of values) {
    const match = types.some((type) => {
      if (type === "number" || type === "integer") {
        if (typeof value !== "number" || (type === "integer" && !Number.isInteger(value))) {
          refuse(type === "number" ? "not a valid number" : "not a valid integer", path);
        }
        return true;
      }
      return type === "null" ? value === null : type === typeof value;
    });
    if (!match) refuse(`enum value (${JSON.stringify(value)}) does not match any type in ${types.join(", ")}`, path);
  }
}

export function requirement(schema: Dict, path: string): void {
  const { required, properties } = schema;
  if (!Array.isArray(required)) refuse("required must be an array", path);
  for (const name of required) {
    if (typeof name !== "string") refuse("items in required array must be strings", path);
    if (name === "") refuse("property names in required array cannot be empty", path);
  }
  if (new Set(required).size < required.length) refuse("duplicate items in required array", path);
  if (!required.length) return;
  if (!("type" in schema)) refuse("required keyword must be used with object", path);
  if (!isDict(properties)) refuse("required specified but 'properties' keyword is missing", path);
  for (const name of required as string[]) {
    if (!Object.hasOwn(properties, name)) refuse(`required property '${name}' is not defined in properties`, path);
  }
}
