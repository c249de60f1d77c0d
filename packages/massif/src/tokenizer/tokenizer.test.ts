import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import fc from "fast-check";
import { Tiktoken } from "tiktoken";
import { beforeAll, describe, expect, test } from "vitest";
import { readText } from "../common/index.ts";
import { byteOrder } from "./bytes.ts";
import { loadTokenizer } from "./files.ts";
import { patterns } from "./pattern.ts";
import { slices, Tokenizer } from "./tokenizer.ts";

const data = resolve(import.meta.dirname, "../../../../../shared/data/tokenizers");
const kimi = { file: `${data}/kimi_tiktoken.model.xz`, config: `${data}/kimi_tokenizer_config.json` };

/** Spec §7.5: text and ids. */
const vectors: [string, string][] = [
  ["Hello, world!", "19180,11,2695,0"],
  [" hello", "40493"],
  ["The quick brown fox jumps over the lazy dog.", "1008,5072,16331,69275,60062,1312,276,29292,7751,13"],
  ["你好，世界！", "33845,378,2243,856"],
  ["月之暗面科技有限公司", "892,685,5519,696,26845"],
  ["Kimi K2 是一个 MoE 模型", "42,30223,1040,17,220,4279,16340,36,220,15662"],
  ["1234567890", "6694,12972,16242,15"],
  ["3.14159", "18,13,18702,6276"],
  ["don't DON'T can't we'LL", "88709,92629,64833,8971,645,6,5847"],
  ["  leading and   multiple   spaces  ", "220,8134,316,256,6810,256,14803,256"],
  ["\n\n\nnewlines\r\n\r\ntabs\t\t", "3898,3514,11541,2298,58308,353"],
  ["def f(x):\n    return x**2  # comment\n", "1166,285,3940,2360,274,745,1288,381,17,220,1214,8018,198"],
  ["camelCaseAndHTTPServer", "156983,8081,3951,88148,4022"],
  ["naïve café Ünïcödé", "4768,44187,367,70591,61412,77,44187,66,5954,67,1941"],
  ["ábc", "64,37484,7930"],
  ["🚀🌙👨‍👩‍👧‍👦", "5885,40101,5885,234,247,64390,101,67963,64390,102,67963,64390,100,67963,64390,99"],
  ["日本語テキスト、カタカナ", "4546,63011,25875,32045,33360,343,26121,21449,26121,42125"],
  ["한국어 텍스트", "17079,54078,28763,83194,235,67178"],
  ["Привет, мир!", "159025,63694,11,5993,17898,0"],
  ["functions.get_weather:0", "41937,1150,21055,2800,25,15"],
  ['{"city": "Beijing"}', "8264,37666,1289,414,4396,39556,16934"],
  ["I'm 100% sure it's OK.", "17172,220,1570,4,3287,4643,17522,13"],
  ["汉字ABC汉字123", "38325,55335,38325,6694"],
  ["https://example.com/path?x=1&y=2", "1927,1316,17480,1304,73505,30,87,28,16,5,88,28,17"],
  ["<|im_user|>user<|im_middle|>Hi<|im_end|>", "163587,2482,163601,18699,163586"],
];

/** The check text of llama.cpp's convert_hf_to_gguf_update.py. */
const llamaCppText =
  "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL";

/** The 256 bytes, then these strings in order of merging, then two special tokens. */
function small(...merged: string[]): Tokenizer {
  const bytes = byteOrder.map((byte) => Uint8Array.of(byte));
  const tokens = [...bytes, ...merged.map((text) => Buffer.from(text))];
  const specials = ["<|im_end|>", "[PAD]"].map((name, i) => ({ name, id: tokens.length + i, special: i === 0 }));
  return new Tokenizer({ tokens, specials });
}

/** Text that pulls at the seams: scripts, marks, odd spaces, controls, emoji, contractions, special-token text. */
const awkward = fc
  .array(
    fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom(
        ..."aZéßǅʰªſÀ́̈ั 中〇々㐀𠀀⺀〡あア한ա٣²Ⅷ⅓०．。!'\"-_#$€™😀👨‍👩‍👧🇩🇪 \t\n\r\v\f\u0085\u00a0\u1680\u2003\u2028\u3000\ufeff\u200b\0\x1c",
        ..."'s|'S|'ſ|'LL|'re|n't|I'M|don't|ABCdef|aBc|́A|\r\n\r\n|   |  x|1234567|3.14|</think>|<|im_end|>|[PAD]|汉字|カタカナ|한국어|Привет|naïve|नमस्ते|สวัสดี|مرحبا".split(
          "|",
        ),
      ),
      fc
        .integer({ min: 0, max: 0x10ffff })
        .filter((c) => c < 0xd800 || c > 0xdfff)
        .map((c) => String.fromCodePoint(c)),
    ),
    { maxLength: 24 },
  )
  .map((parts) => parts.join(""));

