/**
 * One function an operator: picks the overload from the kinds of the arguments, as PyTorch does from their types, and
 * calls it. The choice is made once for each combination of kinds and kept, so a call costs a few comparisons.
 *
 * Positional arguments come first, in the schema's order; a plain object at the end holds keyword arguments.
 */
import { addon, type Schema } from "./addon.ts";
import { DTYPES } from "./dtype.ts";
import { TorchError } from "./error.ts";
import { Tensor } from "./tensor.ts";

export type Operator = (...args: unknown[]) => unknown;

const K = {
  nil: 0,
  tensor: 1,
  int: 2,
  float: 3,
  bool: 4,
  dtype: 5,
  device: 6,
  string: 7,
  empty: 8,
  tensors: 9,
  ints: 10,
  floats: 11,
  bools: 12,
  strings: 13,
  other: 14,
  keywords: 15,
} as const;
type Kind = (typeof K)[keyof typeof K];

const dtypes = new Set<string>(DTYPES);
const DEVICE = /^(cpu|cuda|mps|meta|xpu|hpu|mtia|mkldnn|xla)(:\d+)?$/;

function kindOf(value: unknown): Kind {
  switch (typeof value) {
    case "object":
      if (value instanceof Tensor) return K.tensor;
      if (value === null) return K.nil;
      return Array.isArray(value) ? kindOfArray(value) : isKeywords(value) ? K.keywords : K.other;
    case "number":
      return Number.isInteger(value) ? K.int : K.float;
    case "bigint":
      return K.int;
    case "boolean":
      return K.bool;
    case "undefined":
      return K.nil;
    case "string":
      return dtypes.has(value) ? K.dtype : DEVICE.test(value) ? K.device : K.string;
    default:
      return K.other;
  }
}

function kindOfArray(array: readonly unknown[]): Kind {
  if (array.length === 0) return K.empty;
  let all: Kind | undefined;
  for (const item of array) {
    const kind = kindOf(item);
    if (kind === K.tensor || kind === K.nil) return K.tensors;
    if (all === undefined || all === kind) all = kind;
    else if (isNumber(all) && isNumber(kind)) all = K.float;
    else return K.other;
  }
  if (all === K.int) return K.ints;
  if (all === K.float) return K.floats;
  if (all === K.bool) return K.bools;
  return all === K.string ? K.strings : K.other;
}

const isNumber = (kind: Kind) => kind === K.int || kind === K.float;

