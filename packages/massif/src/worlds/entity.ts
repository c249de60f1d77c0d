/** Entities: typed tables, and the check that a state keeps every bound, reference and invariant. */
import { type Compiled, type EntityType, type Frame, predicate, type Scope } from "./expression.ts";
import type { FieldFile, WorldFile } from "./schema.ts";
import { rowOf, type State } from "./state.ts";
import { BOOLEAN, INTEGER, maybe, STRING, same, type Type, type Value } from "./value.ts";

export interface Field {
  type: Type;
  ref?: string;
  enum?: readonly string[];
  min: number;
  max: number;
}

export interface Entity extends EntityType {
  name: string;
  details: Record<string, Field>;
  invariants: { say: string; holds: Compiled }[];
}

const base = { string: STRING, integer: INTEGER, boolean: BOOLEAN };

/** A field or parameter as the compiler sees it. */
export function fieldOf(file: FieldFile): Field {
  if (typeof file === "string") return { type: base[file], min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER };
  const one: Type = file.ref ? { kind: "row", entity: file.ref } : file.enum ? STRING : base[file.type ?? "string"];
  const many: Type = file.list ? { kind: "list", of: one, bound: file.list } : one;
  return {
    type: file.optional ? maybe(many) : many,
    min: file.min ?? Number.MIN_SAFE_INTEGER,
    max: file.max ?? Number.MAX_SAFE_INTEGER,
    ...(file.ref && { ref: file.ref }),
    ...(file.enum && { enum: file.enum }),
  };
}

export function entitiesOf(file: WorldFile, tell: Scope["tell"]): Record<string, Entity> {
  const entities: Record<string, Entity> = {};
  for (const [name, { key, fields, max, log = false }] of Object.entries(file.entities)) {
    const details = Object.fromEntries(Object.entries(fields).map(([f, d]) => [f, fieldOf(d)]));
    if (details[key]?.type !== STRING)
      tell(["entities", name, "key"], `the key '${key}' must be a string field of ${name}`);
    for (const [f, d] of Object.entries(details))
      if (d.ref && !file.entities[d.ref]) tell(["entities", name, "fields", f, "ref"], `no entity '${d.ref}'`);
    const types = Object.fromEntries(Object.entries(details).map(([f, d]) => [f, d.type]));
    entities[name] = { name, key, fields: types, details, max, log, invariants: [] };
  }
  return entities;
}

export function invariantsOf(file: WorldFile, entities: Record<string, Entity>, scope: Scope): void {
  for (const [name, { invariants }] of Object.entries(file.entities)) {
    const inner = scope.with({ row: { kind: "row", entity: name } });
    for (const [i, { say, holds }] of invariants.entries())
      entities[name]?.invariants.push({
        say,
        holds: predicate(holds, inner, ["entities", name, "invariants", i, "holds"]),
      });
  }
}

/** The first breach of `frame.state`, or undefined. Only rows that differ from `trusted` are looked at, and whoever refers to them. */
export function breach(
  entities: Readonly<Record<string, Entity>>,
  global: readonly { say: string; holds?: Compiled; conserved?: Compiled }[],
  frame: Frame,
  trusted?: State,
): string | undefined {
  const { state } = frame;
  for (const entity of Object.values(entities)) {
    const table = state[entity.name] ?? {};
    // A row elsewhere may have lost what it refers to, or an invariant may look across tables: where nothing changed
    // in any table that could matter, the cheap comparison of references has already said so.
    const whole =
      !trusted || Object.keys(entities).some((e) => entities[e]?.invariants.length && trusted[e] !== state[e]);
    if (!whole && trusted?.[entity.name] === table && !lostRows(entity, trusted, state)) continue;
    const keys = Object.keys(table);
    if (keys.length > entity.max) return `${entity.name} holds ${keys.length} rows, more than ${entity.max}`;
    for (const key of keys) {
      const row = table[key];
      if (!row) continue;
      if (row[entity.key] !== key) return `two ${entity.name} rows have the key ${row[entity.key]}`;
      for (const [field, detail] of Object.entries(entity.details)) {
        const why = wrong(row[field] ?? null, detail, state);
        if (why) return `${entity.name} ${key}: ${field} ${why}`;
      }
      for (const { say, holds } of entity.invariants)
        if (holds.run({ ...frame, vars: { row: key } }) !== true) return `${entity.name} ${key}: ${say}`;
    }
  }
  for (const { say, holds, conserved } of global) {
    if (holds && holds.run(frame) !== true) return say;
    if (conserved && !same(conserved.run(frame), conserved.run({ ...frame, state: frame.initial }))) return say;
  }
  return undefined;
}

function lostRows(entity: Entity, before: State, after: State): boolean {
  return Object.values(entity.details).some(
    ({ ref }) => ref && before[ref] !== after[ref] && Object.keys(before[ref] ?? {}).some((k) => !rowOf(after, ref, k)),
  );
}

/** Why a value may not stand in a field, or undefined. */
export function wrong(value: Value, field: Field, state: State, type: Type = field.type): string | undefined {
  if (type.kind === "maybe") return value === null ? undefined : wrong(value, field, state, type.of);
  if (type.kind === "list") {
    if (!Array.isArray(value)) return "is not a list";
    if (value.length > type.bound) return `holds ${value.length} items, more than ${type.bound}`;
    for (const item of value) {
      const why = wrong(item, field, state, type.of);
      if (why) return why;
    }
    return undefined;
  }
  if (type.kind === "integer") {
    if (typeof value !== "number" || !Number.isSafeInteger(value)) return `is not an integer`;
    return value < field.min || value > field.max ? `is ${value}, outside ${field.min} to ${field.max}` : undefined;
  }
  if (type.kind === "boolean") return typeof value === "boolean" ? undefined : "is not true or false";
  if (typeof value !== "string") return "is not a string";
  if (field.enum && !field.enum.includes(value)) return `is '${value}', not one of ${field.enum.join(", ")}`;
  return type.kind === "row" && !rowOf(state, type.entity, value) ? `names no ${type.entity}: '${value}'` : undefined;
}
