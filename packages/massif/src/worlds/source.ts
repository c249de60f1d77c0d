/** A JSON file that remembers where everything stands, so that an error can point at its line. */
import { findNodeAtLocation, type Node, type ParseError, parseTree, printParseErrorCode } from "jsonc-parser";
import { z } from "zod";
import { MassifError, nearest } from "../common/index.ts";

export type Path = readonly (string | number)[];

/** Something wrong at a place in a file. `line` and `column` count from 1. */
export interface Issue {
  path: string;
  line: number;
  column: number;
  message: string;
}

/** `tools[1].effects[0].to`, the way people write a path. */
export function showPath(path: Path): string {
  return path.map((p, i) => (typeof p === "number" ? `[${p}]` : i ? `.${p}` : p)).join("") || "(the whole file)";
}

export class Source {
  readonly name: string;
  readonly data: unknown;
  readonly #root: Node;
  readonly #lines: number[];

  /** @throws MassifError `world.json` where the text is not strict JSON or repeats a key. */
  constructor(name: string, json: string) {
    this.name = name;
    this.#lines = [0];
    for (let i = json.indexOf("\n"); i >= 0; i = json.indexOf("\n", i + 1)) this.#lines.push(i + 1);
    const errors: ParseError[] = [];
    const root = deep(json)
      ? undefined
      : parseTree(json, errors, { disallowComments: true, allowTrailingComma: false });
    const first = errors[0];
    if (first || !root) {
      const where = this.#position(first?.offset ?? 0);
      const what = first ? printParseErrorCode(first.error) : "empty, or nested deeper than any world is";
      throw new MassifError("world.json", {
        found: `${name}:${where.line}:${where.column} is not JSON (${what})`,
        fix: "JSON has no comments, no trailing commas, and double quotes only",
      });
    }
    this.#root = root;
    this.data = this.#value(root, []);
  }

  /** The nearest place to `path` that the file has. */
  locate(path: Path): { line: number; column: number } {
    for (let n = path.length; n >= 0; n--) {
      const node = findNodeAtLocation(this.#root, path.slice(0, n) as (string | number)[]);
      if (node) return this.#position(node.offset);
    }
    return { line: 1, column: 1 };
  }

  issue(path: Path, message: string): Issue {
    return { path: showPath(path), ...this.locate(path), message };
  }

  /** @throws MassifError `world.invalid` that lists every issue with file, line and column. */
  refuse(issues: readonly Issue[]): never {
    const lines = issues.map((i) => `  ${this.name}:${i.line}:${i.column} ${i.path}: ${i.message}`);
    throw new MassifError("world.invalid", {
      found: [`${this.name} has ${issues.length === 1 ? "a problem" : `${issues.length} problems`}:`, ...lines].join(
        "\n",
      ),
      fix: "correct the lines named above; docs/worlds.md describes the format",
      cause: issues,
    });
  }

  /** Parses against a strict schema; unknown keys are answered with the nearest known one. */
  parse<T>(schema: z.ZodType<T>): T {
    const parsed = schema.safeParse(this.data);
    if (parsed.success) return parsed.data;
    const known = keysOf(z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }));
    return this.refuse(parsed.error.issues.flatMap((i) => this.#explain(i, i.path as Path, known)));
  }

  #explain(issue: z.core.$ZodIssue, path: Path, known: ReadonlySet<string>): Issue[] {
    if (issue.code === "unrecognized_keys") {
      return issue.keys.map((key) => {
        const like = nearest(key, known);
        return this.issue(
          [...path, key],
          `unknown key '${key}'${like && like !== key ? `; did you mean '${like}'?` : ""}`,
        );
      });
    }
    if (issue.code === "invalid_union" && issue.errors.length) {
      // Of the alternatives, the one that got furthest is the one that was meant.
      const depth = (list: z.core.$ZodIssue[]) =>
        Math.max(...list.map((i) => i.path.length)) - (list.some((i) => i.code === "invalid_type") ? 0.5 : 0);
      const best = issue.errors.reduce((a, b) => (depth(b) > depth(a) ? b : a));
      if (depth(best) > 0) return best.flatMap((i) => this.#explain(i, [...path, ...(i.path as Path)], known));
    }
    return [this.issue(path, issue.message)];
  }

  #position(offset: number): { line: number; column: number } {
    let line = this.#lines.findLastIndex((start) => start <= offset);
    if (line < 0) line = 0;
    return { line: line + 1, column: offset - (this.#lines[line] ?? 0) + 1 };
  }

  #value(node: Node, path: Path): unknown {
    if (node.type === "array") return (node.children ?? []).map((child, i) => this.#value(child, [...path, i]));
    if (node.type !== "object") return node.value;
    const object: Record<string, unknown> = {};
    for (const { children } of node.children ?? []) {
      const key = String(children?.[0]?.value);
      const at = [...path, key];
      if (Object.hasOwn(object, key))
        this.refuse([
          { path: showPath(at), ...this.#position(children?.[0]?.offset ?? 0), message: "this key stands here twice" },
        ]);
      Object.defineProperty(object, key, {
        value: children?.[1] ? this.#value(children[1], at) : null,
        enumerable: true,
        writable: true,
        configurable: true,
      });
    }
    return object;
  }
}

/** Whether brackets nest deeper than a recursive parser bears; brackets in strings count too, which does no harm. */
function deep(json: string): boolean {
  let depth = 0;
  for (const c of json) {
    if (c === "[" || c === "{") depth++;
    else if (c === "]" || c === "}") depth--;
    if (depth > 500) return true;
  }
  return false;
}

function keysOf(schema: unknown, keys = new Set<string>()): Set<string> {
  if (schema && typeof schema === "object") {
    for (const [name, part] of Object.entries(schema)) {
      if (name === "properties" && part && typeof part === "object") for (const key of Object.keys(part)) keys.add(key);
      keysOf(part, keys);
    }
  }
  return keys;
}
