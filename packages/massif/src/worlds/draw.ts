/** Everything drawn from the seed: the first state of a world, and the facts of a task. */
import { MassifError, type Random } from "../common/index.ts";
import { type Compiled, compile, type EntityType, type Frame, predicate, type Scope } from "./expression.ts";
import type { DrawFile, WorldFile } from "./schema.ts";
import type { Path } from "./source.ts";
import { type Row, rowOf } from "./state.ts";
import { BOOLEAN, fits, INTEGER, STRING, show, type Type, UNKNOWN, type Value } from "./value.ts";

export type Split = "train" | "heldout";

/** What a draw may use: its random numbers, the split of its word banks, and the words already given out. */
export interface Drawing {
  random: Random;
  split: Split;
  used: Set<string>;
}

/** Gives a value, or undefined where nothing fits (no row satisfies `where`, an empty range). */
export interface Draw {
  type: Type;
  run(frame: Frame, drawing: Drawing): Value | undefined;
}

const failed: Draw = { type: UNKNOWN, run: () => undefined };

export function draw(file: DrawFile, name: string, banks: WorldFile["banks"], scope: Scope, path: Path): Draw {
  if ("bank" in file) return fromBank(file, banks, scope, path);
  if ("int" in file) {
    const [low, high] = file.int.map((e, i) => compile(e, scope, [...path, "int", i], INTEGER)) as [Compiled, Compiled];
    const { step = 1 } = file;
    const run: Draw["run"] = (frame, { random }) => {
      const [from, to] = [low.run(frame) as number, high.run(frame) as number];
      return to < from ? undefined : from + step * random.int(Math.floor(Math.min(to - from, 2 ** 31) / step) + 1);
    };
    return { type: INTEGER, run };
  }
  if ("row" in file || "rows" in file) return fromRows(file, name, scope, path);
  if ("pick" in file) {
    const list = compile(file.pick, scope, [...path, "pick"]);
    if (list.type.kind !== "list") {
      if (list.type.kind !== "unknown") scope.tell([...path, "pick"], `expected a list, found ${show(list.type)}`);
      return failed;
    }
    const run: Draw["run"] = (frame, { random }) => {
      const items = list.run(frame) as Value[];
      return items.length ? random.pick(items) : undefined;
    };
    return { type: list.type.of, run };
  }
  if ("chance" in file) return { type: BOOLEAN, run: (_, { random }) => random.int(100) < file.chance };
  if ("id" in file) {
    const run: Draw["run"] = (_, { random, used }) => {
      for (;;) {
        const id = `${file.id}${1000 + random.int(9000)}`;
        if (used.has(id)) continue;
        used.add(id);
        return id;
      }
    };
    return { type: STRING, run };
  }
  const value = compile(file.value, scope, [...path, "value"]);
  return { type: value.type, run: (frame) => value.run(frame) };
}

function fromBank(
  file: { bank: string; unique?: boolean | undefined },
  banks: WorldFile["banks"],
  scope: Scope,
  path: Path,
): Draw {
  const bank = Object.hasOwn(banks, file.bank) ? banks[file.bank] : undefined;
  if (!bank) {
    scope.tell([...path, "bank"], `no bank '${file.bank}'`);
    return failed;
  }
  const run: Draw["run"] = (_, { random, split, used }) => {
    const words = Array.isArray(bank) ? bank : bank[split];
    if (!file.unique) return random.pick(words);
    const left = words.filter((w) => !used.has(`${file.bank}:${w}`));
    if (!left.length) return undefined;
    const word = random.pick(left);
    used.add(`${file.bank}:${word}`);
    return word;
  };
  return { type: STRING, run };
}

function fromRows(
  file: Extract<DrawFile, { row: string } | { rows: string }>,
  name: string,
  scope: Scope,
  path: Path,
): Draw {
  const entity = "row" in file ? file.row : file.rows;
  if (!Object.hasOwn(scope.entities, entity)) {
    scope.tell(path, `no entity '${entity}'`);
    return failed;
  }
  const row: Type = { kind: "row", entity };
  // In `where` the row goes by the name it is drawn for (for `rows`, by `row`).
  const as = "row" in file ? name : "row";
  const where =
    file.where === undefined ? undefined : predicate(file.where, scope.with({ [as]: row }), [...path, "where"]);
  const fitting = (frame: Frame): string[] =>
    Object.keys(frame.state[entity] ?? {})
      .sort()
      .filter((key) => {
        if (!where) return true;
        frame.vars[as] = key;
        return where.run(frame) === true;
      });
  if ("row" in file) {
    const run: Draw["run"] = (frame, { random }) => {
      const keys = fitting(frame);
      return keys.length ? random.pick(keys) : undefined;
    };
    return { type: row, run };
  }
  const [least, most] = file.count;
  const run: Draw["run"] = (frame, { random }) => {
    const keys = fitting(frame);
    const n = least + random.int(Math.max(0, most - least) + 1);
    return keys.length < least ? undefined : random.shuffle(keys).slice(0, n);
  };
  return { type: { kind: "list", of: row, bound: most }, run };
}

