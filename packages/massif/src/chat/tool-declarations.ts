/** How tools are shown to the model: as JSON (the released K2 templates) or as TypeScript (K2 was trained on both, paper
 *  App. B; the released encoder ships from K2.5 on). Rules: MoonshotAI/Kimi-Vendor-Verifier, tool_declaration_ts. */
import { MassifError } from "../common/index.ts";
import { byCodePoint, pythonJson, pythonNumber } from "./json.ts";
import type { JsonSchema, ToolFunction, ToolSpec } from "./types.ts";

export const toolStyles = ["json", "json-compact", "json-sorted", "typescript"] as const;
/** `json`: as given, with `", "` and `": "`; `json-compact`: without blanks; `json-sorted`: compact, keys sorted at every
 *  depth, as the released tokenizer's wrapper does. */
export type ToolStyle = (typeof toolStyles)[number];

/** The body of the tool_declare turn; "" where nothing is to be declared. Throws `chat.tools` for a schema that
 *  TypeScript declarations cannot say. */
export function declareTools(tools: readonly ToolSpec[], style: ToolStyle): string {
  if (style === "typescript") return typescriptTools(tools);
  if (!tools.length) return "";
  return styledJson(tools, style);
}

/** JSON as a style writes it; the published templates write arguments given as an object the same way. */
export function styledJson(value: unknown, style: ToolStyle): string {
  if (style === "json" || style === "typescript") return pythonJson(value);
  return pythonJson(value, { separators: [",", ":"], sortKeys: style === "json-sorted" });
}

function typescriptTools(tools: readonly ToolSpec[]): string {
  const functions = tools.filter((tool) => tool.type === "function").flatMap((tool) => tool.function ?? []);
  if (!functions.length) return "";
  return `# Tools\n\n## functions\nnamespace functions {\n${functions.map(declareFunction).join("\n")}\n}\n`;
}

type Schema = Exclude<JsonSchema, boolean>;
/** What a function's types refer to: its `$defs`, and whether `#` (the parameters themselves) is referred to. */
interface Scope {
  owner: string;
  defs: Map<string, JsonSchema>;
  refersToItself: boolean;
}

function declareFunction(fn: ToolFunction): string {
  const scope: Scope = { owner: fn.name, defs: new Map(), refersToItself: false };
  const parameters = asSchema(fn.parameters ?? {}, scope);
  const type = objectType(parameters, "", scope);
  // As in the reference, a `#` met only within $defs comes too late to count.
  const { refersToItself } = scope;
  const parts: string[] = [];
  if (refersToItself) {
    // The reference writes these fields in the order given, without sorting and without additionalProperties.
    const fields = objectFields(parameters, "  ", scope).map((field) => field.text);
    parts.push(`interface parameters {${fields.length ? `\n${fields.join(",\n")}\n` : ""}}`);
  }
  for (const [name, schema] of scope.defs) {
    const comment = typeof schema === "object" && schema.description ? `${comments(schema.description, "")}\n` : "";
    parts.push(`${comment}interface ${name} ${typeOf(schema, "", scope)}`);
  }
  if (fn.description) parts.push(comments(fn.description, ""));
  parts.push(`type ${fn.name} = (_: ${refersToItself ? "parameters" : type}) => any;`);
  return parts.join("\n");
}

const constraints: Record<string, readonly string[]> = {
  string: ["maxLength", "minLength", "pattern"],
  number: ["maximum", "minimum"],
  integer: ["maximum", "minimum"],
  array: ["maxItems", "minItems"],
};
const unionTypes: Record<string, string> = {
  string: "string",
  number: "number",
  integer: "number",
  boolean: "boolean",
  null: "null",
  object: "{}",
  array: "Array<any>",
};

function typeOf(schema: unknown, indent: string, scope: Scope): string {
  if (typeof schema === "boolean") return schema ? "any" : "null";
  const s = asSchema(schema, scope);
  if (s.$ref !== undefined) return refName(s.$ref, scope);
  if (Array.isArray(s.anyOf)) return s.anyOf.map((option) => typeOf(option, indent, scope)).join(" | ");
  if (Array.isArray(s.enum)) return s.enum.map(literal).join(" | ");
  if (Array.isArray(s.type)) return s.type.map((type) => unionTypes[type] ?? unsaid(scope, `type ${type}`)).join(" | ");
  if (s.type === "object") return objectType(s, indent, scope);
  if (s.type === "array") return arrayType(s, indent, scope);
  if (s.type === "integer") return "number";
  if (typeof s.type === "string") return s.type;
  return Object.keys(s).length ? unsaid(scope, pythonJson(s)) : "any";
}

