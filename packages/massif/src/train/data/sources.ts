import { existsSync, globSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, extname, join, relative, resolve, sep } from "node:path";
import { parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import { asyncBufferFromFile } from "hyparquet/src/node.js";
import { compressors } from "hyparquet-compressors";
import { z } from "zod";
import { MassifError, nearest, readJsonl, readText } from "../../common/index.ts";

/** Where text comes from: a path or glob, or an object that says more. */
export const SourceConfig = z.union([
  z.string().min(1),
  z.strictObject({
    files: z
      .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
      .describe("Files, folders or globs; relative to the recipe, or to the package if one is named."),
    package: z.string().min(1).optional().describe("An installed npm package whose files are read."),
    field: z.string().min(1).default("text").describe("The field of a row (JSON, JSONL, Parquet) that holds its text."),
    template: z
      .string()
      .min(1)
      .optional()
      .describe("A document made of several fields, e.g. {name}, {year}, a blank line, {text}; instead of field."),
    id: z.string().min(1).optional().describe("The field that names a row; its place in its file by default."),
    name: z
      .string()
      .optional()
      .describe("Put before the ids of this source's documents; the package's name by default."),
  }),
]);
export type SourceConfig = z.output<typeof SourceConfig>;

/** One file to read, with what tells a changed file from an unchanged one. */
export interface SourceFile {
  path: string;
  /** The stable part of its documents' ids: the path below the folder, glob or package that named it. */
  name: string;
  /** Bytes on disk. */
  size: number;
  /** A package's version, or the file's time of modification. */
  stamp: string;
  rows: { field: string; template?: string; id?: string };
}

/** One text with its stable name. */
export interface Document {
  id: string;
  text: string;
  /** Index of its file in the list given to `readDocuments`. */
  file: number;
}

const FORMATS: Record<string, "text" | "json" | "jsonl" | "parquet"> = {
  ".txt": "text",
  ".text": "text",
  ".md": "text",
  ".markdown": "text",
  ".json": "json",
  ".jsonl": "jsonl",
  ".ndjson": "jsonl",
  ".parquet": "parquet",
};
const PACKED = /\.(?:gz|zst|xz)$/;
const formatOf = (path: string) => FORMATS[extname(path.replace(PACKED, "")).toLowerCase()];

/** The files that sources name: source by source, each in the order of their names (by code unit, the same everywhere).
 *  @param base folder that relative paths start from
 *  @throws MassifError `data.source.missing`, `data.source.empty`, `data.source.format`, `data.source.package` */
export function resolveSources(configs: SourceConfig[], base: string): SourceFile[] {
  return configs.flatMap((config) => {
    const source = typeof config === "string" ? { files: config, field: "text" } : config;
    const pack = source.package ? findPackage(source.package, base) : undefined;
    const prefix = source.name ?? source.package;
    const found = new Map<string, SourceFile>();
    for (const pattern of [source.files].flat()) {
      for (const { path, name } of expand(pattern, pack?.path ?? base, pack !== undefined)) {
        const stat = statSync(path);
        const file = {
          path,
          name: prefix ? `${prefix}/${name}` : name,
          size: stat.size,
          stamp: pack?.version ?? stat.mtime.toISOString(),
          rows: { field: source.field, template: source.template, id: source.id },
        };
        found.set(path, file);
      }
    }
    return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  });
}

/** Every document of the files, in order: a text file is one document; JSON, JSONL and Parquet hold one a row.
 *  @throws MassifError `data.source.row` for a row without the field, and those of `readJsonl` */
export async function* readDocuments(files: SourceFile[]): AsyncGenerator<Document> {
  for (const [index, file] of files.entries()) {
    if (formatOf(file.path) === "text") {
      yield { id: file.name, text: await readText(file.path), file: index };
      continue;
    }
    let n = 0;
    for await (const { row, alone } of readRows(file)) {
      const id = file.rows.id
        ? `${file.name}#${field(row, file.rows.id, file, n)}`
        : alone
          ? file.name
          : `${file.name}#${n}`;
      yield { id, text: textOf(row, file, n), file: index };
      n++;
    }
  }
}

async function* readRows(file: SourceFile): AsyncGenerator<{ row: unknown; alone: boolean }> {
  const format = formatOf(file.path);
  if (format === "jsonl") {
    for await (const row of readJsonl(file.path)) yield { row, alone: false };
  } else if (format === "parquet") {
    for await (const row of readParquet(file)) yield { row, alone: false };
  } else {
    const value = parseJson(await readText(file.path), file.path);
    if (Array.isArray(value)) for (const row of value) yield { row, alone: false };
    else yield { row: value, alone: true };
  }
}

/** Row groups are read one at a time, and only the columns that are needed. */
async function* readParquet(file: SourceFile): AsyncGenerator<Record<string, unknown>> {
  const { field, template, id } = file.rows;
  const columns = [...new Set([...(template ? placeholders(template) : [field]), ...(id ? [id] : [])])];
  try {
    const buffer = await asyncBufferFromFile(file.path);
    const metadata = await parquetMetadataAsync(buffer);
    const known = metadata.schema.slice(1).map((column) => column.name);
    for (const column of columns) if (!known.includes(column)) throw missingField(column, known, file.path);
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      yield* await parquetReadObjects({ file: buffer, metadata, columns, rowStart, rowEnd, compressors });
      rowStart = rowEnd;
    }
  } catch (cause) {
    if (cause instanceof MassifError) throw cause;
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new MassifError("data.source.format", { found: `cannot read ${file.path} as Parquet: ${text}`, cause });
  }
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new MassifError("data.source.format", {
      found: `${path} is not JSON: ${reason}`,
      fix: "name it .jsonl if it holds one JSON value a line",
      cause,
    });
  }
}