/** Fills the tables, in the order of the file. */
export function populating(file: WorldFile, scope: Scope): (frame: Frame, drawing: Drawing) => Frame {
  const lots = file.populate.map((lot, i) => {
    const path: Path = ["populate", i];
    const entity = Object.hasOwn(scope.entities, lot.entity) ? scope.entities[lot.entity] : undefined;
    if (!entity) scope.tell([...path, "entity"], `no entity '${lot.entity}'`);
    let inner = scope;
    if (lot.each && lot.as) inner = inner.with({ [lot.as]: { kind: "row", entity: lot.each } });
    if (lot.each && !lot.as) scope.tell(path, "'each' needs 'as', the name its row goes by");
    if (lot.each && !Object.hasOwn(scope.entities, lot.each)) scope.tell([...path, "each"], `no entity '${lot.each}'`);
    const draws: [string, Draw][] = [];
    for (const [field, source] of Object.entries(lot.fields)) {
      const at = [...path, "fields", field];
      const made = draw(source, field, file.banks, inner, at);
      const wanted = entity?.fields[field];
      if (entity && !wanted) scope.tell(at, `${lot.entity} has no field '${field}'`);
      if (wanted && !fits(made.type, wanted)) scope.tell(at, `expected ${show(wanted)}, found ${show(made.type)}`);
      draws.push([field, made]);
      inner = inner.with({ [field]: wanted ?? made.type });
    }
    for (const field of missing(entity, lot.fields))
      scope.tell([...path, "fields"], `a ${lot.entity} needs '${field}'`);
    return { lot, entity, draws };
  });
  return (start, drawing) => {
    // Nobody else holds these tables yet, so rows are added in place.
    const tables: Record<string, Record<string, Row>> = Object.fromEntries(
      Object.keys(start.state).map((e) => [e, {}]),
    );
    const frame: Frame = { ...start, state: tables };
    for (const { lot, entity, draws } of lots) {
      let rows = Object.keys(tables[lot.entity] ?? {}).length;
      const owners = lot.each ? Object.keys(frame.state[lot.each] ?? {}) : [null];
      for (const owner of owners) {
        const [least, most] = Array.isArray(lot.count) ? lot.count : [lot.count, lot.count];
        for (let n = least + drawing.random.int(Math.max(0, most - least) + 1); n > 0; n--) {
          frame.vars = lot.as && owner !== null ? { [lot.as]: owner } : {};
          const row: Record<string, Value> = Object.fromEntries(missing(entity, {}, true).map((f) => [f, null]));
          for (const [field, source] of draws) {
            const value = source.run(frame, drawing);
            if (value === undefined) throw exhausted(`${lot.entity}.${field}`);
            frame.vars[field] = value;
            row[field] = value;
          }
          const key = String(row[entity?.key ?? ""]);
          if (++rows > (entity?.max ?? 0)) throw exhausted(`${lot.entity} (more than its ${entity?.max} rows)`);
          if (rowOf(frame.state, lot.entity, key)) throw exhausted(`${lot.entity} (the key ${key} came twice)`);
          Object.defineProperty(tables[lot.entity] ?? {}, key, {
            value: row,
            enumerable: true,
            writable: true,
            configurable: true,
          });
        }
      }
    }
    return { ...frame, initial: tables, vars: {} };
  };
}

function missing(entity: EntityType | undefined, given: object, optional = false): string[] {
  return Object.entries(entity?.fields ?? {})
    .filter(([field, type]) => !(field in given) && (type.kind === "maybe") === optional)
    .map(([field]) => field);
}

export function exhausted(what: string): MassifError {
  return new MassifError("world.draw", {
    found: `nothing left to draw for ${what}`,
    expected: "enough words in the bank, rows that satisfy 'where', and ranges that are not empty",
    fix: "add words, mark the draw 'unique', or loosen the condition",
  });
}
