/**
 * The expression language of worlds: JSON in, a typed closure out. It is total: every well-typed expression gives a
 * value for every state, in bounded time, and never throws. There are no loops and no recursion; quantifiers range
 * over the rows of one entity or over a list, and what they may cost is known before anything runs.
 *
 *   7, true, null, "text"         literals (integers only)
 *   "$order.user.name"            a variable and its fields; a field that refers to a row is followed
 *   ["<=", "$amount", 5]          an operator and its arguments: operators.ts has the table
 *   { "total": "$order.total" }   a record
 */
import { nearest } from "../common/index.ts";
import { operators } from "./operators.ts";
import type { Path } from "./source.ts";
import { rowOf, type State } from "./state.ts";
import { BOOLEAN, fits, INTEGER, maybe, NULL, STRING, show, type Type, UNKNOWN, type Value } from "./value.ts";

/** One call that was made: what the history of an episode holds. */
export interface Made {
  tool: string;
  args: Record<string, Value>;
  /** The call was carried out; false where it was answered with an error. */
  ok: boolean;
}

/** What an expression may look at. `vars` is written by quantifiers, each to a name of its own. */
export interface Frame {
  state: State;
  /** The state at the start of the episode, for `was`. */
  initial: State;
  history: readonly Made[];
  now: number;
  /** Names new rows: `fresh` must not depend on anything else. */
  seed: number;
  vars: Record<string, Value>;
}

export interface Compiled {
  type: Type;
  /** An upper bound on the nodes visited. */
  cost: number;
  run(frame: Frame): Value;
}

/** A field of an entity as the compiler needs it. */
export interface EntityType {
  fields: Record<string, Type>;
  key: string;
  max: number;
  /** Changes to it do not count. */
  log: boolean;
}

/** What is in scope where an expression stands, and where to tell what is wrong. */
export class Scope {
  readonly entities: Readonly<Record<string, EntityType>>;
  readonly tools: Readonly<Record<string, Record<string, Type>>>;
  readonly vars: Readonly<Record<string, Type>>;
  readonly tell: (path: Path, message: string) => void;

  constructor(
    entities: Scope["entities"],
    tools: Scope["tools"],
    tell: Scope["tell"],
    vars: Readonly<Record<string, Type>> = {},
  ) {
    this.entities = entities;
    this.tools = tools;
    this.tell = tell;
    this.vars = vars;
  }

  with(vars: Record<string, Type>): Scope {
    return new Scope(this.entities, this.tools, this.tell, { ...this.vars, ...vars });
  }
}

/** Nodes visited by one expression at most; a file that asks for more is refused. */
export const COST_LIMIT = 1_000_000;
/** Strings are cut here, so that no chain of effects can make a state explode. */
export const TEXT_LIMIT = 2000;
const DEPTH_LIMIT = 40;

const nothing: Compiled = { type: UNKNOWN, cost: 0, run: () => null };

/** Type-checks `source` in `scope`; wrong places are told to the scope, and the result is then of type `unknown`. */
export function compile(source: unknown, scope: Scope, path: Path, wanted?: Type): Compiled {
  const found = node(source, scope, path);
  if (wanted && !fits(found.type, wanted)) {
    scope.tell(path, `expected ${show(wanted)}, found ${show(found.type)}`);
    return nothing;
  }
  if (found.cost > COST_LIMIT) {
    scope.tell(path, `may visit ${found.cost} nodes, over the bound of ${COST_LIMIT}; nest fewer quantifiers`);
    return nothing;
  }
  return found;
}

export const predicate = (source: unknown, scope: Scope, path: Path): Compiled => compile(source, scope, path, BOOLEAN);