function objectType(schema: Schema, indent: string, scope: Scope): string {
  const fields = objectFields(schema, `${indent}  `, scope).sort(
    (a, b) => Number(a.optional) - Number(b.optional) || byCodePoint(a.name, b.name),
  );
  const lines = fields.map((field) => field.text);
  const more = schema.additionalProperties ?? undefined;
  if (more !== undefined) {
    const type = more === true ? "any" : more === false ? "never" : typeOf(more, `${indent}  `, scope);
    lines.push(`${indent}  [k: string]: ${type}`);
  }
  return lines.length ? `{\n${lines.join(",\n")}\n${indent}}` : "{}";
}

function objectFields(schema: Schema, indent: string, scope: Scope) {
  for (const [name, def] of Object.entries(asSchema(schema.$defs ?? {}, scope)))
    scope.defs.set(name, def as JsonSchema);
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  return Object.entries(asSchema(schema.properties ?? {}, scope)).map(([name, field]) => {
    const optional = !required.has(name);
    let text = docOf(field, indent);
    const value = typeof field === "object" && field !== null && "default" in field ? field.default : null;
    if (value !== null) text += `${indent}// Default: ${pythonValue(value)}\n`;
    text += `${indent}${name}${optional ? "?" : ""}: ${typeOf(field, indent, scope)}`;
    return { name, optional, text };
  });
}

function arrayType(schema: Schema, indent: string, scope: Scope): string {
  const { items } = schema;
  if (!items || (typeof items === "object" && !Object.keys(items).length)) return "Array<any>";
  const doc = docOf(items, `${indent}  `);
  if (!doc) return `Array<${typeOf(items, indent, scope)}>`;
  return `Array<\n${doc}${indent}  ${typeOf(items, `${indent}  `, scope)}\n${indent}>`;
}

/** The comment lines of a schema, each with its newline: description, then the constraints of its type. */
function docOf(schema: unknown, indent: string): string {
  if (typeof schema !== "object" || schema === null) return "";
  const s = schema as Schema;
  let doc = s.description ? `${comments(s.description, indent)}\n` : "";
  const plain = s.$ref === undefined && !s.anyOf && !s.enum && typeof s.type === "string";
  const keys = plain ? (constraints[s.type as string] ?? []).filter((key) => s[key] !== undefined) : [];
  if (keys.length) doc += `${indent}// ${keys.map((key) => `${key}: ${pythonText(s[key])}`).join(", ")}\n`;
  return doc;
}

const comments = (description: unknown, indent: string): string =>
  String(description)
    .split("\n")
    .map((line) => (line ? `${indent}// ${line}` : ""))
    .join("\n");

function refName(ref: unknown, scope: Scope): string {
  if (ref === "#") {
    scope.refersToItself = true;
    return "parameters";
  }
  const name = typeof ref === "string" && ref.startsWith("#/$defs/") ? ref.split("/").at(-1)! : "";
  return scope.defs.has(name) ? name : unsaid(scope, `$ref ${JSON.stringify(ref)}`);
}

/** Python's str(): what the reference writes for constraints and for enum values that are not strings. */
function pythonText(value: unknown): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "number" ? pythonNumber(value) : typeof value === "string" ? value : pythonJson(value);
}
/** Strings stand in double quotes without escaping. */
const literal = (value: unknown): string => (typeof value === "string" ? `"${value}"` : pythonText(value));
const pythonValue = (value: unknown): string =>
  typeof value === "number" || typeof value === "boolean" ? pythonText(value) : pythonJson(value);

function asSchema(value: unknown, scope: Scope): Schema {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Schema;
  return value === true ? {} : unsaid(scope, JSON.stringify(value));
}

function unsaid(scope: Scope, what: string): never {
  throw new MassifError("chat.tools", {
    found: `the parameters of ${scope.owner} hold ${what}`,
    expected: "a schema that TypeScript declarations can say: types, enum, anyOf, $ref to # or #/$defs/NAME",
    fix: "declare the tools as JSON",
  });
}
