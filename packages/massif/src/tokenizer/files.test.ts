import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, expect, test } from "vitest";
import { loadTokenizer, saveTokenizer } from "./files.ts";
import { parseHuggingFace, writeHuggingFace } from "./huggingface.ts";
import { patterns } from "./pattern.ts";
import { parseRanks, writeRanks } from "./tiktoken.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { trainTokenizer } from "./train.ts";

const folder = mkdtempSync(join(tmpdir(), "massif-tokenizer-files-"));
afterAll(() => rmSync(folder, { recursive: true }));

const TEXT =
  "It was the best of times, it was the worst of times, it was the age of wisdom… 汉字 1859 <|im_end|>\n\n don't";
const trained = (pattern?: string) => trainTokenizer([TEXT.repeat(3)], { vocabSize: 310, pattern });
const same = (a: Tokenizer, b: Tokenizer) => {
  expect(b.vocabSize).toBe(a.vocabSize);
  expect(b.specials).toEqual(a.specials);
  expect(b.splitter.pattern).toBe(a.splitter.pattern);
  for (const allowSpecial of [false, true]) {
    const ids = a.encode(TEXT, { allowSpecial });
    expect([...b.encode(TEXT, { allowSpecial })]).toEqual([...ids]);
    expect(b.decode(ids)).toBe(TEXT);
  }
};

test.each(["k2", "gpt2", "qwen", "[a-z]+| +"])(
  "what is written is read again, from every form (%s)",
  async (pattern) => {
    const tokenizer = trained(pattern);
    const path = join(folder, pattern.length > 6 ? "custom" : pattern);
    await saveTokenizer(tokenizer, path);
    const whole = await loadTokenizer(path);
    same(tokenizer, whole);
    same(tokenizer, await loadTokenizer(join(path, "tokenizer.json")));
    same(tokenizer, await loadTokenizer(join(path, "tiktoken.model")));
    expect(writeHuggingFace(whole)).toBe(readFileSync(join(path, "tokenizer.json"), "utf8"));
    expect(writeRanks(whole)).toBe(readFileSync(join(path, "tiktoken.model"), "utf8"));
  },
);

type Json = Record<string, unknown>;
/** The JSON of a small tokenizer.json, changed. */
const changed = (change: (file: Json & { model: Json }) => void): unknown => {
  const file = JSON.parse(writeHuggingFace(trained()));
  change(file);
  return file;
};

test("merges as strings; special tokens that the vocabulary lists too; a template that adds BOS is not applied", () => {
  const file = changed((file) => {
    file.model.merges = (file.model.merges as string[][]).map((pair) => pair.join(" "));
    (file.model.vocab as Json)["[BOS]"] = trained().idOf("[BOS]");
    file.post_processor = { type: "TemplateProcessing" };
  });
  same(trained(), parseHuggingFace(file, "tokenizer.json"));
});

test("without ignore_merges a token that no merge makes is not taken for a whole piece", () => {
  const file = (ignore: boolean) =>
    changed(({ model }) => {
      model.ignore_merges = ignore;
      (model.vocab as Json).qzx = 310;
    });
  expect([...parseHuggingFace(file(true), "f").encode("qzx")]).toEqual([310]);
  const pieces = parseHuggingFace(file(false), "f");
  expect(pieces.encode("qzx").length).toBe(3);
  expect(writeRanks(pieces)).toBeUndefined(); // tiktoken would take it
});

test("NFC is applied to text", () => {
  const tokenizer = parseHuggingFace(
    changed((file) => {
      file.normalizer = { type: "NFC" };
    }),
    "f",
  );
  expect(tokenizer.decode(tokenizer.encode("e\u0301"))).toBe("é");
  expect(JSON.parse(writeHuggingFace(tokenizer)).normalizer).toEqual({ type: "NFC" });
});

test.each<[string, (file: Json & { model: Json }) => void]>([
  ["model WordPiece", ({ model }) => Object.assign(model, { type: "WordPiece" })],
  ["model.byte_fallback true", ({ model }) => Object.assign(model, { byte_fallback: true })],
  ["model.dropout 0.1", ({ model }) => Object.assign(model, { dropout: 0.1 })],
  ["normalizer Lowercase", (file) => Object.assign(file, { normalizer: { type: "Lowercase" } })],
  ["decoder Metaspace", (file) => Object.assign(file, { decoder: { type: "Metaspace" } })],
  ["Whitespace", (file) => Object.assign(file, { pre_tokenizer: { type: "Whitespace" } })],
  [
    '"add_prefix_space":true',
    (file) => Object.assign(file, { pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } }),
  ],
  ["lstrip of added token", (file) => Object.assign((file.added_tokens as Json[])[0]!, { lstrip: true })],
  ["merge 0 (", ({ model }) => Object.assign(model, { merges: [["q", "qqq"]] })],
  [
    'a list of merges that makes qzx without "qz x"',
    ({ model }) => {
      Object.assign(model.vocab as Json, { qz: 310, zx: 311, qzx: 312 });
      (model.merges as string[][]).push(["q", "z"], ["z", "x"], ["q", "zx"]);
    },
  ],
])("tokenizer.json beyond byte-level BPE is refused: %s", (what, change) => {
  expect(() => parseHuggingFace(changed(change), "some.json")).toThrow(what);
});

test("a damaged file is an error with its place", async () => {
  expect(() => parseRanks("IQ== 0\nIg== x\n", "a.model")).toThrow('a.model:2: "Ig== x"');
  expect(() => parseRanks("IQ== 0\nIg== 0\n", "a.model")).toThrow("a.model:2: rank 0 is there twice");
  writeFileSync(join(folder, "bad.json"), '{"model":');
  await expect(loadTokenizer(join(folder, "bad.json"))).rejects.toThrow("bad.json is not JSON");
  await expect(loadTokenizer(join(folder, "absent"))).rejects.toMatchObject({ code: "tokenizer.missing" });
});

const data = resolve(import.meta.dirname, "../../../../../shared/data/tokenizers");
test.skipIf(!existsSync(data))(
  "genuine vocabularies written as tokenizer.json and read again (skipped where ../shared is absent)",
  async () => {
    for (const [name, pattern] of [
      ["kimi_tiktoken.model.xz", "k2"],
      ["qwen.tiktoken.xz", "qwen"],
    ] as const) {
      const tokenizer = await loadTokenizer(join(data, name), { pattern });
      expect(tokenizer.splitter.pattern).toBe(patterns[pattern]);
      const again = parseHuggingFace(JSON.parse(writeHuggingFace(tokenizer)), name);
      const text = readFileSync(import.meta.filename, "utf8") + TEXT;
      expect(again.encode(text)).toEqual(tokenizer.encode(text));
      expect(writeRanks(again)).toBe(writeRanks(tokenizer));
    }
  },
);
