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
function signatures(schema: Schema, method: boolean): string[] {
  const result = resultOf(schema);
  const args = (method ? schema.args.slice(1) : schema.args).map((a) => ({ ...a, ts: typeOf(a.type, a.length) }));
  if (!result || args.some((a) => a.ts === undefined)) return [];
  const positional = args.filter((a) => !a.keyword);
  const required = positional.findLastIndex((a) => !a.optional) + 1;
  const out: string[] = [];
  for (let n = required; n <= positional.length; n++) {
    const given = positional.slice(0, n).map((a) => `${RESERVED.test(a.name) ? `${a.name}_` : a.name}: ${a.ts}`);
    const rest = args.filter((a) => a.keyword || positional.indexOf(a) >= n);
    const must = rest.some((a) => !a.optional && !a.type.endsWith("?"));
    const keywords = rest.map((a) => `${a.name}${a.optional || a.type.endsWith("?") ? "?" : ""}: ${a.ts}`);
    if (keywords.length) given.push(`kw${must ? "" : "?"}: { ${keywords.join("; ")} }`);
    out.push(`(${given.join(", ")}): ${result}`);
  }
  return out;
}

const byName = new Map<string, Schema[]>();
for (const full of new Set(addon().operatorNames().sort())) {
  if (!/^(aten|massif)::\w+$/.test(full)) continue;
  const schemas = addon()
    .overloads(full)
    .filter((s) => !/dimname/i.test(s.overload));
  byName.set(
    full,
    schemas.sort((a, b) => a.args.length - b.args.length || (a.overload < b.overload ? -1 : 1)),
  );
}

const isMethod = (s: Schema) => s.args[0]?.name === "self" && s.args[0].type === "Tensor";
/** What class Tensor defines itself. */
const OWN = new Set(["set", "data", "mT", "requires_grad"]);

function members(namespace: string, method: boolean): { names: string[]; text: string } {
  const names: string[] = [];
  const lines: string[] = [];
  for (const [full, all] of byName) {
    const name = full.slice(namespace.length + 2);
    if (!full.startsWith(`${namespace}::`) || (method && OWN.has(name))) continue;
    const schemas = method ? all.filter(isMethod) : all;
    if (!schemas.length) continue;
    names.push(name);
    for (const signature of new Set(schemas.flatMap((s) => signatures(s, method))))
      lines.push(`  ${name}${signature};`);
  }
  return { names, text: lines.join("\n") };
}

const head = `// Generated from the schemas of libtorch ${addon().info().torch} by packages/torch/src/generate.ts. Do not edit.
import type { DType, Device } from "../dtype.ts";
import type { Tensor } from "../tensor.ts";

type Scalar = number | boolean | bigint;
`;
const methods = members("aten", true);
const functions = members("aten", false);
const own = members("massif", false);
const here = `${import.meta.dirname}/generated`;
writeFileSync(
  `${here}/methods.ts`,
  `${head}\n/** Every operator whose first argument is a tensor called self. */\nexport interface TensorMethods {\n${methods.text}\n}\n`,
);
writeFileSync(
  `${here}/functions.ts`,
  `${head}\n/** Every ATen operator as a function. */\nexport interface Functions {\n${functions.text}\n}\n\n/** Massif's own operators (native/ops). */\nexport interface OwnOperators {\n${own.text}\n}\n`,
);
writeFileSync(
  `${here}/names.ts`,
  `// Generated from the schemas of libtorch ${addon().info().torch} by packages/torch/src/generate.ts. Do not edit.
export const METHODS = "${methods.names.join(" ")}".split(" ");
export const FUNCTIONS = "${functions.names.join(" ")}".split(" ");
`,
);
console.error(
  `${functions.names.length} functions, ${methods.names.length} methods, ${own.names.length} own operators`,
);
