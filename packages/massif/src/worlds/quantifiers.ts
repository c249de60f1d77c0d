/** Operators that bind a name: over all rows of an entity (named by a plain string, in key order) or over a list. */
import { nearest } from "../common/index.ts";
import { type Compiled, type Frame, refuse, type Scope } from "./expression.ts";
import type { Operator, Use } from "./operators.ts";
import { rowOf } from "./state.ts";
import { BOOLEAN, compare, INTEGER, join, maybe, STRING, same, show, type Type, type Value } from "./value.ts";

interface Range {
  name: string;
  of: Type;
  bound: number;
  cost: number;
  items(frame: Frame): Value[];
  inner: Scope;
}

/** Reads `[name, source]` from the first two arguments; undefined after telling what is wrong. */
function range({ raw, scope, path, at }: Use): Range | undefined {
  const [name, source] = raw;
  const bound = bind(name, scope, path);
  if (bound === undefined) return undefined;
  let of: Type;
  let size: number;
  let cost = 1;
  let items: Range["items"];
  if (typeof source === "string" && !source.startsWith("$")) {
    const entity = Object.hasOwn(scope.entities, source) ? scope.entities[source] : undefined;
    if (!entity) {
      const like = nearest(source, Object.keys(scope.entities));
      scope.tell([...path, 2], `no entity '${source}'${like ? `; did you mean '${like}'?` : ""}`);
      return undefined;
    }
    of = { kind: "row", entity: source };
    size = entity.max;
    items = (frame) => Object.keys(frame.state[source] ?? {}).sort();
  } else {
    const list = at(1);
    if (list.type.kind !== "list") {
      if (list.type.kind !== "unknown")
        scope.tell([...path, 2], `expected an entity or a list, found ${show(list.type)}`);
      return undefined;
    }
    of = list.type.of;
    size = list.type.bound;
    cost = list.cost;
    items = (frame) => list.run(frame) as Value[];
  }
  return { name: bound, of, bound: size, cost, items, inner: scope.with({ [bound]: of }) };
}

function bind(name: unknown, scope: Scope, path: readonly (string | number)[]): string | undefined {
  if (typeof name !== "string" || !/^[a-z][a-z0-9_]*$/.test(name)) {
    scope.tell([...path, 1], `expected a name to bind, found ${JSON.stringify(name)}`);
    return undefined;
  }
  if (Object.hasOwn(scope.vars, name)) {
    scope.tell([...path, 1], `$${name} is already bound here; take another name`);
    return undefined;
  }
  return name;
}

const unknown: Compiled = { type: { kind: "unknown" }, cost: 0, run: () => null };

/** A quantifier with one body: `fold` gets the items and a way to evaluate the body for one of them. */
function over(
  use: string,
  body: { type?: Type },
  result: (body: Compiled, range: Range) => Type | string,
  fold: (items: Value[], body: (item: Value) => Value) => Value,
): Operator {
  return {
    use,
    least: 3,
    compile(u) {
      const r = range(u);
      if (!r) return unknown;
      const inside = u.at(2, body.type, r.inner);
      const type = result(inside, r);
      if (typeof type === "string") return refuse(u.scope, u.path, type);
      const run = (frame: Frame): Value => {
        const at = (item: Value): Value => {
          frame.vars[r.name] = item;
          return inside.run(frame);
        };
        return fold(r.items(frame), at);
      };
      return { type, cost: 1 + r.cost + r.bound * (1 + inside.cost), run };
    },
  };
}

const ordered = (body: Compiled, r: Range): Type | string =>
  ["integer", "string", "row", "unknown"].includes(body.type.kind)
    ? { kind: "list", of: r.of, bound: r.bound }
    : `sorts by an integer or a string, found ${show(body.type)}`;

/** Sorts by body, ties by the items themselves, so that the result follows from the contents alone. */
const sorted = (items: Value[], by: (item: Value) => Value): Value[] =>
  items
    .map((item) => [item, by(item)] as const)
    .sort(([a, x], [b, y]) => compare(x, y) || compare(a, b))
    .map(([item]) => item);

