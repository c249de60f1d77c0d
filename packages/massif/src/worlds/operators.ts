/** The operators of the expression language: how many arguments, of which types, and what they do. All are total. */
import { nearest } from "../common/index.ts";
import { type Compiled, compile, type Frame, refuse, type Scope, TEXT_LIMIT } from "./expression.ts";
import { quantifiers } from "./quantifiers.ts";
import type { Path } from "./source.ts";
import { template } from "./template.ts";
import {
  BOOLEAN,
  compare,
  INTEGER,
  join,
  maybe,
  STRING,
  same,
  show,
  type Type,
  text,
  UNKNOWN,
  type Value,
} from "./value.ts";

/** One use of an operator. `at(i, wanted, scope?)` compiles argument `i` and holds it to a type. */
export interface Use {
  raw: readonly unknown[];
  scope: Scope;
  path: Path;
  at(i: number, wanted?: Type, scope?: Scope): Compiled;
}

export interface Operator {
  /** How it is written, for messages and docs. */
  use: string;
  least: number;
  /** As `least` where absent. */
  most?: number;
  compile(use: Use): Compiled;
}

const MANY = Number.POSITIVE_INFINITY;
const clamp = (x: number): number =>
  Math.min(Number.MAX_SAFE_INTEGER, Math.max(Number.MIN_SAFE_INTEGER, Number.isNaN(x) ? 0 : x)) || 0;

/** Checks and compiles every argument against one type, then folds their values. */
function plain(
  use: string,
  least: number,
  most: number,
  of: Type,
  type: Type,
  run: (args: Value[]) => Value,
): Operator {
  return {
    use,
    least,
    most,
    compile({ raw, at }) {
      const args = raw.map((_, i) => at(i, of));
      return { type, cost: 1 + total(args), run: (frame) => run(args.map((a) => a.run(frame))) };
    },
  };
}

const total = (args: readonly Compiled[]): number => args.reduce((sum, a) => sum + a.cost, 0);
const integers = (name: string, most: number, f: (a: number, b: number) => number): Operator =>
  plain(`["${name}", integer, integer${most > 2 ? ", …" : ""}]`, 2, most, INTEGER, INTEGER, (args) =>
    (args as number[]).reduce((a, b) => clamp(f(a, b))),
  );

/** `<` and its kin compare two integers, or two strings by code units. */
function order(name: string, holds: (sign: number) => boolean): Operator {
  return {
    use: `["${name}", a, b] on two integers or two strings`,
    least: 2,
    compile({ at, scope, path }) {
      const [a, b] = [at(0), at(1)];
      const type = join(a.type, b.type);
      if (
        !type ||
        (type.kind !== "integer" && type.kind !== "string" && type.kind !== "row" && type.kind !== "unknown")
      )
        return refuse(
          scope,
          path,
          `'${name}' compares two integers or two strings, found ${show(a.type)} and ${show(b.type)}`,
        );
      return { type: BOOLEAN, cost: 1 + a.cost + b.cost, run: (f) => holds(compare(a.run(f), b.run(f))) };
    },
  };
}

function equality(name: string, wanted: boolean): Operator {
  return {
    use: `["${name}", a, b]`,
    least: 2,
    compile({ at, scope, path }) {
      const [a, b] = [at(0), at(1)];
      if (!join(a.type, b.type)) return refuse(scope, path, `${show(a.type)} never equals ${show(b.type)}`);
      return { type: BOOLEAN, cost: 1 + a.cost + b.cost, run: (f) => same(a.run(f), b.run(f)) === wanted };
    },
  };
}

