/** Writes src/generated/*.ts from the schemas of the libtorch that is loaded: `node packages/torch/src/generate.ts`. */
import { writeFileSync } from "node:fs";
import { addon, type Schema } from "./addon.ts";

const TYPES: Record<string, string> = {
  Tensor: "Tensor",
  int: "number",
  SymInt: "number",
  float: "number",
  bool: "boolean",
  Scalar: "Scalar",
  str: "string",
  ScalarType: "DType",
  Device: "Device",
  Layout: "string",
  MemoryFormat: "string",
};

function typeOf(type: string, length: number): string | undefined {
  if (type.endsWith("?")) {
    if (type === "Generator?") return "null";
    const inner = typeOf(type.slice(0, -1), length);
    return inner && `${inner} | null`;
  }
  if (type === "Tensor?[]") return "readonly (Tensor | null)[]";
  const element = /^(\w+)\[\]$/.exec(type)?.[1];
  if (element) {
    const inner = TYPES[element];
    return inner && (length > 0 ? `readonly ${inner}[] | ${inner}` : `readonly ${inner}[]`);
  }
  return TYPES[type];
}

const RESULTS: Record<string, string> = {
  ...TYPES,
  Scalar: "number",
  ScalarType: "number",
  "Tensor[]": "Tensor[]",
  "int[]": "number[]",
  SymBool: "boolean",
};

function resultOf({ returns }: Schema): string | undefined {
  const types = returns.map((r) => RESULTS[r]);
  if (types.includes(undefined)) return undefined;
  return types.length === 0 ? "void" : types.length === 1 ? types[0] : `[${types.join(", ")}]`;
}

const RESERVED = /^(in|is|new|var|with|function|default|delete|export|import|return|typeof|void|null|true|false)$/;

/** The forms of one overload: each number of positional arguments that is allowed, the rest by keyword. */
function signatures(name: string, schema: Schema, method: boolean): string[] {
  const result = resultOf(schema);
  const args = (method ? schema.args.slice(1) : schema.args).map((a) => ({ ...a, ts: typeOf(a.type, a.length) }));
  if (!result || args.some((a) => a.ts === undefined)) return [];
  const positional = args.filter((a) => !a.keyword);
  const required = positional.findLastIndex((a) => !a.optional) + 1;
  // What is required can be named too (`x.softmax({ dim: -1 })`), but for the tensors that come first.
  const tensors = positional.findIndex((a) => !/^Tensor\b/.test(a.type));
  const fewest = tensors < 0 || name.startsWith("_") ? required : Math.min(required, tensors);
  const out: string[] = [];
  for (let n = fewest; n <= positional.length; n++) {
    const given = positional.slice(0, n).map((a) => `${RESERVED.test(a.name) ? `${a.name}_` : a.name}: ${a.ts}`);
    const rest = args.filter((a) => a.keyword || positional.indexOf(a) >= n);
    const must = rest.some((a) => !a.optional && !a.type.endsWith("?"));
    const keywords = rest.map((a) => `${a.name}${a.optional || a.type.endsWith("?") ? "?" : ""}: ${a.ts}`);
    if (keywords.length) given.push(`kw${must ? "" : "?"}: { ${keywords.join("; ")} }`);
    out.push(`(${given.join(", ")}): ${result}`);
  }
  return out;
}

/** Every operator that has a schema now, by its full name: those of libtorch and our own. */
function schemas(namespace: string): [name: string, schemas: Schema[]][] {
  const names = new Set(addon().operatorNames().sort());
  const wanted = [...names].filter((full) => new RegExp(`^${namespace}::\\w+$`).test(full));
  return wanted.map((full) => [
    full.slice(namespace.length + 2),
    addon()
      .overloads(full)
      .filter((s) => !/dimname/i.test(s.overload))
      .sort((a, b) => a.args.length - b.args.length || (a.overload < b.overload ? -1 : 1)),
  ]);
}

const isMethod = (s: Schema) => s.args[0]?.name === "self" && s.args[0].type === "Tensor";
/** What class Tensor defines itself. */
const OWN = new Set(["set", "data", "mT", "requires_grad"]);
/** Forms that ops.ts adds to those of ATen. */
const ADDED: Record<string, string[]> = {
  to: ["(device: Device, kw?: { non_blocking?: boolean; copy?: boolean }): Tensor"],
};

function members(namespace: string, method: boolean): { names: string[]; text: string } {
  const names: string[] = [];
  const lines: string[] = [];
  for (const [name, all] of schemas(namespace)) {
    const forms = method ? all.filter(isMethod) : all;
    if (!forms.length || (method && OWN.has(name))) continue;
    names.push(name);
    const typed = forms.flatMap((s) => signatures(name, s, method));
    for (const signature of new Set([...((method && ADDED[name]) || []), ...typed]))
      lines.push(`  ${name}${signature};`);
  }
  return { names, text: lines.join("\n") };
}

/** The files of src/generated, by name, for the libtorch that is loaded. */
export function generate(): Record<string, string> {
  const by = `// Generated from the schemas of libtorch ${addon().info().torch} by packages/torch/src/generate.ts. Do not edit.\n`;
  const head = `${by}import type { Device, DType } from "../dtype.ts";
import type { Tensor } from "../tensor.ts";

type Scalar = number | boolean | bigint;
`;
  const methods = members("aten", true);
  const functions = members("aten", false);
  const own = members("massif", false);
  return {
    "methods.ts": `${head}
/** Every operator whose first argument is a tensor called self. */
export interface TensorMethods {
${methods.text}
}
`,
    "functions.ts": `${head}
/** Every ATen operator as a function. */
export interface Functions {
${functions.text}
}

/** Massif's own operators (native/ops). */
export interface OwnOperators {
${own.text}
}
`,
    "names.ts": `${by}export const METHODS = "${methods.names.join(" ")}".split(" ");
export const FUNCTIONS = "${functions.names.join(" ")}".split(" ");
`,
  };
}

if (import.meta.main) {
  for (const [name, text] of Object.entries(generate()))
    writeFileSync(`${import.meta.dirname}/generated/${name}`, text);
}
