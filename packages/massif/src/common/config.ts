/**
 * Config of a recipe: a JSON file under a zod schema. The schema is the documentation: every key has a default that is
 * the recipe and one sentence (`.describe()`). A nested section takes `.prefault({})` (not `.default({})`, which in
 * zod 4 hides the defaults of the keys inside).
 */
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { MassifError, nearest } from "./errors.ts";

type Path = (string | number)[];
type Tree = Record<string, unknown>;

/**
 * The config of `source` (a JSON file, or an object), with `sets` (`a.b=c`) on top, checked and completed by `schema`.
 * A file may name one base it goes on from: `"extends": "../base.json"`; objects merge, everything else replaces.
 *
 * @throws MassifError `config.file`, `config.json`, `config.set`, `config.unknown-key`, `config.invalid`
 */
export function loadConfig<S extends z.ZodType>(schema: S, source: string | object, sets: string[] = []): z.output<S> {
  const tree = structuredClone(typeof source === "string" ? readTree(resolve(source), []) : (source as Tree));
  for (const set of sets) applySet(tree, set);
  const where = typeof source === "string" ? ` in ${source}` : "";
  const stray = strayKey(schema, tree, []);
  if (stray) {
    const known = configKeys(schema).map((key) => key.path);
    const key = String(stray.at(-1));
    const siblings = known.filter((path) => parentOf(path) === parentOf(dotted(stray)));
    const like =
      nearest(key, siblings.map(leafOf)) ??
      known.find((path) => leafOf(path) === key) ??
      known.find((path) => leafOf(path) === nearest(key, known.map(leafOf)));
    const full = siblings.find((path) => leafOf(path) === like) ?? like;
    throw new MassifError("config.unknown-key", {
      found: `unknown key ${dotted(stray)}${where}`,
      expected: siblings.length ? `one of ${siblings.map(leafOf).join(", ")}` : undefined,
      fix: full ? `did you mean ${full}?` : "remove it",
    });
  }
  const result = schema.safeParse(tree);
  if (result.success) return result.data;
  const troubles = result.error.issues.map((issue) => explain(schema, tree, issue));
  throw new MassifError("config.invalid", {
    found: troubles.map((t) => t.found).join("; ") + where,
    expected: troubles.map((t) => t.expected).join("; "),
    fix: `correct it in the file, or with --set ${troubles[0]?.key}=VALUE`,
  });
}

/** One key of a config: where it stands, what it takes, its default (JSON; absent when it must be given), its sentence. */
export interface ConfigKey {
  path: string;
  type: string;
  default?: string;
  sentence: string;
  section: boolean;
}

/** Every key of `schema`, outermost first, in the order of the schema. */
export function configKeys(schema: z.ZodType, path = ""): ConfigKey[] {
  const { bare } = peel(schema);
  const join = (key: string) => (path ? `${path}.${key}` : key);
  if (bare instanceof z.ZodObject) {
    return Object.entries(bare.shape as Record<string, z.ZodType>).flatMap(([key, child]) => {
      const { bare: type, fallback, sentence } = peel(child);
      const inner = configKeys(child, join(key));
      const value = fallback === undefined ? {} : { default: JSON.stringify(fallback) };
      return [
        { path: join(key), type: typeName(type), ...value, sentence, section: type instanceof z.ZodObject },
        ...inner,
      ];
    });
  }
  if (bare instanceof z.ZodArray) return configKeys(bare.element as z.ZodType, `${path}[]`);
  if (bare instanceof z.ZodRecord) return configKeys(bare.valueType as z.ZodType, join("<name>"));
  if (bare instanceof z.ZodUnion) {
    const keys = bare.options.flatMap((option) => configKeys(option as z.ZodType, path));
    const first = new Map<string, ConfigKey>();
    for (const key of keys) {
      const twin = first.get(key.path);
      if (!twin) first.set(key.path, key);
      else if (!twin.type.split(" | ").includes(key.type)) twin.type += ` | ${key.type}`;
    }
    return [...first.values()];
  }
  return [];
}

/** The tree of keys as text for `--help` and the documentation: key, default (or type), sentence. */
export function describeConfig(schema: z.ZodType): string {
  const listed = new Map<string, number>();
  const rows = configKeys(schema).map(({ path, type, default: value, sentence, section }) => {
    const above = [...listed.keys()].findLast((key) => path.startsWith(`${key}.`) || path.startsWith(`${key}[`));
    const depth = above === undefined ? 0 : listed.get(above)! + 1;
    listed.set(path, depth);
    return {
      key: "  ".repeat(depth) + path.slice(above === undefined ? 0 : above.length).replace(/^\./, ""),
      value: section ? "" : (value ?? `(${type})`),
      // A default does not tell the other choices, so they follow the sentence.
      sentence: value !== undefined && type.includes(" | ") ? `${sentence} ${type}` : sentence,
    };
  });
  const keyWidth = Math.max(...rows.map((row) => row.key.length));
  const valueWidth = Math.min(28, Math.max(...rows.map((row) => row.value.length)));
  return rows
    .map(({ key, value, sentence }) => `${key.padEnd(keyWidth)}  ${value.padEnd(valueWidth)}  ${sentence}`.trimEnd())
    .join("\n");
}

