import fc from "fast-check";
import { expect, test } from "vitest";
import { compile, type Frame, Scope } from "./expression.ts";
import { fits, INTEGER, maybe, STRING, show, type Type, type Value } from "./value.ts";

const entities = {
  user: { key: "id", max: 4, log: false, fields: { id: STRING, name: STRING, age: INTEGER } },
  order: {
    key: "id",
    max: 8,
    log: false,
    fields: { id: STRING, user: { kind: "row", entity: "user" } as Type, total: INTEGER, note: maybe(STRING) },
  },
};
const vars: Record<string, Type> = {
  now: INTEGER,
  n: INTEGER,
  name: STRING,
  order: { kind: "row", entity: "order" },
  tip: maybe(INTEGER),
};
const state = {
  user: { u1: { id: "u1", name: "ann", age: 30 }, u2: { id: "u2", name: "bo", age: 40 } },
  order: {
    o1: { id: "o1", user: "u1", total: 5, note: null },
    o2: { id: "o2", user: "u2", total: 7, note: "late" },
    o3: { id: "o3", user: "u1", total: 9, note: null },
  },
};
const frame = (more: Partial<Frame> = {}): Frame => ({
  state,
  initial: state,
  history: [{ tool: "read", args: { id: "o1" }, ok: true }],
  now: 3,
  seed: 1,
  vars: { n: 4, name: "ann", order: "o2", tip: null },
  ...more,
});

function compiled(source: unknown) {
  const issues: string[] = [];
  const scope = new Scope(
    entities,
    { read: { id: STRING } },
    (path, message) => issues.push(`${path.join(".")}: ${message}`),
    vars,
  );
  return { ...compile(source, scope, []), issues };
}

test.each<[unknown, Value]>([
  [["+", "$n", 2, "$now"], 9],
  [["div", 7, -2], -4],
  [["div", 7, 0], 0],
  [["mod", -1, 5], 4],
  [["mod", 3, 0], 0],
  [["*", 9007199254740991, 2], 9007199254740991],
  ["$order.user.name", "bo"],
  [["==", "$order.user", "u2"], true],
  [["sum", "o", "order", "$o.total"], 21],
  [["count", "o", "order", ["==", "$o.user.name", "$name"]], 2],
  [["all", "o", "order", [">", "$o.total", 4]], true],
  [["any", "o", "order", ["!=", "$o.note", null]], true],
  [
    ["map", "o", ["sort", "p", "order", ["-", 0, "$p.total"]], "$o.total"],
    [9, 7, 5],
  ],
  [["least", "o", "order", "$o.total"], "o1"],
  [["most", "o", ["where", "p", "order", ["==", "$p.total", 0]], "$o.total"], null],
  [
    ["distinct", "o", "order", "$o.user.name"],
    ["ann", "bo"],
  ],
  [["else", "$order.note", "none"], "late"],
  [["let", "t", "$tip", ["+", "$t", 1], -1], -1],
  [["find", "o", "order", "o9", "$o.total", 0], 0],
  [["text", "{order} of {order.user.name}: {n}"], "o2 of bo: 4"],
  [["called", "read", { id: "o1" }], true],
  [["called", "read", { id: "o2" }], false],
  [["if", ["<", "a", "b"], "yes", "no"], "yes"],
  [["in", 3, ["list", 1, 2, 3]], true],
  [
    { a: "$n", b: ["size", ["list"]] },
    { a: 4, b: 0 },
  ],
])("%j is %j", (source, value) => {
  const { issues, run } = compiled(source);
  expect(issues).toEqual([]);
  expect(run(frame())).toEqual(value);
});

test("was looks at the start of the episode", () => {
  const now = { ...state, order: { ...state.order, o2: { ...state.order.o2, total: 1 } } };
  expect(compiled(["-", ["was", "$order.total"], "$order.total"]).run(frame({ state: now }))).toBe(6);
});