describe("a small vocabulary", () => {
  const tokenizer = small("th", "the", "in", "ing", " th", "é", "aa", "aaa");

  test("merges the pair of lowest rank first, leftmost among equals", () => {
    const text = (ids: Iterable<number>) => Array.from(ids, (id) => tokenizer.decode([id]));
    expect(text(tokenizer.encode("thething"))).toEqual(["the", "th", "ing"]);
    expect(text(tokenizer.encode("the theé"))).toEqual(["the", " ", "the", "é"]);
    expect(text(tokenizer.encode("aaaaa"))).toEqual(["aa", "aaa"]);
    expect(text(tokenizer.encode("aaa"))).toEqual(["aaa"]); // a whole piece that is a token
  });

  test("special-token text in content is text unless asked for", () => {
    const text = "a<|im_end|>[PAD]b";
    expect([...tokenizer.encode(text)].every((id) => id < 264)).toBe(true);
    expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    const [a, b] = [tokenizer.encode("a")[0], tokenizer.encode("b")[0]];
    for (const all of [true, "all"] as const)
      expect([...tokenizer.encode(text, { allowSpecial: all })]).toEqual([a, 264, 265, b]);
    const some = tokenizer.encode(text, { allowSpecial: new Set(["[PAD]"]) });
    expect(some.includes(264)).toBe(false);
    expect(tokenizer.decode(some)).toBe(text);
    expect([...some].slice(-2)).toEqual([265, b]);
    expect(tokenizer.decode([264, 265], { skipSpecial: true })).toBe("[PAD]"); // its flag says keep
    expect(() => tokenizer.encode("", { allowSpecial: new Set(["<|im_ent|>"]) })).toThrow("did you mean <|im_end|>?");
  });

  test("ids that are none are errors", () => {
    for (const id of [-1, 266, 1.5, Number.NaN])
      expect(() => tokenizer.decode([id])).toThrow("is not the id of a token");
  });

  test("a lone surrogate is encoded as U+FFFD", () => {
    expect([...tokenizer.encode("a\ud800b")]).toEqual([...tokenizer.encode("a\ufffdb")]);
    expect([...tokenizer.encode("\udc00")]).toEqual([...tokenizer.encode("\ufffd")]);
  });

  test("decode(encode(s)) is s", () => {
    fc.assert(
      fc.property(awkward, (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
      { numRuns: 1000 },
    );
  });

  test("streaming gives what decoding at once gives, complete characters as they come", () => {
    const stream = tokenizer.decoder();
    const ids = [...tokenizer.encode("😀")];
    expect(ids.length).toBe(4);
    expect(ids.map((id) => stream.push(id))).toEqual(["", "", "", "😀"]);
    expect(stream.end()).toBe("");
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 265 }), { maxLength: 40 }), fc.boolean(), (some, skipSpecial) => {
        const decoder = tokenizer.decoder({ skipSpecial });
        const text = some.map((id) => decoder.push(id)).join("") + decoder.end();
        expect(text).toBe(tokenizer.decode(some, { skipSpecial }));
      }),
    );
  });

  test("what it remembers does not change what it says", () => {
    const words = Array.from({ length: 140_000 }, (_, i) => ` w${i.toString(36)}`); // more pieces than are remembered
    const text = `the thing${words.join("")}the thing`;
    const ids = tokenizer.encode(text);
    expect(tokenizer.encode(text)).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(text);
    const thing = [...small("th", "the", "in", "ing", " th", "é", "aa", "aaa").encode("the thing")];
    expect([...ids.slice(0, thing.length)]).toEqual(thing);
  });

  test("a piece of many thousand letters is merged whole", () => {
    const ids = tokenizer.encode("a".repeat(24_999));
    expect(ids.length).toBe(12_499); // aa … aa, aaa;
  });

  test("a vocabulary without all bytes, or with a token twice, is refused", () => {
    expect(() => new Tokenizer({ tokens: [Uint8Array.of(1)] })).toThrow("no token for byte 0");
    expect(() => small("ab", "ab")).toThrow("are the same bytes");
  });
});

