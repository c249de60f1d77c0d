import { expect, test } from "vitest";
import { declareTools, readTools } from "./index.ts";

const tool = (name: string, description: string, properties: object, required: string[] = []) => ({
  type: "function",
  function: { name, description, parameters: { type: "object", properties, required } },
});

test("TypeScript declarations, the vendor's vector (kimi-k2.md §7.9)", () => {
  const tools = [
    tool(
      "get_weather",
      "Get weather for a location and date",
      {
        date: { type: "string", description: "Date to query, format in '%Y-%m-%d'" },
        location: { type: "string", description: "City and country e.g. Beijing, China" },
      },
      ["location"],
    ),
    tool("Calculator", "Simple calculator", {
      expr: { type: "string", description: "Arithmetic expression in javascript" },
    }),
  ];
  expect(declareTools(tools, "typescript")).toBe(
    "# Tools\n\n## functions\nnamespace functions {\n// Get weather for a location and date\ntype get_weather = (_: {\n  // City and country e.g. Beijing, China\n  location: string,\n  // Date to query, format in '%Y-%m-%d'\n  date?: string\n}) => any;\n// Simple calculator\ntype Calculator = (_: {\n  // Arithmetic expression in javascript\n  expr?: string\n}) => any;\n}\n",
  );
});

test("TypeScript declarations of every kind of type, as the vendor's encoder writes them", () => {
  const tools = readTools([
    {
      type: "function",
      function: {
        name: "plan",
        description: "Plans.\n\nTwo lines.",
        parameters: {
          type: "object",
          $defs: {
            Node: {
              type: "object",
              description: "A node",
              properties: { next: { $ref: "#/$defs/Node" }, v: { type: "integer", minimum: 0 } },
              required: ["v"],
            },
          },
          properties: {
            zone: { type: "string", enum: ["a", 'b"c'], default: "a" },
            root: { $ref: "#/$defs/Node" },
            flags: {
              type: "array",
              items: { type: "string", description: "one flag", maxLength: 8, pattern: "^x" },
              minItems: 1,
              maxItems: 3,
            },
            ratio: { anyOf: [{ type: "number", maximum: 1.5 }, { type: "null" }], default: 0.00001 },
            any: {},
            mixed: { type: ["integer", "array", "object", "null"] },
            on: { type: "boolean", default: true },
            note: { type: "string", description: "数\n\nend", default: { k: "数" } },
            odd: { enum: [null, true, 2] },
          },
          required: ["root", "flags"],
          additionalProperties: false,
        },
      },
    },
    {
      type: "function",
      function: {
        name: "tree",
        parameters: {
          type: "object",
          properties: {
            left: { $ref: "#" },
            extra: { type: "object", additionalProperties: { type: "number" } },
          },
        },
      },
    },
    { type: "builtin_function", function: { name: "$web_search" } },
    { type: "function", function: { name: "now" } },
  ]);
  expect(declareTools(tools, "typescript")).toBe(`# Tools

## functions
namespace functions {
// A node
interface Node {
  // minimum: 0
  v: number,
  next?: Node
}
// Plans.

// Two lines.
type plan = (_: {
  // maxItems: 3, minItems: 1
  flags: Array<
    // one flag
    // maxLength: 8, pattern: ^x
    string
  >,
  root: Node,
  any?: any,
  mixed?: number | Array<any> | {} | null,
  // 数

  // end
  // Default: {"k": "数"}
  note?: string,
  odd?: None | True | 2,
  // Default: True
  on?: boolean,
  // Default: 1e-05
  ratio?: number | null,
  // Default: "a"
  zone?: "a" | "b"c",
  [k: string]: never
}) => any;
interface parameters {
  left?: parameters,
  extra?: {
    [k: string]: number
  }
}
type tree = (_: parameters) => any;
type now = (_: {}) => any;
}
`);
});

test("a schema that TypeScript declarations cannot say is an error that names the function", () => {
  const tools = [tool("f", "", { x: { $ref: "#/definitions/X" } })];
  expect(() => declareTools(tools, "typescript")).toThrow(/parameters of f hold \$ref "#\/definitions\/X"/);
  expect(() => declareTools([tool("g", "", { x: { format: "date" } })], "typescript")).toThrow(/of g hold/);
});

test("JSON styles: as given, compact, and sorted by code point at every depth", () => {
  const tools = [
    { type: "function", function: { name: "f", parameters: { "\u{1f600}": 1, "\ufb01": [{ b: 1e-7, a: "é" }] } } },
  ];
  expect(declareTools(tools, "json")).toBe(
    '[{"type": "function", "function": {"name": "f", "parameters": {"\u{1f600}": 1, "\ufb01": [{"b": 1e-07, "a": "é"}]}}}]',
  );
  expect(declareTools(tools, "json-compact")).toBe(
    '[{"type":"function","function":{"name":"f","parameters":{"\u{1f600}":1,"\ufb01":[{"b":1e-07,"a":"é"}]}}}]',
  );
  expect(declareTools(tools, "json-sorted")).toBe(
    '[{"function":{"name":"f","parameters":{"\ufb01":[{"a":"é","b":1e-07}],"\u{1f600}":1}},"type":"function"}]',
  );
  expect(declareTools([], "json")).toBe("");
  expect(declareTools([], "typescript")).toBe("");
});