test.each<[unknown, string]>([
  [["+", "$n", "$name"], "2: '+' wants integer here, found string"],
  ["$oder", ": no variable $oder here; did you mean $order?"],
  ["$order.totl", ": order has no field 'totl'; did you mean 'total'?"],
  [["summ", "o", "order", 1], ": no operator 'summ'; did you mean 'sum'?"],
  [["==", "$n", "$name"], ": integer never equals string"],
  [["+", "$tip", 1], "1: '+' wants integer here, found integer?"],
  [["any", "n", "order", true], "1: $n is already bound here; take another name"],
  [["not", true, false], ": 'not' takes 1 arguments ([\"not\", p]), found 2"],
  [1.5, ": 1.5 is not an integer; count in a smaller unit"],
  [["called", "raed"], "1: no tool 'raed'; did you mean 'read'?"],
])("%j is refused: %s", (source, message) => expect(compiled(source).issues).toEqual([message]));

test("an expression that would cost too much is refused before it runs", () => {
  let source: unknown = true;
  for (let i = 0; i < 8; i++) source = ["all", `x${i}`, "order", source];
  expect(compiled(source).issues[0]).toMatch(/over the bound of 1000000; nest fewer quantifiers/);
});

/** Well-typed expressions of a type, by construction. */
const typed = fc.letrec<{ integer: unknown; boolean: unknown; string: unknown }>((tie) => ({
  integer: fc.oneof(
    { maxDepth: 5 },
    fc.integer(),
    fc.constantFrom<unknown>("$n", "$now", "$order.total", "$order.user.age", ["else", "$tip", 0]),
    fc.tuple(fc.constantFrom("+", "-", "*", "div", "mod", "min", "max"), tie("integer"), tie("integer")),
    fc.tuple(fc.constant("if"), tie("boolean"), tie("integer"), tie("integer")),
    fc
      .tuple(tie("boolean"), fc.nat())
      .map(([p, i]) => ["count", `c${i}`, "order", ["and", p, [">", `$c${i}.total`, 5]]]),
    fc.tuple(fc.constant("length"), tie("string")),
  ),
  boolean: fc.oneof(
    { maxDepth: 5 },
    fc.boolean(),
    fc.tuple(fc.constantFrom("<", "<=", ">", ">=", "==", "!="), tie("integer"), tie("integer")),
    fc.tuple(fc.constantFrom("<", "==", "contains", "starts"), tie("string"), tie("string")),
    fc.tuple(fc.constantFrom("and", "or"), tie("boolean"), tie("boolean")),
    fc.tuple(tie("integer"), fc.nat()).map(([e, i]) => ["any", `a${i}`, "order", ["<", `$a${i}.total`, e]]),
  ),
  string: fc.oneof(
    { maxDepth: 5 },
    fc.string().filter((s) => !s.startsWith("$")),
    fc.constantFrom<unknown>("$name", "$order.user.name", ["fresh", "order", "O"], ["else", "$order.note", ""]),
    fc.tuple(fc.constant("concat"), tie("string"), tie("string")),
    fc.tuple(fc.constantFrom("lower"), tie("string")),
    tie("integer").map((e) => ["show", e]),
  ),
}));
const states = fc.record({
  user: fc.constantFrom<Record<string, never> | typeof state.user>({}, state.user),
  order: fc.constantFrom<Record<string, never> | typeof state.order>({}, state.order),
});
const ofType: Record<string, (v: Value) => boolean> = {
  integer: (v) => Number.isSafeInteger(v),
  boolean: (v) => typeof v === "boolean",
  string: (v) => typeof v === "string",
};

test.each(["integer", "boolean", "string"] as const)(
  "every well-typed %s expression has a value of its type in every state",
  (kind) => {
    fc.assert(
      fc.property(typed[kind], states, (source, at) => {
        const { issues, run, type } = compiled(source);
        if (issues.length) return issues.every((i) => /nested too deep|over the bound|already bound/.test(i));
        // Rows may be missing altogether, the variable's own included.
        const value = run(frame({ state: at }));
        return fits(type, { kind } as Type) && ofType[kind]?.(value) === true && run(frame({ state: at })) === value;
      }),
      { numRuns: 400 },
    );
  },
);

test("whatever JSON stands where an expression should, compiling tells and never throws", () => {
  fc.assert(
    fc.property(
      fc.jsonValue(),
      fc.constantFrom("all", "let", "find", "called", "text", "sum", "fresh", "+", "if"),
      (json, operator) => {
        for (const source of [json, [operator, ...(Array.isArray(json) ? json : [json, json, json])]]) {
          const { issues, type, run } = compiled(source);
          if (!issues.length) run(frame());
          expect(typeof show(type)).toBe("string");
        }
      },
    ),
    { numRuns: 500 },
  );
});
