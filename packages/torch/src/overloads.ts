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
  string: 6,
  empty: 7,
  tensors: 8,
  ints: 9,
  floats: 10,
  bools: 11,
  strings: 12,
  other: 13,
  keywords: 14,
} as const;
type Kind = (typeof K)[keyof typeof K];

const dtypes = new Set<string>(DTYPES);

function kindOf(value: unknown): Kind {
  if (value instanceof Tensor) return K.tensor;
  switch (typeof value) {
    case "number":
      return Number.isInteger(value) ? K.int : K.float;
    case "bigint":
      return K.int;
    case "boolean":
      return K.bool;
    case "undefined":
      return K.nil;
    case "string":
      return dtypes.has(value) ? K.dtype : K.string;
    default:
      return value === null
        ? K.nil
        : Array.isArray(value)
          ? kindOfArray(value)
          : isKeywords(value)
            ? K.keywords
            : K.other;
  }
}

function kindOfArray(array: unknown[]): Kind {
  if (array.length === 0) return K.empty;
  let all: Kind | undefined;
  for (const item of array) {
    const kind = kindOf(item);
    if (kind === K.tensor || kind === K.nil) return K.tensors;
    all = all === undefined || all === kind ? kind : K.float;
  }
  if (all === K.int) return K.ints;
  if (all === K.float) return K.floats;
  if (all === K.bool) return K.bools;
  return all === K.string || all === K.dtype ? K.strings : K.other;
}

function isKeywords(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
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
  str: [K.string],
  ScalarType: [K.dtype],
  Device: [K.string],
  Layout: [K.string],
  MemoryFormat: [K.string],
};

const DEVICE = /^(cpu|cuda|mps|meta|xpu|hpu|mkldnn|xla)(:\d+)?$/;

function fits(arg: Schema["args"][number], value: unknown): boolean {
  const kind = kindOf(value);
  const nullable = arg.type.endsWith("?");
  if (kind === K.nil) return nullable || arg.optional;
  const type = nullable ? arg.type.slice(0, -1) : arg.type;
  const list = /^(.*?)\??\[\]$/.exec(type)?.[1];
  if (list !== undefined) {
    const element = SCALARS[list] ?? [];
    return kind === K.empty || (LISTS[list]?.includes(kind) ?? false) || (arg.length > 0 && element.includes(kind));
  }
  if (!SCALARS[type]?.includes(kind)) return false;
  return type !== "Device" || DEVICE.test(value as string);
}

/** An overload as it will be called: which argument goes where, and what becomes of the result. */
interface Plan {
  schema: Schema;
  call: Operator;
  /** For each argument of the schema up to the last one given: its position, or the name of its keyword. */
  from: (number | string)[] | undefined;
  wrap: (result: unknown, args: unknown[]) => unknown;
}

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
      if (!fits(arg, args[i])) return `'${arg.name}' takes ${arg.type}`;
      from.push(i);
      needed = i + 1;
    } else if (keywords && arg.name in keywords) {
      if (!fits(arg, keywords[arg.name])) return `'${arg.name}' takes ${arg.type}`;
      from.push(arg.name);
      used++;
      needed = i + 1;
    } else if (arg.optional || (arg.keyword && arg.type.endsWith("?"))) {
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

const describe = (name: string, schema: Schema): string => {
  const args = schema.args.map(
    (a) => `${a.keyword ? "{" : ""}${a.name}: ${a.type}${a.optional ? " = …" : ""}${a.keyword ? "}" : ""}`,
  );
  return `${name}${schema.overload ? `.${schema.overload}` : ""}(${args.join(", ")})`;
};

function choose(name: string, schemas: Schema[], args: unknown[]): { schema: Schema; from: (number | string)[] } {
  const reasons: string[] = [];
  for (const schema of schemas) {
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
  if (value instanceof Tensor) return value.live ? `Tensor[${value.shape}]` : "a disposed Tensor";
  return isKeywords(value)
    ? `{${Object.entries(value).map(([k, v]) => `${k}: ${show(v)}`)}}`
    : Array.isArray(value)
      ? `[${value.map(show)}]`
      : String(value);
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
    let key: number | string = args.length;
    let keywords = false;
    for (let i = 0; i < args.length; i++) {
      const kind = kindOf(args[i]);
      if (kind === K.keywords) keywords = true;
      key = (key as number) * 16 + kind;
    }
    if (keywords || args.length > 11) {
      const named = keywordsOf(args);
      key = `${args.map(kindOf)}${named ? Object.keys(named).map((k) => `${k}${kindOf(named[k])}`) : ""}`;
    } else if (typeof args[args.length - 1] === "string" || typeof args[1] === "string") {
      key = `${key}${args.filter((a) => typeof a === "string").map((a) => DEVICE.test(a))}`;
    }
    const { call, from, wrap } = plans.get(key) ?? plan(key, args);
    if (!from) {
      if (args.length === 2) return wrap(call(handle(args[0]), handle(args[1])), args);
      if (args.length === 1) return wrap(call(handle(args[0])), args);
      return wrap(call(...args.map(handle)), args);
    }
    const named = keywordsOf(args);
    const ordered = from.map((source) =>
      typeof source === "string" ? handle(named?.[source]) : source < 0 ? undefined : handle(args[source]),
    );
    return wrap(call(...ordered), args);
  };
}
