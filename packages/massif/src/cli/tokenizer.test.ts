import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { zstdCompressSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";

const main = resolve(import.meta.dirname, "main.ts");
const folder = mkdtempSync(join(tmpdir(), "massif-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true }));

function massif(args: string[], input = "") {
  const { stdout, stderr, status } = spawnSync(process.execPath, [main, "tokenizer", ...args], {
    input,
    encoding: "utf8",
  });
  const rows = stdout.split("\n").filter(Boolean);
  return { rows: rows.map((row) => JSON.parse(row)), stderr, status };
}

const text = "to be or not to be, that is the question\n";
const out = join(folder, "tokens");
beforeAll(() => {
  writeFileSync(join(folder, "a.txt"), text);
  writeFileSync(join(folder, "b.jsonl.zst"), zstdCompressSync(`${JSON.stringify({ text })}\n`));
  const made = massif([
    "train",
    join(folder, "a.txt"),
    join(folder, "b.jsonl.zst"),
    "--vocab-size",
    "290",
    "--out",
    out,
  ]);
  expect(made).toMatchObject({ status: 0, rows: [] });
});

test("train writes the three files, the same ones from the same texts", () => {
  const names = ["tiktoken.model", "tokenizer.json", "tokenizer_config.json"];
  expect(readdirSync(out).sort()).toEqual(names);
  const again = join(folder, "again");
  massif(["train", join(folder, "a.txt"), join(folder, "a.txt"), "--vocab-size", "290", "--out", again]);
  for (const name of names) expect(readFileSync(join(again, name))).toEqual(readFileSync(join(out, name)));
});

test("encode and decode: rows there and back, other fields pass through, special text stays text unless allowed", () => {
  const input = `{"n":1,"text":"to be<|im_end|>"}\n\n{"text":"é 汉字"}\n`;
  const encoded = massif(["encode", "--tokenizer", out], input);
  expect(encoded.rows.map(({ n }) => n)).toEqual([1, undefined]);
  expect(Math.max(...encoded.rows[0].ids)).toBeLessThan(290 - 17);
  const back = massif(["decode", "--tokenizer", out], encoded.rows.map((row) => JSON.stringify(row)).join("\n"));
  expect(back.rows).toEqual([{ n: 1, text: "to be<|im_end|>" }, { text: "é 汉字" }]);
  const special = massif(["encode", "--tokenizer", join(out, "tiktoken.model"), "--allow-special"], input);
  expect(special.rows[0].ids.at(-1)).toBe(290 - 17 + 2);
  const skipped = massif(["decode", "-", "--tokenizer", out, "--skip-special"], JSON.stringify(special.rows[0]));
  expect(skipped.rows).toEqual([{ n: 1, text: "to be" }]);
});

test("errors name file and line; wrong calls exit with 2", () => {
  writeFileSync(join(folder, "bad.jsonl"), '{"text":"a"}\n{"text":1}\n');
  const bad = massif(["encode", join(folder, "bad.jsonl"), "--tokenizer", out]);
  expect(bad).toMatchObject({ status: 1, stderr: expect.stringContaining('bad.jsonl:2: "text"') });
  const high = massif(["decode", "--tokenizer", out], '{"ids":[0]}\n{"ids":[290]}\n');
  expect(high).toMatchObject({ status: 1, stderr: expect.stringContaining('standard input:2: "ids.0"') });
  expect(massif(["encode"])).toMatchObject({ status: 2, stderr: expect.stringContaining("--tokenizer is missing") });
  expect(massif(["encod"])).toMatchObject({ status: 2, stderr: expect.stringContaining("did you mean 'encode'?") });
  expect(massif(["encode", "--tokenizer", folder])).toMatchObject({
    status: 1,
    stderr: expect.stringContaining("has no tokenizer.json"),
  });
});