const logic: Record<string, Operator> = {
  and: plain('["and", p, q, …]', 1, MANY, BOOLEAN, BOOLEAN, (args) => args.every((a) => a === true)),
  or: plain('["or", p, q, …]', 1, MANY, BOOLEAN, BOOLEAN, (args) => args.some((a) => a === true)),
  not: plain('["not", p]', 1, 1, BOOLEAN, BOOLEAN, ([a]) => a !== true),
  if: {
    use: '["if", p, then, else]',
    least: 3,
    compile({ at, scope, path }) {
      const [p, a, b] = [at(0, BOOLEAN), at(1), at(2)];
      const type = join(a.type, b.type);
      if (!type) return refuse(scope, path, `the branches of 'if' differ: ${show(a.type)} and ${show(b.type)}`);
      return { type, cost: 1 + total([p, a, b]), run: (f) => (p.run(f) === true ? a.run(f) : b.run(f)) };
    },
  },
  else: {
    use: '["else", maybe, value]',
    least: 2,
    compile({ at, scope, path }) {
      const [a, b] = [at(0), at(1)];
      const type = join(a.type.kind === "maybe" ? a.type.of : a.type.kind === "null" ? b.type : a.type, b.type);
      if (!type) return refuse(scope, path, `${show(b.type)} cannot stand in for ${show(a.type)}`);
      return { type, cost: 1 + a.cost + b.cost, run: (f) => a.run(f) ?? b.run(f) };
    },
  },
};

const strings: Record<string, Operator> = {
  concat: plain('["concat", a, b, …]', 1, MANY, STRING, STRING, (args) => args.join("").slice(0, TEXT_LIMIT)),
  lower: plain('["lower", s]', 1, 1, STRING, STRING, ([s]) => (s as string).toLowerCase().slice(0, TEXT_LIMIT)),
  length: plain('["length", s]', 1, 1, STRING, INTEGER, ([s]) => (s as string).length),
  contains: plain('["contains", s, part]', 2, 2, STRING, BOOLEAN, ([s, p]) => (s as string).includes(p as string)),
  starts: plain('["starts", s, part]', 2, 2, STRING, BOOLEAN, ([s, p]) => (s as string).startsWith(p as string)),
  show: {
    use: '["show", value]',
    least: 1,
    compile({ at }) {
      const a = at(0);
      return { type: STRING, cost: 1 + a.cost, run: (f) => text(a.run(f)).slice(0, TEXT_LIMIT) };
    },
  },
  text: {
    use: '["text", "A sentence with {slots.like.this}."]',
    least: 1,
    compile({ raw, scope, path }) {
      const [words] = raw;
      if (typeof words !== "string") return refuse(scope, path, "'text' takes one sentence with {slots}");
      const made = template(words, scope, [...path, 1]);
      return { type: STRING, cost: made.cost, run: (f) => made.run(f).slice(0, TEXT_LIMIT) };
    },
  },
};

const lists: Record<string, Operator> = {
  list: {
    use: '["list", a, b, …]',
    least: 0,
    most: MANY,
    compile({ raw, at, scope, path }) {
      const args = raw.map((_, i) => at(i));
      let of: Type = UNKNOWN;
      for (const { type } of args) {
        const both = of.kind === "unknown" ? type : join(of, type);
        if (!both) return refuse(scope, path, `a list of ${show(of)} cannot hold ${show(type)}`);
        of = both;
      }
      const type: Type = { kind: "list", of, bound: args.length };
      return { type, cost: 1 + total(args), run: (f) => args.map((a) => a.run(f)) };
    },
  },
  size: {
    use: '["size", list]',
    least: 1,
    compile({ at, scope, path }) {
      const a = at(0);
      if (a.type.kind !== "list" && a.type.kind !== "unknown")
        return refuse(scope, path, `${show(a.type)} has no size`);
      return { type: INTEGER, cost: 1 + a.cost, run: (f) => (a.run(f) as Value[]).length };
    },
  },
  in: {
    use: '["in", value, list]',
    least: 2,
    compile({ at, scope, path }) {
      const [a, b] = [at(0), at(1)];
      if (b.type.kind === "unknown") return b;
      if (b.type.kind !== "list" || !join(a.type, b.type.of))
        return refuse(scope, path, `${show(a.type)} is never in ${show(b.type)}`);
      const run = (f: Frame): Value => {
        const value = a.run(f);
        return (b.run(f) as Value[]).some((x) => same(x, value));
      };
      return { type: BOOLEAN, cost: 1 + a.cost + b.cost + b.type.bound, run };
    },
  },
};

