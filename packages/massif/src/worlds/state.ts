/** The state of a world: tables of rows by key. Never changed in place, so that a snapshot is a reference. */
import { createHash } from "node:crypto";
import type { Value } from "./value.ts";

export type Row = Readonly<Record<string, Value>>;
export type Table = Readonly<Record<string, Row>>;
/** entity → key → row. */
export type State = Readonly<Record<string, Table>>;

/** The row, or undefined; own keys only, so that "constructor" is a name like any other. */
export function rowOf(state: State, entity: string, key: Value): Row | undefined {
  const table = state[entity];
  return table && typeof key === "string" && Object.hasOwn(table, key) ? table[key] : undefined;
}

export function withRow(state: State, entity: string, key: string, row: Row): State {
  return { ...state, [entity]: { ...state[entity], [key]: row } };
}

export function withoutRow(state: State, entity: string, key: string): State {
  const { [key]: _gone, ...rest } = state[entity] ?? {};
  return { ...state, [entity]: rest };
}

/** Canonical text: sorted keys, numbers as decimal strings, no spaces. Equal states have equal texts. */
export function canonical(value: unknown): string {
  if (typeof value === "number") return `#${value}`;
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  const keys = Object.keys(value).sort();
  return `{${keys.map((k) => `${JSON.stringify(k)}:${canonical((value as Record<string, unknown>)[k])}`).join(",")}}`;
}

/** SHA-256 of the canonical text. */
export const digest = (value: unknown): string => createHash("sha256").update(canonical(value)).digest("hex");

/** One difference: a row that came (`before` null), went (`after` null), or a field that changed. */
export interface Change {
  entity: string;
  key: string;
  /** Absent where the whole row came or went. */
  field?: string;
  before: Value;
  after: Value;
}

/** What changed from `a` to `b`, tables in `ignore` (logs) left out, in canonical order. */
export function diff(a: State, b: State, ignore: ReadonlySet<string> = new Set()): Change[] {
  const changes: Change[] = [];
  for (const entity of Object.keys({ ...a, ...b }).sort()) {
    const [before, after] = [a[entity] ?? {}, b[entity] ?? {}];
    if (before === after || ignore.has(entity)) continue;
    for (const key of Object.keys({ ...before, ...after }).sort()) {
      const [x, y] = [rowOf(a, entity, key), rowOf(b, entity, key)];
      if (x === y) continue;
      if (!x || !y) changes.push({ entity, key, before: x ?? null, after: y ?? null });
      else
        for (const field of Object.keys(x).sort())
          if (canonical(x[field]) !== canonical(y[field]))
            changes.push({ entity, key, field, before: x[field] ?? null, after: y[field] ?? null });
    }
  }
  return changes;
}