/** The paths at which two resolved configs differ, e.g. `["optimizer.lr"]`. */
export function configDifferences(a: unknown, b: unknown, path: Path = []): string[] {
  if (isTree(a) && isTree(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...keys].flatMap((key) => configDifferences(a[key], b[key], [...path, key]));
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [dotted(path)];
}

const isTree = (value: unknown): value is Tree => typeof value === "object" && value !== null && !Array.isArray(value);
const dotted = (path: PropertyKey[]): string =>
  path.reduce<string>(
    (text, key) => (typeof key === "number" ? `${text}[]` : text ? `${text}.${String(key)}` : String(key)),
    "",
  );
const leafOf = (path: string): string => path.slice(path.lastIndexOf(".") + 1);
const parentOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf(".")));

function readTree(file: string, below: string[]): Tree {
  if (below.includes(file)) {
    throw new MassifError("config.file", { found: `${file} extends itself`, fix: "remove one of the extends" });
  }
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    const by = below.length ? ` (extended by ${below.at(-1)})` : "";
    throw new MassifError("config.file", {
      found: `there is no readable file ${file}${by}`,
      expected: "a recipe's config.json",
      fix: "check the path",
      cause,
    });
  }
  let tree: unknown;
  try {
    tree = JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new MassifError("config.json", { found: `${file}: ${reason}`, expected: "JSON without comments", cause });
  }
  if (!isTree(tree)) throw new MassifError("config.json", { found: `${file} is no object`, expected: "{ … }" });
  const { extends: base, ...own } = tree;
  if (base === undefined) return own;
  if (typeof base !== "string") {
    throw new MassifError("config.file", {
      found: `extends is ${show(base)} in ${file}`,
      expected: "the path of a file",
    });
  }
  return merge(readTree(resolve(dirname(file), base), [...below, file]), own);
}

function merge(base: Tree, own: Tree): Tree {
  const result = { ...base };
  for (const [key, value] of Object.entries(own)) {
    const under = Object.hasOwn(base, key) ? base[key] : undefined;
    result[key] = isTree(under) && isTree(value) ? merge(under, value) : value;
  }
  return result;
}

/** `a.b=c` into the tree; the value is JSON where it parses as JSON, and text where not. */
function applySet(tree: Tree, set: string): void {
  const at = set.indexOf("=");
  const keys = set.slice(0, Math.max(0, at)).split(".");
  if (at < 1 || keys.some((key) => !key || key === "__proto__")) {
    throw new MassifError("config.set", { found: `--set ${set}`, expected: "--set key.of.config=value" });
  }
  const text = set.slice(at + 1);
  let value: unknown = text;
  try {
    value = JSON.parse(text);
  } catch {
    // Not JSON, so a string: --set data.files=a.txt needs no quotes.
  }
  let node: Tree | unknown[] = tree;
  for (const [i, key] of keys.entries()) {
    const slot = node as Tree;
    if (i === keys.length - 1) slot[key] = value;
    else {
      if (!Object.hasOwn(slot, key)) slot[key] = {};
      const next = slot[key];
      if (!isTree(next) && !Array.isArray(next)) {
        const path = keys.slice(0, i + 1).join(".");
        throw new MassifError("config.set", {
          found: `--set ${set}, but ${path} is ${show(next)}`,
          expected: "a section",
        });
      }
      node = next;
    }
  }
}

/** A schema without its wrappers, with the default and the sentence that they carried. */
function peel(schema: z.ZodType): { bare: z.ZodType; fallback?: unknown; sentence: string } {
  let bare = schema;
  let fallback: unknown;
  let sentence = schema.description ?? "";
  for (;;) {
    if (bare instanceof z.ZodDefault || bare instanceof z.ZodPrefault) fallback ??= bare.def.defaultValue;
    if (bare instanceof z.ZodPipe) bare = (bare.in instanceof z.ZodTransform ? bare.out : bare.in) as z.ZodType;
    else if (bare instanceof z.ZodLazy) bare = bare.unwrap() as z.ZodType;
    else if (
      bare instanceof z.ZodDefault ||
      bare instanceof z.ZodPrefault ||
      bare instanceof z.ZodOptional ||
      bare instanceof z.ZodNullable ||
      bare instanceof z.ZodReadonly
    ) {
      bare = bare.unwrap() as z.ZodType;
    } else return { bare, fallback, sentence };
    sentence ||= bare.description ?? "";
  }
}

