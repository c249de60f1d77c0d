import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { afterAll, expect, test } from "vitest";
import { z } from "zod";
import { readJsonl, readLines, readText, writeJsonl } from "./lines.ts";

const folder = mkdtempSync(join(tmpdir(), "massif-lines-"));
afterAll(() => rmSync(folder, { recursive: true }));

const put = (name: string, data: string | Uint8Array): string => {
  writeFileSync(join(folder, name), data);
  return join(folder, name);
};
const all = <T>(items: AsyncIterable<T>): Promise<T[]> => Array.fromAsync(items);

/** `printf 'eins\nzwei €\n' | xz`, so that the test needs no xz program. */
const XZ = Buffer.from(
  "/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQANZWlucwp6d2VpIOKCrAoAAABqS/VFfULxqQABJg4IG+AEH7bzfQEAAAAABFla",
  "base64",
);

const LONG = `${"x".repeat(100_000)}€`;
const text = `eins\r\n\nzwei €\n${LONG}\nlast`;

test.each([
  ["plain", Buffer.from(text)],
  ["gzip", gzipSync(text)],
  ["zstd", zstdCompressSync(text)],
])("lines of a %s file", async (name, data) => {
  const path = put(name, data);
  expect(await all(readLines(path))).toEqual(["eins", "", "zwei €", LONG, "last"]);
  expect(await readText(path)).toBe(text);
});

test("lines of an xz file; a truncated one is an error", async () => {
  expect(await all(readLines(put("a.xz", XZ)))).toEqual(["eins", "zwei €"]);
  await expect(all(readLines(put("cut.xz", XZ.subarray(0, -30))))).rejects.toThrow("cut.xz");
  await expect(all(readLines(put("cut.gz", gzipSync(text).subarray(0, -9))))).rejects.toThrow("cut.gz");
  await expect(all(readLines(put("cut.zst", zstdCompressSync(text).subarray(0, -9))))).rejects.toThrow("cut.zst");
});

test("empty and short files", async () => {
  expect(await all(readLines(put("empty", "")))).toEqual([]);
  expect(await readText(put("one", "a"))).toBe("a");
});

test("JSON lines: blank lines skipped, errors name file and line", async () => {
  const path = put("rows.jsonl", '{"a":1}\n\n{"a":2}\n');
  expect(await all(readJsonl(path))).toEqual([{ a: 1 }, { a: 2 }]);
  await expect(all(readJsonl(put("bad.jsonl", '{"a":1}\n\n{"a":\n')))).rejects.toThrow("bad.jsonl:3 is not JSON");
  const strict = all(readJsonl(put("typed.jsonl", '{"a":1}\n{"a":"x"}'), z.object({ a: z.number() })));
  await expect(strict).rejects.toThrow('typed.jsonl:2: "a": Invalid input: expected number');
  await expect(all(readJsonl(join(folder, "absent")))).rejects.toMatchObject({ code: "lines.read" });
});

test.each(["w.jsonl", "w.jsonl.gz", "w.jsonl.zst"])("%s: what was written is read", async (name) => {
  const rows = Array.from({ length: 5000 }, (_, i) => ({ i, text: `€ ${i}\n` }));
  const path = join(folder, name);
  expect(await writeJsonl(path, rows)).toBe(5000);
  expect(await all(readJsonl(path))).toEqual(rows);
  if (name === "w.jsonl") expect(readFileSync(path, "utf8").split("\n").length).toBe(5001);
});

test("standard input may be compressed", () => {
  const program = `import { readText } from "./lines.ts"; process.stdout.write(await readText("-"))`;
  const out = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
    input: gzipSync("über\n"),
    cwd: import.meta.dirname,
  });
  expect(out.toString()).toBe("über\n");
});