function isKeywords(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

const LISTS: Record<string, readonly Kind[]> = {
  Tensor: [K.tensors],
  int: [K.ints],
  SymInt: [K.ints],
  float: [K.floats, K.ints],
  bool: [K.bools],
  Scalar: [K.ints, K.floats, K.bools],
  str: [K.strings],
};

const SCALARS: Record<string, readonly Kind[]> = {
  Tensor: [K.tensor],
  int: [K.int],
  SymInt: [K.int],
  float: [K.float, K.int],
  bool: [K.bool],
  Scalar: [K.int, K.float, K.bool],
  str: [K.string, K.device, K.dtype],
  ScalarType: [K.dtype],
  Device: [K.device],
  Layout: [K.string],
  MemoryFormat: [K.string],
};

function fits(arg: Argument, value: unknown): boolean {
  const kind = kindOf(value);
  const nullable = arg.type.endsWith("?");
  if (kind === K.nil) return nullable || arg.optional;
  const type = nullable ? arg.type.slice(0, -1) : arg.type;
  const list = /^(.*?)\??\[\]$/.exec(type)?.[1];
  if (list !== undefined) {
    const element = SCALARS[list] ?? [];
    return kind === K.empty || (LISTS[list]?.includes(kind) ?? false) || (arg.length > 0 && element.includes(kind));
  }
  return SCALARS[type]?.includes(kind) ?? false;
}

/** An overload as it will be called: which argument goes where, and what becomes of the result. */
interface Plan {
  schema: Schema;
  call: Operator;
  /** For each argument of the schema up to the last one given: its position, or the name of its keyword. */
  from: (number | string)[] | undefined;
  wrap: (result: unknown, args: unknown[]) => unknown;
}

type Argument = Schema["args"][number];

/** May be left out. (Some keywords of ATen are nullable without a default; Python gives them None.) */
const mayMiss = (arg: Argument) => arg.optional || (arg.keyword && arg.type.endsWith("?"));

/** The keyword arguments of a call, or undefined. */
const keywordsOf = (args: unknown[]) => {
  const last = args[args.length - 1];
  return isKeywords(last) ? last : undefined;
};

/** Where each argument of `schema` comes from, or why the call does not fit. */
function match(schema: Schema, args: unknown[]): (number | string)[] | string {
  const keywords = keywordsOf(args);
  const positional = keywords ? args.length - 1 : args.length;
  const from: (number | string)[] = [];
  let used = 0;
  let needed = 0;
  for (const [i, arg] of schema.args.entries()) {
    if (i < positional && !arg.keyword) {
      if (!fits(arg, args[i])) return `'${arg.name}' takes ${plainly(arg)}`;
      from.push(i);
      needed = i + 1;
    } else if (keywords && arg.name in keywords) {
      if (!fits(arg, keywords[arg.name])) return `'${arg.name}' takes ${plainly(arg)}`;
      from.push(arg.name);
      used++;
      needed = i + 1;
    } else if (mayMiss(arg)) {
      from.push(-1);
    } else {
      return `'${arg.name}' is missing`;
    }
  }
  if (positional > schema.args.filter((a) => !a.keyword).length) return "too many arguments";
  if (keywords && used < Object.keys(keywords).length) {
    const unknown = Object.keys(keywords).find((name) => !schema.args.some((a) => a.name === name));
    return unknown ? `there is no '${unknown}'` : "an argument is given twice";
  }
  return from.slice(0, needed);
}

const handle = (value: unknown): unknown => {
  if (value instanceof Tensor) return value.h;
  if (Array.isArray(value) && value.some((x) => x instanceof Tensor))
    return value.map((x) => (x instanceof Tensor ? x.h : x));
  return value;
};

function resultOf(type: string, result: unknown): unknown {
  if (type === "Tensor") return result === null ? null : new Tensor(result as number);
  if (type === "Tensor[]") return (result as number[]).map((h) => new Tensor(h));
  return result;
}

function wrapper(schema: Schema, from: (number | string)[]): Plan["wrap"] {
  const { returns, aliases } = schema;
  const passed = (i: number, args: unknown[]) => {
    const source = from[i];
    return typeof source === "string" ? keywordsOf(args)?.[source] : args[source as number];
  };
  if (returns.length === 0) return () => undefined;
  const [type] = returns as [string];
  const [alias] = aliases as [number];
  if (returns.length > 1) {
    return (result, args) =>
      (result as unknown[]).map((r, i) => (aliases[i]! >= 0 ? passed(aliases[i]!, args) : resultOf(returns[i]!, r)));
  }
  if (alias >= 0) return (_, args) => passed(alias, args);
  if (type === "Tensor") return (result) => (result === null ? null : new Tensor(result as number));
  return (result) => resultOf(type, result);
}

const plainly = (arg: Argument) =>
  arg.type.replace("SymInt", "int").replace("[]", arg.length ? `[${arg.length}]` : "[]");

const describe = (name: string, schema: Schema): string => {
  const shown = (a: Argument) => `${a.name}: ${plainly(a)}${mayMiss(a) ? " = …" : ""}`;
  const args = schema.args.filter((a) => !a.keyword).map(shown);
  const keywords = schema.args.filter((a) => a.keyword).map(shown);
  if (keywords.length) args.push(`{ ${keywords.join(", ")} }`);
  return `${name}${schema.overload ? `.${schema.overload}` : ""}(${args.join(", ")})`;
};

function choose(name: string, schemas: Schema[], args: unknown[]): { schema: Schema; from: (number | string)[] } {
  const given = keywordsOf(args) ?? {};
  // Without `out`, the forms that want it need not be tried, nor told of.
  const asked = schemas.filter((s) => s.args.every((a) => !a.keyword || mayMiss(a) || a.name in given));
  const reasons: string[] = [];
  for (const schema of asked.length ? asked : schemas) {
    const from = match(schema, args);
    if (typeof from !== "string") return { schema, from };
    reasons.push(`${describe(name, schema)}: ${from}`);
  }
  throw new TorchError("torch.argument", {
    found: `${name}(${args.map(show).join(", ")}) fits no form of ${name}`,
    expected: reasons.slice(0, 8).join("\n            "),
  });
}

function show(value: unknown): string {
  if (value instanceof Tensor) return value.live ? `Tensor[${value.shape.join(", ")}]` : "a disposed Tensor";
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(show).join(", ")}]`;
  if (!isKeywords(value)) return String(value);
  return `{ ${Object.entries(value)
    .map(([k, v]) => `${k}: ${show(v)}`)
    .join(", ")} }`;
}

/** The operator `namespace::name` as a function over all of its overloads (or over the one named `overload`). */
export function operator(name: string, overload?: string): Operator {
  let schemas: Schema[] | undefined;
  const short = name.replace(/^.*::/, "");
  const plans = new Map<number | string, Plan>();

  const plan = (key: number | string, args: unknown[]): Plan => {
    schemas ??= addon()
      .overloads(name)
      .filter((s) => (overload === undefined ? !/dimname/i.test(s.overload) : s.overload === overload))
      .sort((a, b) => a.args.length - b.args.length || (a.overload < b.overload ? -1 : 1));
    if (!schemas.length)
      throw new TorchError("torch.argument", {
        found: `libtorch has no operator ${name}${overload ? `.${overload}` : ""}`,
      });
    const { schema, from } = choose(short, schemas, args);
    const inOrder = from.every((source, i) => source === i);
    const made = {
      schema,
      call: addon().operator(name, schema.overload),
      from: inOrder ? undefined : from,
      wrap: wrapper(schema, from),
    };
    plans.set(key, made);
    return made;
  };

  return (...args: unknown[]) => {
    let key: number | string = 1;
    let last: Kind = K.nil;
    for (const arg of args) {
      last = kindOf(arg);
      key = key * 16 + last;
    }
    if (args.length > 12) key = args.map(kindOf).join(); // more kinds than a number holds exactly
    const named = last === K.keywords ? (args[args.length - 1] as Record<string, unknown>) : undefined;
    if (named) for (const name in named) key += `,${name}${kindOf(named[name])}`;
    const { call, from, wrap } = plans.get(key) ?? plan(key, args);
    if (!from) {
      if (args.length === 2) return wrap(call(handle(args[0]), handle(args[1])), args);
      if (args.length === 1) return wrap(call(handle(args[0])), args);
      return wrap(call(...args.map(handle)), args);
    }
    const ordered = from.map((source) =>
      typeof source === "string" ? handle(named?.[source]) : source < 0 ? undefined : handle(args[source]),
    );
    return wrap(call(...ordered), args);
  };
}