function typeName(schema: z.ZodType): string {
  const { bare } = peel(schema);
  if (bare instanceof z.ZodNumber) return bare.format === "safeint" ? "integer" : "number";
  if (bare instanceof z.ZodString) return "string";
  if (bare instanceof z.ZodBoolean) return "boolean";
  if (bare instanceof z.ZodEnum) return bare.options.map((option) => JSON.stringify(option)).join(" | ");
  if (bare instanceof z.ZodLiteral) return [...bare.values].map((value) => JSON.stringify(value)).join(" | ");
  if (bare instanceof z.ZodArray) return `list of ${typeName(bare.element as z.ZodType)}`;
  if (bare instanceof z.ZodUnion) {
    return [...new Set(bare.options.map((option) => typeName(option as z.ZodType)))].join(" | ");
  }
  if (bare instanceof z.ZodObject || bare instanceof z.ZodRecord) return "object";
  return bare.def.type;
}

/** The path of the first key that no schema knows; z.object would drop it in silence. */
function strayKey(schema: z.ZodType, value: unknown, path: Path): Path | undefined {
  const { bare } = peel(schema);
  if (bare instanceof z.ZodObject && isTree(value)) {
    const shape = bare.shape as Record<string, z.ZodType>;
    for (const [key, inner] of Object.entries(value)) {
      const child = Object.hasOwn(shape, key) ? shape[key] : undefined;
      if (!child && bare.def.catchall && !(bare.def.catchall instanceof z.ZodNever)) continue;
      const stray = child ? strayKey(child, inner, [...path, key]) : [...path, key];
      if (stray) return stray;
    }
  } else if (bare instanceof z.ZodArray && Array.isArray(value)) {
    return firstOf(value.map((inner, i) => () => strayKey(bare.element as z.ZodType, inner, [...path, i])));
  } else if (bare instanceof z.ZodRecord && isTree(value)) {
    const entries = Object.entries(value);
    return firstOf(
      entries.map(
        ([key, inner]) =>
          () =>
            strayKey(bare.valueType as z.ZodType, inner, [...path, key]),
      ),
    );
  } else if (bare instanceof z.ZodUnion) {
    const options = bare.options.filter((option) => tagsMatch(option as z.ZodType, value));
    const strays = options.map((option) => strayKey(option as z.ZodType, value, path));
    if (strays.length && strays.every((stray) => stray)) return strays[0];
  }
  return undefined;
}

/** Whether the literal keys of an option of a union (`kind: "wsd"`) are those of the value. */
function tagsMatch(option: z.ZodType, value: unknown): boolean {
  const { bare } = peel(option);
  if (!(bare instanceof z.ZodObject)) return !isTree(value) || bare instanceof z.ZodRecord;
  if (!isTree(value)) return false;
  return Object.entries(bare.shape).every(
    ([key, tag]) => !(tag instanceof z.ZodLiteral) || tag.safeParse(value[key]).success,
  );
}

function firstOf<T>(tries: (() => T | undefined)[]): T | undefined {
  for (const attempt of tries) {
    const found = attempt();
    if (found !== undefined) return found;
  }
  return undefined;
}

interface Issue {
  code?: string;
  path: PropertyKey[];
  message: string;
  errors?: Issue[][];
}

function explain(schema: z.ZodType, tree: Tree, issue: Issue): { key: string; found: string; expected: string } {
  // Of a union's branches, the one that got furthest into the value is the one that was meant.
  const branches = (issue.errors ?? []).flat().filter((inner) => inner.path.length > 0);
  const deepest = branches.sort((a, b) => b.path.length - a.path.length)[0];
  if (deepest) return explain(schema, tree, { ...deepest, path: [...issue.path, ...deepest.path] });

  const key = issue.path.map(String).join(".");
  const value = issue.path.reduce<unknown>((node, part) => (node as Tree | undefined)?.[String(part)], tree);
  const known = configKeys(schema).find((entry) => entry.path === dotted(issue.path));
  const typed = issue.code === "invalid_type" || issue.code === "invalid_union";
  const wanted =
    typed && known
      ? known.type
      : issue.message
          .replace(/^[^:]*: /, "")
          .replace(/^expected /, "")
          .replace(/^\w+ to be /, "")
          .replace(/, received .*/, "");
  return {
    key,
    found: value === undefined ? `${key} is missing` : `${key} is ${show(value)}`,
    expected: known?.sentence ? `${wanted} (${known.sentence})` : wanted,
  };
}

function show(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}