function node(source: unknown, scope: Scope, path: Path): Compiled {
  if (path.length > DEPTH_LIMIT) return refuse(scope, path, "is nested too deep");
  if (source === null) return { type: NULL, cost: 1, run: () => null };
  if (typeof source === "boolean") return { type: BOOLEAN, cost: 1, run: () => source };
  if (typeof source === "number") {
    if (!Number.isSafeInteger(source))
      return refuse(scope, path, `${source} is not an integer; count in a smaller unit`);
    return { type: INTEGER, cost: 1, run: () => source };
  }
  if (typeof source === "string") {
    if (source.startsWith("$")) return variable(source.slice(1), scope, path);
    return { type: STRING, cost: 1, run: () => source };
  }
  if (Array.isArray(source)) return operation(source, scope, path);
  if (typeof source !== "object") return refuse(scope, path, "is not an expression");
  const parts = Object.entries(source).map(([k, part]) => [k, node(part, scope, [...path, k])] as const);
  return {
    type: { kind: "record", fields: Object.fromEntries(parts.map(([k, p]) => [k, p.type])) },
    cost: 1 + parts.reduce((sum, [, p]) => sum + p.cost, 0),
    run: (frame) => Object.fromEntries(parts.map(([k, p]) => [k, p.run(frame)])),
  };
}

export function refuse(scope: Scope, path: Path, message: string): Compiled {
  scope.tell(path, message);
  return nothing;
}

/** `name.field.field`, following references; the result is `maybe` once anything on the way is. */
export function variable(name: string, scope: Scope, path: Path): Compiled {
  const [root = "", ...fields] = name.split(".");
  const start = scope.vars[root];
  if (!Object.hasOwn(scope.vars, root) || !start) {
    const like = nearest(root, Object.keys(scope.vars));
    return refuse(scope, path, `no variable $${root} here${like ? `; did you mean $${like}?` : ""}`);
  }
  let type = start;
  let run: Compiled["run"] = root === "now" ? (frame) => frame.now : (frame) => frame.vars[root] ?? null;
  for (const field of fields) {
    const optional = type.kind === "maybe";
    const at: Type = type.kind === "maybe" ? type.of : type;
    const before = run;
    if (at.kind === "unknown") return nothing;
    const known = at.kind === "row" ? scope.entities[at.entity]?.fields : at.kind === "record" ? at.fields : undefined;
    if (!known) return refuse(scope, path, `${show(type)} has no fields, so no '${field}'`);
    const next = Object.hasOwn(known, field) ? known[field] : undefined;
    if (!next) {
      const like = nearest(field, Object.keys(known));
      return refuse(scope, path, `${show(at)} has no field '${field}'${like ? `; did you mean '${like}'?` : ""}`);
    }
    if (at.kind === "row") run = (frame) => rowOf(frame.state, at.entity, before(frame))?.[field] ?? null;
    else
      run = (frame) => {
        const record = before(frame);
        return record && typeof record === "object" && !Array.isArray(record) ? (record[field] ?? null) : null;
      };
    type = optional ? maybe(next) : next;
  }
  // A reference can dangle only while the tool that deleted its row is being refused; then a zero of its type stands in.
  const zero = zeroOf(type);
  if (zero === null || !fields.length) return { type, cost: 1 + fields.length, run };
  const last = run;
  return { type, cost: 1 + fields.length, run: (frame) => last(frame) ?? zero };
}

function zeroOf(type: Type): Value {
  if (type.kind === "integer") return 0;
  if (type.kind === "boolean") return false;
  if (type.kind === "list") return [];
  return type.kind === "string" || type.kind === "row" ? "" : null;
}

function operation(source: unknown[], scope: Scope, path: Path): Compiled {
  const [name, ...args] = source;
  if (typeof name !== "string") return refuse(scope, path, 'an operation starts with its name, as in ["<", "$a", 3]');
  const operator = Object.hasOwn(operators, name) ? operators[name] : undefined;
  if (!operator) {
    const like = nearest(name, Object.keys(operators));
    return refuse(scope, path, `no operator '${name}'${like ? `; did you mean '${like}'?` : ""}`);
  }
  const most = operator.most ?? operator.least;
  if (args.length < operator.least || args.length > most) {
    const count =
      operator.least === most
        ? most
        : most === Number.POSITIVE_INFINITY
          ? `${operator.least} or more`
          : `${operator.least} to ${most}`;
    return refuse(scope, path, `'${name}' takes ${count} arguments (${operator.use}), found ${args.length}`);
  }
  return operator.compile({
    raw: args,
    scope,
    path,
    at: (i, wanted, inner = scope) => {
      const at = [...path, i + 1];
      const found = node(args[i], inner, at);
      if (!wanted || fits(found.type, wanted)) return found;
      return refuse(scope, at, `'${name}' wants ${show(wanted)} here, found ${show(found.type)}`);
    },
  });
}
