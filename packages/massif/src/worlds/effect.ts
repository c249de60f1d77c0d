/** Effects: set a field, insert a row, delete a row. Computed from one state, applied in order, checked, or not at all. */
import { type Compiled, compile, type Frame, predicate, refuse, type Scope, variable } from "./expression.ts";
import type { EffectFile } from "./schema.ts";
import type { Path } from "./source.ts";
import { rowOf, type State, withoutRow, withRow } from "./state.ts";
import { show, type Type, type Value } from "./value.ts";

type Change = (state: State) => State;
/** What an effect does to a state, decided while looking at the frame's. */
export type Effect = (frame: Frame) => Change[];

export function effect(file: EffectFile, scope: Scope, path: Path): Effect {
  let inner = scope;
  let items: ((frame: Frame) => Value[]) | undefined;
  if (file.each) {
    const [name, source] = file.each;
    // `each` is the quantifier `where` with a body that always holds.
    const list = compile(["where", name, source, true], scope, [...path, "each"]);
    if (list.type.kind === "list") inner = scope.with({ [name]: list.type.of });
    items = (frame) => list.run(frame) as Value[];
  }
  const when = file.when === undefined ? undefined : predicate(file.when, inner, [...path, "when"]);
  const once = change(file, inner, path);
  const guarded = (frame: Frame): Change[] => (when && when.run(frame) !== true ? [] : [once(frame)]);
  if (!items || !file.each) return guarded;
  const [name] = file.each;
  return (frame) =>
    items(frame).flatMap((item) => {
      frame.vars[name] = item;
      return guarded(frame);
    });
}

function change(file: EffectFile, scope: Scope, path: Path): (frame: Frame) => Change {
  if ("set" in file) return set(file.set, file.to, scope, path);
  if ("insert" in file) return insert(file.insert, file.row, scope, path);
  const row = variable(file.delete.slice(1), scope, [...path, "delete"]);
  const { type } = row;
  if (type.kind !== "row") {
    refuse(scope, [...path, "delete"], `only a row can be deleted, found ${show(type)}`);
    return () => (state) => state;
  }
  return (frame) => {
    const key = String(row.run(frame));
    return (state) => withoutRow(state, type.entity, key);
  };
}

function set(target: string, to: unknown, scope: Scope, path: Path): (frame: Frame) => Change {
  const parts = target.slice(1).split(".");
  const field = parts.pop() ?? "";
  const row = variable(parts.join("."), scope, [...path, "set"]);
  const type: Type = row.type;
  if (type.kind !== "row") {
    if (type.kind !== "unknown")
      refuse(scope, [...path, "set"], `only a field of a row can be set, as in $order.status`);
    return () => (state) => state;
  }
  const entity = scope.entities[type.entity];
  const wanted = entity?.fields[field];
  if (!wanted || field === entity?.key) {
    const why = wanted
      ? `'${field}' is the key of ${type.entity}, which never changes`
      : `${type.entity} has no field '${field}'`;
    refuse(scope, [...path, "set"], why);
  }
  const value = compile(to, scope, [...path, "to"], wanted);
  return (frame) => {
    const [key, after] = [String(row.run(frame)), value.run(frame)];
    return (state) => {
      const before = rowOf(state, type.entity, key);
      return before ? withRow(state, type.entity, key, { ...before, [field]: after }) : state;
    };
  };
}

function insert(name: string, row: Record<string, unknown>, scope: Scope, path: Path): (frame: Frame) => Change {
  const entity = scope.entities[name];
  if (!entity) {
    refuse(scope, [...path, "insert"], `no entity '${name}'`);
    return () => (state) => state;
  }
  const fields: [string, Compiled][] = [];
  for (const [field, type] of Object.entries(entity.fields)) {
    if (field in row) fields.push([field, compile(row[field], scope, [...path, "row", field], type)]);
    else if (type.kind === "maybe") fields.push([field, { type, cost: 0, run: () => null }]);
    else refuse(scope, [...path, "row"], `a new ${name} needs '${field}'`);
  }
  for (const field of Object.keys(row))
    if (!entity.fields[field]) refuse(scope, [...path, "row", field], `${name} has no field '${field}'`);
  return (frame) => {
    const made = Object.fromEntries(fields.map(([field, value]) => [field, value.run(frame)]));
    const key = String(made[entity.key]);
    // A second row with a key that is taken is a breach, which the check of the new state finds by its mark.
    return (state) => withRow(state, name, rowOf(state, name, key) ? `${key}\u0000taken` : key, made);
  };
}

/** All changes are decided on the frame's state, then made in order. */
export function apply(effects: readonly Effect[], frame: Frame): State {
  const changes = effects.flatMap((e) => e(frame));
  return changes.reduce((state, make) => make(state), frame.state);
}
