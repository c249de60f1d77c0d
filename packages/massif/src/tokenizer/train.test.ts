import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { readText } from "../common/index.ts";
import { byteOrder, spell } from "./bytes.ts";
import { patterns, toRegExp } from "./pattern.ts";
import { k2Specials } from "./special.ts";
import { trainTokenizer } from "./train.ts";

/** BPE training as one would tell it: count all pairs, join the best everywhere, again. Tokens as lists of bytes. */
function naive(texts: string[], merges: number): string[] {
  const expression = new RegExp(toRegExp(patterns.k2).source, "gv");
  const rank = new Map(byteOrder.map((byte, id) => [byte, id]));
  const tokens = byteOrder.map((byte) => [byte]);
  let words = texts.flatMap((text) =>
    [...text.matchAll(expression)].map(([word]) => [...Buffer.from(word)].map((b) => rank.get(b)!)),
  );
  for (let n = 0; n < merges; n++) {
    const counts = new Map<string, number>();
    for (const word of words)
      for (let i = 1; i < word.length; i++)
        counts.set(`${word[i - 1]},${word[i]}`, (counts.get(`${word[i - 1]},${word[i]}`) ?? 0) + 1);
    // a pair (a, a) in "aaa" counts twice here, as in Hugging Face's trainer
    const [best] = [...counts]
      .map(([key, count]) => ({ count, pair: key.split(",").map(Number) as [number, number] }))
      .sort((x, y) => y.count - x.count || x.pair[0] - y.pair[0] || x.pair[1] - y.pair[1]);
    if (!best) break;
    const [a, b] = best.pair;
    tokens.push([...tokens[a]!, ...tokens[b]!]);
    words = words.map((word) => {
      const out: number[] = [];
      for (let i = 0; i < word.length; i++) {
        const here = word[i] === a && word[i + 1] === b;
        out.push(here ? tokens.length - 1 : word[i]!);
        if (here) i++;
      }
      return out;
    });
  }
  return tokens.map((token) => Buffer.from(token).toString("hex"));
}

const hexTokens = (texts: string[], vocabSize: number): string[] => {
  const { vocabulary } = trainTokenizer(texts, { vocabSize, special: [] });
  return Array.from({ length: vocabulary.size }, (_, id) => Buffer.from(vocabulary.bytes(id)).toString("hex"));
};

test("the same tokens as a naive trainer, on any texts", () => {
  const word = fc.string({ unit: fc.constantFrom("a", "b", "ab", "é", " ", "中", "1"), minLength: 0, maxLength: 30 });
  fc.assert(
    fc.property(fc.array(word, { minLength: 1, maxLength: 12 }), fc.integer({ min: 0, max: 25 }), (texts, merges) => {
      const want = naive(texts, merges);
      expect(hexTokens(texts, want.length)).toEqual(want);
    }),
    { numRuns: 300 },
  );
});

test("overlapping pairs: aaaa and aaaaa", () => {
  expect(hexTokens(["aaaa aaaaa aaa"], 259)).toEqual(naive(["aaaa aaaaa aaa"], 3));
});

test("vocabSize counts bytes, merges and special tokens, which come last and under K2's names", () => {
  const text = "the quick brown fox jumps over the lazy dog, then the fox thinks the other things";
  const tokenizer = trainTokenizer([text], { vocabSize: 300 });
  expect(tokenizer.vocabSize).toBe(300);
  expect(tokenizer.specials.map(({ name }) => name)).toEqual(k2Specials.map(({ name }) => name));
  expect(tokenizer.idOf("[PAD]")).toBe(299);
  expect(tokenizer.idOf("[BOS]")).toBe(300 - 17);
  expect(tokenizer.decode([256])).toBe("th"); // seven of them
  expect([...tokenizer.tokenBytes(0)]).toEqual([33]);
  expect([...tokenizer.tokenBytes(188)]).toEqual([0]);
  expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
  expect(tokenizer.encode(text).length).toBeLessThan(text.length / 2);
});

test("progress, and what cannot be", () => {
  const seen: string[] = [];
  trainTokenizer(["a b", "c"], { vocabSize: 274, onProgress: ({ stage, done }) => seen.push(`${stage} ${done}`) });
  expect(seen).toEqual(["read 1", "read 2"]);
  expect(() => trainTokenizer([], { vocabSize: 272 })).toThrow("from 273 on");
  expect(() => trainTokenizer(["ab"], { vocabSize: 275 })).toThrow("pairs for 274 tokens only");
});

const shakespeare = resolve(import.meta.dirname, "../../../../../shared/data/text/tiny_shakespeare.txt.xz");
test.skipIf(!existsSync(shakespeare))(
  "tiny Shakespeare: the tokens of Hugging Face's trainer (skipped where ../shared is absent)",
  async () => {
    const { vocabulary } = trainTokenizer([await readText(shakespeare)], { vocabSize: 4096, special: [] });
    const tokens = Array.from({ length: 4096 }, (_, id) => spell(vocabulary.bytes(id)));
    expect(tokens.slice(256, 260)).toEqual(["Ġt", "he", "Ġa", "ou"]);
    // As `train` of bench/peers/tokenizer_peer.py hashes the vocabulary of Python's tokenizers 0.23.3.
    const hash = createHash("sha256").update(tokens.join("\n")).digest("hex");
    expect(hash).toBe("65feecdcd7357dca01380574274df4de40f90038290e80f386110fab814f803d");
  },
);
