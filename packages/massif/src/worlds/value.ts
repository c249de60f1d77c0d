/** Values of a world and their static types: integers, strings, truth values, references, lists, records, and "maybe". */

/** Everything a world computes with. A reference is the key of its row; integers stay within ±2⁵³−1. */
export type Value = string | number | boolean | null | Value[] | { [field: string]: Value };

/** `row` is a reference to an entity's row (its key at run time); `maybe` may be null; `unknown` follows an error already told. */
export type Type =
  | { kind: "integer" | "string" | "boolean" | "unknown" | "null" }
  | { kind: "row"; entity: string }
  | { kind: "maybe"; of: Type }
  | { kind: "list"; of: Type; bound: number }
  | { kind: "record"; fields: Record<string, Type> };

export const INTEGER: Type = { kind: "integer" };
export const STRING: Type = { kind: "string" };
export const BOOLEAN: Type = { kind: "boolean" };
export const UNKNOWN: Type = { kind: "unknown" };
export const NULL: Type = { kind: "null" };

export const maybe = (of: Type): Type => (of.kind === "maybe" || of.kind === "null" ? of : { kind: "maybe", of });

/** The type as people write it: `account`, `integer?`, `list of order`. */
export function show(type: Type): string {
  if (type.kind === "row") return type.entity;
  if (type.kind === "maybe") return `${show(type.of)}?`;
  if (type.kind === "list") return `list of ${show(type.of)}`;
  if (type.kind === "record") return `{ ${Object.entries(type.fields).map(([k, t]) => `${k}: ${show(t)}`)} }`;
  return type.kind;
}

/** Whether a value of type `from` may stand where `to` is wanted. A row stands for its key, so it is a string too. */
export function fits(from: Type, to: Type): boolean {
  if (from.kind === "unknown" || to.kind === "unknown") return true;
  if (to.kind === "maybe") return from.kind === "null" || fits(from.kind === "maybe" ? from.of : from, to.of);
  if (from.kind === "row") return to.kind === "string" || (to.kind === "row" && to.entity === from.entity);
  if (from.kind === "list") return to.kind === "list" && fits(from.of, to.of);
  if (from.kind === "record") {
    return (
      to.kind === "record" &&
      Object.keys(to.fields).every((k) => k in from.fields && fits(from.fields[k] as Type, to.fields[k] as Type))
    );
  }
  return from.kind === to.kind;
}

/** The least type that both fit, or undefined. */
export function join(a: Type, b: Type): Type | undefined {
  if (a.kind === "null") return maybe(b);
  if (b.kind === "null") return maybe(a);
  if (a.kind === "maybe" || b.kind === "maybe") {
    const of = join(a.kind === "maybe" ? a.of : a, b.kind === "maybe" ? b.of : b);
    return of && maybe(of);
  }
  if (a.kind === "list" && b.kind === "list") {
    const of = join(a.of, b.of);
    return of && { kind: "list", of, bound: Math.max(a.bound, b.bound) };
  }
  if (a.kind === "record" && b.kind === "record") {
    const fields: Record<string, Type> = {};
    for (const name of Object.keys({ ...a.fields, ...b.fields })) {
      const both = join(a.fields[name] ?? NULL, b.fields[name] ?? NULL);
      if (!both) return undefined;
      fields[name] = both;
    }
    return { kind: "record", fields };
  }
  if (fits(a, b)) return b;
  if (fits(b, a)) return a;
  return a.kind === "row" && b.kind === "row" ? STRING : undefined;
}

/** Structural equality of values. */
export function same(a: Value, b: Value): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a)) return Array.isArray(b) && a.length === b.length && a.every((x, i) => same(x, b[i] as Value));
  if (Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((k) => k in b && same(a[k] as Value, b[k] as Value));
}

/** Total order for sorting: numbers by size, everything else by code units of its text. */
export function compare(a: Value, b: Value): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  const [x, y] = [text(a), text(b)];
  return x < y ? -1 : x > y ? 1 : 0;
}

/** A value as it stands in a sentence: lists joined by ", ", null as "none". */
export function text(value: Value): string {
  if (value === null) return "none";
  if (Array.isArray(value)) return value.map(text).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Every number, string and truth value inside, depth first. */
export function* leaves(value: Value): Generator<string | number | boolean> {
  if (value === null) return;
  if (Array.isArray(value)) for (const item of value) yield* leaves(item);
  else if (typeof value === "object") for (const item of Object.values(value)) yield* leaves(item);
  else yield value;
}