const sum = (items: Value[], by: (item: Value) => Value): number =>
  items.reduce((total: number, item) => {
    const next = total + (by(item) as number);
    return Number.isSafeInteger(next) ? next : Math.sign(next) * Number.MAX_SAFE_INTEGER;
  }, 0);

export const quantifiers: Readonly<Record<string, Operator>> = {
  all: over(
    '["all", name, entity or list, p]',
    { type: BOOLEAN },
    () => BOOLEAN,
    (items, p) => items.every((x) => p(x) === true),
  ),
  any: over(
    '["any", name, entity or list, p]',
    { type: BOOLEAN },
    () => BOOLEAN,
    (items, p) => items.some((x) => p(x) === true),
  ),
  count: over(
    '["count", name, entity or list, p]',
    { type: BOOLEAN },
    () => INTEGER,
    (items, p) => items.filter((x) => p(x) === true).length,
  ),
  sum: over('["sum", name, entity or list, integer]', { type: INTEGER }, () => INTEGER, sum),
  where: over(
    '["where", name, entity or list, p]',
    { type: BOOLEAN },
    (_, r) => ({ kind: "list", of: r.of, bound: r.bound }),
    (items, p) => items.filter((x) => p(x) === true),
  ),
  map: over(
    '["map", name, entity or list, value]',
    {},
    (b, r) => ({ kind: "list", of: b.type, bound: r.bound }),
    (items, f) => items.map(f),
  ),
  sort: over('["sort", name, entity or list, by]', {}, ordered, sorted),
  least: over(
    '["least", name, entity or list, by]',
    {},
    (b, r) => (typeof ordered(b, r) === "string" ? ordered(b, r) : maybe(r.of)),
    (items, by) => sorted(items, by)[0] ?? null,
  ),
  most: over(
    '["most", name, entity or list, by]',
    {},
    (b, r) => (typeof ordered(b, r) === "string" ? ordered(b, r) : maybe(r.of)),
    (items, by) => sorted(items, by).at(-1) ?? null,
  ),
  distinct: over(
    '["distinct", name, entity or list, value]',
    {},
    (b, r) => ({ kind: "list", of: b.type, bound: r.bound }),
    (items, f) => {
      const seen: Value[] = [];
      for (const item of items.map(f)) if (!seen.some((s) => same(s, item))) seen.push(item);
      return seen;
    },
  ),
  let: {
    use: '["let", name, maybe a value, then, else]: binds the value where there is one',
    least: 4,
    compile(u) {
      const bound = bind(u.raw[0], u.scope, u.path);
      const value = u.at(1);
      if (!bound) return unknown;
      const of = value.type.kind === "maybe" ? value.type.of : value.type;
      return branch(u, bound, of, value.cost, (frame) => value.run(frame));
    },
  },
  find: {
    use: '["find", name, "entity", key, then, else]: binds the row with this key where there is one',
    least: 5,
    compile(u) {
      const [name, entity] = u.raw;
      const bound = bind(name, u.scope, u.path);
      const key = u.at(2, STRING);
      if (!bound) return unknown;
      if (typeof entity !== "string" || !Object.hasOwn(u.scope.entities, entity))
        return refuse(u.scope, [...u.path, 2], `no entity '${entity}'`);
      const row = (frame: Frame): Value => {
        const k = key.run(frame);
        return rowOf(frame.state, entity, k) ? k : null;
      };
      return branch(
        { ...u, at: (i, wanted, scope) => u.at(i + 1, wanted, scope) },
        bound,
        { kind: "row", entity },
        key.cost,
        row,
      );
    },
  },
};

/** `then` (argument 2) where `value` is there, bound to `name`; `else` (argument 3) where not. */
function branch(u: Use, name: string, of: Type, cost: number, value: (frame: Frame) => Value): Compiled {
  const yes = u.at(2, undefined, u.scope.with({ [name]: of }));
  const no = u.at(3);
  const type = join(yes.type, no.type);
  if (!type) return refuse(u.scope, u.path, `the branches differ: ${show(yes.type)} and ${show(no.type)}`);
  const run = (frame: Frame): Value => {
    const found = value(frame);
    if (found === null) return no.run(frame);
    frame.vars[name] = found;
    return yes.run(frame);
  };
  return { type, cost: 1 + cost + yes.cost + no.cost, run };
}