const placeholders = (template: string) => [...template.matchAll(/\{(\w+)\}/g)].map((match) => match[1]!);

function textOf(row: unknown, file: SourceFile, n: number): string {
  if (typeof row === "string") return row;
  const { template } = file.rows;
  if (!template) return field(row, file.rows.field, file, n);
  return template.replace(/\{(\w+)\}/g, (_, name: string) => field(row, name, file, n));
}

/** A field as text; null is empty text (which cleaning drops and counts), a missing field is an error. */
function field(row: unknown, name: string, file: SourceFile, n: number): string {
  const object = typeof row === "object" && row !== null ? (row as Record<string, unknown>) : {};
  if (!Object.hasOwn(object, name)) throw missingField(name, Object.keys(object), `row ${n + 1} of ${file.path}`);
  const value = object[name] ?? "";
  if (typeof value === "object") {
    throw new MassifError("data.source.row", {
      found: `field ${name} in row ${n + 1} of ${file.path} is ${Array.isArray(value) ? "a list" : "an object"}`,
      expected: "text or a number",
      fix: 'name the field that holds the text: { files, field: "…" }',
    });
  }
  return String(value);
}

function missingField(name: string, known: string[], where: string): MassifError {
  const like = nearest(name, known);
  return new MassifError("data.source.row", {
    found: `there is no field ${name} in ${where}`,
    expected: known.length ? `one of ${known.join(", ")}` : "an object with fields",
    fix: `name the field that holds the text: { files, field: ${JSON.stringify(like ?? known[0] ?? "text")} }`,
  });
}

/** Files of one path or glob, each with its name below the folder that the pattern fixes. */
function expand(pattern: string, base: string, fromBase: boolean): { path: string; name: string }[] {
  const at = resolve(base, pattern);
  const named = (path: string, root: string) => ({
    path,
    name: relative(fromBase ? base : root, path)
      .split(sep)
      .join("/"),
  });
  if (existsSync(at)) {
    if (!statSync(at).isDirectory()) {
      if (!formatOf(at)) throw unknownFormat(at);
      return [named(at, dirname(at))];
    }
    const hidden = (path: string) => basename(path).startsWith(".") || basename(path) === "node_modules";
    const files = globSync("**/*", { cwd: at, withFileTypes: true, exclude: (entry) => hidden(entry.name) });
    const texts = files.map((entry) => join(entry.parentPath, entry.name)).filter((path) => formatOf(path));
    if (!texts.length) {
      throw new MassifError("data.source.empty", {
        found: `no text in the folder ${at}`,
        expected: `files that end in ${Object.keys(FORMATS).join(", ")} (also .gz, .zst, .xz)`,
      });
    }
    return texts.map((path) => named(path, at));
  }
  if (!/[*?[{]/.test(pattern)) {
    throw new MassifError("data.source.missing", {
      found: `there is no file or folder ${at}`,
      fix: "check the path; relative paths start from the folder of the recipe (or of the package that is named)",
    });
  }
  const parts = at.split(sep);
  const root =
    parts
      .slice(
        0,
        parts.findIndex((part) => /[*?[{]/.test(part)),
      )
      .join(sep) || sep;
  const paths = globSync(at).filter((path) => statSync(path).isFile());
  if (!paths.length) {
    throw new MassifError("data.source.empty", {
      found: `no file matches ${pattern}`,
      expected: `files under ${root}${existsSync(root) ? "" : ", which is not there either"}`,
      fix: "check the pattern; * stays within one folder, ** crosses folders",
    });
  }
  for (const path of paths) if (!formatOf(path)) throw unknownFormat(path);
  return paths.map((path) => named(path, root));
}

function unknownFormat(path: string): MassifError {
  return new MassifError("data.source.format", {
    found: `${path} is of no known format`,
    expected: `a name that ends in ${Object.keys(FORMATS).join(", ")} (also .gz, .zst, .xz)`,
  });
}

/** The folder of an installed package, found as Node finds it: upwards from the recipe, then from this file. */
function findPackage(name: string, base: string): { path: string; version: string } {
  for (const start of [base, import.meta.dirname]) {
    for (let folder = resolve(start); ; folder = dirname(folder)) {
      const path = join(folder, "node_modules", name);
      const manifest = join(path, "package.json");
      if (existsSync(manifest)) {
        const { version } = parseJson(readFileSync(manifest, "utf8"), manifest) as { version?: string };
        return { path, version: `${name}@${version ?? "0"}` };
      }
      if (folder === dirname(folder)) break;
    }
  }
  throw new MassifError("data.source.package", {
    found: `the package ${name} is not installed`,
    fix: `npm install ${name}`,
  });
}