/** Kimi K2's own cutting, line by line from its tokenization code; the oracle of `slices`. */
function slicesOfKimi(text: string): string[] {
  const characters = Array.from(text);
  const isSpace = (c: string) => /[\p{White_Space}\x1c-\x1f]/v.test(c);
  const out: string[] = [];
  for (let i = 0; i < characters.length; i += 400_000) {
    const s = characters.slice(i, i + 400_000);
    let length = 0;
    let space = isSpace(s[0]!);
    let start = 0;
    for (let j = 0; j < s.length; j++) {
      const now = isSpace(s[j]!);
      if (now !== space) {
        length = 1;
        space = now;
      } else if (++length > 25_000) {
        out.push(s.slice(start, j).join(""));
        start = j;
        length = 1;
      }
    }
    out.push(s.slice(start).join(""));
  }
  return out;
}

test("very long texts and runs are cut as Kimi K2's code does", () => {
  const run = (text: string, length: number) => text.repeat(Math.ceil(length / text.length)).slice(0, length);
  const unit = fc.constantFrom("a", "b ", " ", "\x1c\u3000", "😀", "ab😀", "x\n");
  const length = fc.constantFrom(1, 24_999, 25_000, 25_001, 50_001, 130_000);
  const long = fc.array(fc.tuple(unit, length), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(long, (parts) => {
      const text = parts.map(([text, n]) => run(text, n * text.length)).join("");
      const got = [...slices(text)];
      const want = slicesOfKimi(text);
      expect(got.length).toBe(want.length);
      expect(got.every((slice, i) => slice === want[i])).toBe(true);
    }),
    { numRuns: 25 },
  );
});

describe.skipIf(!existsSync(data))("Kimi K2's own vocabulary (skipped where ../shared is absent)", () => {
  let tokenizer: Tokenizer;
  let oracle: Tiktoken;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(kimi.file, { config: kimi.config });
    const specials = Object.fromEntries(tokenizer.special);
    const ranks = (await readText(kimi.file)).trim().split("\n");
    oracle = new Tiktoken(`! 0 ${ranks.map((line) => line.split(" ")[0]).join(" ")}`, specials, patterns.k2);
  });

  test("sizes and special tokens (spec §7.1, §7.2)", () => {
    expect(tokenizer.vocabulary.size).toBe(163_584);
    expect(tokenizer.vocabSize).toBe(163_840);
    expect(tokenizer.idOf("[BOS]")).toBe(163_584);
    expect(tokenizer.idOf("</think>")).toBe(163_607);
    expect(tokenizer.idOf("<|reserved_token_163700|>")).toBe(163_700);
    expect(tokenizer.decode([163_597, 163_586], { skipSpecial: true })).toBe("<|tool_call_begin|>");
  });

  test.each(vectors)("%j (spec §7.5)", (text, list) => {
    const ids = list.split(",").map(Number);
    expect([...tokenizer.encode(text, { allowSpecial: true })]).toEqual(ids);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  test("think tags as plain text (spec §7.2)", () => {
    expect([...tokenizer.encode("<think>")]).toEqual([27, 39964, 29]);
    expect([...tokenizer.encode("</think>")]).toEqual([993, 39964, 29]);
  });

  test("llama.cpp's check text gives the hash by which llama.cpp knows this tokenizer", () => {
    const ids = tokenizer.encode(llamaCppText);
    expect(ids.length).toBe(155);
    const hash = createHash("sha256")
      .update(`[${ids.join(", ")}]`)
      .digest("hex");
    expect(hash).toBe("81212dc7cdb7e0c1074ca62c5aeab0d43c9f52b8a737be7b12a777c953027890");
  });

  test("ids are tiktoken's on thousands of awkward texts, special tokens allowed or not", () => {
    fc.assert(
      fc.property(awkward, (text) => {
        expect([...tokenizer.encode(text)]).toEqual([...oracle.encode(text, [], [])]);
        expect([...tokenizer.encode(text, { allowSpecial: true })]).toEqual([...oracle.encode(text, "all")]);
      }),
      { numRuns: 4000 },
    );
  });
});