const world: Record<string, Operator> = {
  called: {
    use: '["called", "tool", { "argument": value }]',
    least: 1,
    most: 2,
    compile({ raw, scope, path }) {
      const [tool, wanted = {}] = raw;
      const params = typeof tool === "string" && Object.hasOwn(scope.tools, tool) ? scope.tools[tool] : undefined;
      if (typeof tool !== "string" || !params) {
        const like = nearest(String(tool), Object.keys(scope.tools));
        return refuse(scope, [...path, 1], `no tool '${tool}'${like ? `; did you mean '${like}'?` : ""}`);
      }
      if (typeof wanted !== "object" || wanted === null || Array.isArray(wanted))
        return refuse(scope, path, "the arguments of 'called' are an object");
      const args = Object.entries(wanted).map(([name, source]) => {
        const at = [...path, 2, name];
        const type = params[name];
        if (!type) scope.tell(at, `${tool} has no parameter '${name}'`);
        return [name, compile(source, scope, at, type && maybe(type))] as const;
      });
      const run = (frame: Frame): Value => {
        const want = args.map(([name, a]) => [name, a.run(frame)] as const);
        return frame.history.some((m) => m.ok && m.tool === tool && want.every(([n, v]) => same(m.args[n] ?? null, v)));
      };
      return { type: BOOLEAN, cost: 64 + total(args.map(([, a]) => a)), run };
    },
  },
  was: {
    use: '["was", expression at the start of the episode]',
    least: 1,
    compile({ at }) {
      const a = at(0);
      return { ...a, cost: 1 + a.cost, run: (f) => a.run({ ...f, state: f.initial }) };
    },
  },
  fresh: {
    use: '["fresh", "entity", "PREFIX"]',
    least: 2,
    compile({ raw, scope, path }) {
      const [entity, prefix] = raw;
      if (typeof entity !== "string" || !Object.hasOwn(scope.entities, entity) || typeof prefix !== "string")
        return refuse(scope, path, `'fresh' names an entity and a prefix, found ${JSON.stringify(raw)}`);
      return { type: STRING, cost: 64, run: (frame) => fresh(frame, entity, prefix) };
    },
  },
};

/** A key that no row of the table has: the prefix and a number that follows from seed and table alone. */
export function fresh(frame: Pick<Frame, "state" | "seed">, entity: string, prefix: string): string {
  const table = frame.state[entity] ?? {};
  let n = (Math.imul(frame.seed ^ 0x9e3779b9, 0x85ebca6b) >>> 8) % 8000;
  n += 1000 + Object.keys(table).length * 37;
  while (Object.hasOwn(table, `${prefix}${n}`)) n++;
  return `${prefix}${n}`;
}

export const operators: Readonly<Record<string, Operator>> = {
  "+": integers("+", MANY, (a, b) => a + b),
  "-": integers("-", 2, (a, b) => a - b),
  "*": integers("*", MANY, (a, b) => a * b),
  // Total: x div 0 = 0 and x mod 0 = 0; both round towards −∞, so 0 ≤ x mod y < y.
  div: integers("div", 2, (a, b) => (b ? Math.floor(a / b) : 0)),
  mod: integers("mod", 2, (a, b) => (b ? a - b * Math.floor(a / b) : 0)),
  min: integers("min", MANY, Math.min),
  max: integers("max", MANY, Math.max),
  "==": equality("==", true),
  "!=": equality("!=", false),
  "<": order("<", (s) => s < 0),
  "<=": order("<=", (s) => s <= 0),
  ">": order(">", (s) => s > 0),
  ">=": order(">=", (s) => s >= 0),
  ...logic,
  ...strings,
  ...lists,
  ...quantifiers,
  ...world,
};
