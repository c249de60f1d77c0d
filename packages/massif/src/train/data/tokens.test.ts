import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";
import { fixtureInfo as info, fixtureBytes as lengths, writeTokens as write } from "./fixture.ts";
import { documentKey } from "./split.ts";
import { TokenFile } from "./tokens.ts";
import { TokenWriter } from "./writer.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "massif-tokens-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

test("what is written is read back: tokens, index, ids, bytes", () => {
  const path = join(folder, "a.tokens");
  write(path, { one: [1, 2, 3], "zwei-é": [], three: [298] });
  using file = TokenFile.open(path);
  expect([file.length, file.documents, file.textBytes]).toEqual([7, 3, 13]);
  expect(file.info).toEqual(info(300));
  expect([...file.tokens(0, 7)]).toEqual([1, 2, 3, 299, 299, 298, 299]);
  expect([...file.tokens(2, 4)]).toEqual([3, 299]);
  expect([...file.ends]).toEqual([4, 5, 7]);
  expect([...file.bytes]).toEqual([9, 0, 4]);
  expect([0, 1, 2].map((i) => file.id(i))).toEqual(["one", "zwei-é", "three"]);
  expect([...file.keys]).toEqual(["one", "zwei-é", "three"].map(documentKey));
  expect(file.tokenBytes[4]).toBe(5);
  expect(() => file.tokens(0, 8)).toThrow(RangeError);
});

test("thousands of documents keep their own ids and keys", () => {
  const path = join(folder, "a.tokens");
  const ids = Array.from({ length: 5000 }, (_, i) => `library/shelf é/${i * 977}`);
  write(path, Object.fromEntries(ids.map((id, i) => [id, [i % 299]])));
  using file = TokenFile.open(path);
  expect(ids.map((_, i) => file.id(i))).toEqual(ids);
  expect([...file.keys]).toEqual(ids.map(documentKey));
  expect([...file.ends]).toEqual(ids.map((_, i) => 2 * i + 2));
});

test("vocabularies beyond 65,536 tokens take four bytes a token, and any span is read right", () => {
  for (const vocabSize of [65_536, 163_840]) {
    const path = join(folder, `${vocabSize}.tokens`);
    const ids = Array.from({ length: 70_000 }, (_, i) => (i * 7919) % (vocabSize - 1));
    write(path, { long: ids }, vocabSize);
    using file = TokenFile.open(path, { checkUpTo: 0 });
    expect(readFileSync(path).length - 192 - (8 * 3 + 4) - 2 * vocabSize).toBe(
      70_001 * (vocabSize > 65_536 ? 4 : 2) + 4 + 4 * Math.ceil((70_001 * (vocabSize > 65_536 ? 4 : 2) + 4) / 65_536),
    );
    fc.assert(
      fc.property(fc.nat(70_000), fc.nat(300), (start, n) => {
        const end = Math.min(start + n, 70_001);
        expect([...file.tokens(start, end)]).toEqual([...ids, vocabSize - 1].slice(start, end));
      }),
    );
  }
});

test("any flipped byte of any part is an error that names the file", () => {
  const path = join(folder, "a.tokens");
  write(path, { one: [1, 2, 3, 4, 5, 6], two: [7, 8] }, 40);
  const whole = readFileSync(path);
  for (let at = 0; at < whole.length; at++) {
    for (const bit of [1, 128]) {
      const bad = Buffer.from(whole);
      bad[at]! ^= bit;
      writeFileSync(path, bad);
      expect(() => TokenFile.open(path), `byte ${at}`).toThrow(path);
    }
  }
});

test("a block of a large file is checked when it is read, and only then", () => {
  const path = join(folder, "a.tokens");
  write(path, { long: Array.from({ length: 100_000 }, () => 5) });
  const bytes = readFileSync(path);
  bytes[192 + 150_000]! ^= 4;
  writeFileSync(path, bytes);
  using file = TokenFile.open(path, { checkUpTo: 0 });
  expect(file.tokens(0, 3)[2]).toBe(5);
  expect(file.tokens(0, 65_536)[65_535]).toBe(5);
  expect(() => file.tokens(65_536, 65_537)).toThrow(/damaged: bytes 131264 to 196800/);
  expect(() => file.check()).toThrow(/damaged/);
  expect(() => TokenFile.open(path)).toThrow(/damaged/);
});

test("truncated, grown, empty, foreign and absent files are errors", () => {
  const path = join(folder, "a.tokens");
  write(path, { one: [1, 2, 3] });
  const whole = readFileSync(path);
  writeFileSync(path, Buffer.concat([whole, Buffer.from([0])]));
  expect(() => TokenFile.open(path)).toThrow(/damaged.*\n.*bytes by its header/);
  writeFileSync(path, whole);
  for (const length of [whole.length - 1, 250, 192, 100, 0]) {
    truncateSync(path, length);
    expect(() => TokenFile.open(path)).toThrow(/damaged/);
  }
  writeFileSync(path, "something else".repeat(100));
  expect(() => TokenFile.open(path)).toThrow(/not a token file/);
  expect(() => TokenFile.open(join(folder, "b.tokens"))).toThrow(/cannot open/);
});

test("nothing is at the path before finish, and nothing anywhere after abort", () => {
  const path = join(folder, "a.tokens");
  const writer = new TokenWriter(path, info(10), lengths(10));
  writer.add("one", Uint32Array.of(1), 2);
  expect(() => TokenFile.open(path)).toThrow(/cannot open/);
  writer.abort();
  expect(readdirSync(folder)).toEqual([]);
});

test("tokens that lose bytes are refused; so is a folder that is not there", () => {
  const writer = new TokenWriter(join(folder, "a.tokens"), info(10), lengths(10));
  expect(() => writer.add("one", Uint32Array.of(1, 2), 6)).toThrow(/stand for 5 bytes, its text has 6/);
  writer.abort();
  expect(() => new TokenWriter(join(folder, "no/a.tokens"), info(10), lengths(10))).toThrow(/cannot write/);
});
