/** Masks against XGrammar (C++, as @mlc-ai/web-xgrammar), where the two write the same language.
 *
 *  The peer's masks are wider in two ways, and the test proves each extra token to be one of them: bytes that no UTF-8
 *  text continues with, and halves of surrogate pairs as escapes. It also writes keys in the schema's order only and
 *  numbers of any length, which the schemas here avoid. */
import { readFileSync } from "node:fs";
import { createRequire, Module } from "node:module";
import { beforeAll, expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { compileSchema, type Json } from "./index.ts";
import { allowed, smallVocabulary } from "./testing.ts";

type Peer = typeof import("@mlc-ai/web-xgrammar");

let peer: Peer;
beforeAll(() => {
  // The package says it is a module, and calls `require`: loaded as CommonJS it works.
  const file = createRequire(import.meta.url).resolve("@mlc-ai/web-xgrammar");
  const module = new Module(file) as Module & { _compile(code: string, file: string): void };
  module.filename = file;
  module._compile(readFileSync(file, "utf8"), file);
  peer = module.exports;
});

const schemas: Json[] = [
  { type: "string" },
  { enum: ["a", "ab", "abc", "世", "世界", "😊x", 'q"', 1, null] },
  { type: "array", items: { type: "boolean" }, minItems: 1, maxItems: 3 },
  { type: "object", properties: { name: { type: "string" } }, required: ["name"], additionalProperties: false },
  { type: "array", prefixItems: [{ const: "é" }, { type: ["null", "string"] }], items: false, minItems: 2 },
  { $defs: { n: { anyOf: [{ type: "null" }, { type: "array", items: { $ref: "#/$defs/n" } }] } }, $ref: "#/$defs/n" },
];

test.each(schemas)("%j", async (schema) => {
  const vocabulary = smallVocabulary();
  const end = vocabulary.special!.get("<|im_end|>")!;
  const control = new Set(vocabulary.special!.values());
  const bytes = Array.from({ length: vocabulary.vocabSize }, (_, id) =>
    control.has(id) ? undefined : vocabulary.tokenBytes(id),
  );
  const info = await peer.TokenizerInfo.createTokenizerInfo(
    bytes.map((b) => (b ? spell(b) : "")),
    "byte_level",
    false,
    vocabulary.vocabSize,
    [end],
  );
  const compiler = await peer.GrammarCompiler.createGrammarCompiler(info);
  const theirs = await compiler.compileJSONSchema(JSON.stringify(schema), false, -1, [",", ":"], false);
  const grammar = compileSchema(schema, vocabulary, { end: [end] });
  for (let seed = 0; seed < 5; seed++) {
    const random = new Random(seed);
    const ours = grammar.start();
    const other = await peer.GrammarMatcher.createGrammarMatcher(theirs);
    const text: number[] = [];
    for (let step = 0; step < 30 && !ours.finished; step++) {
      const mine = allowed(ours.mask());
      const its = allowed(Uint32Array.from(await other.getNextTokenBitmask())).filter(
        (id) => id < vocabulary.vocabSize,
      );
      const extra = its.filter((id) => !mine.includes(id));
      const soFar = Buffer.concat(text.map((id) => bytes[id]!));
      expect(mine.filter((id) => !its.includes(id))).toEqual([]);
      expect(extra.filter((id) => !hopeless(Buffer.concat([soFar, bytes[id] ?? Uint8Array.of(0xff)])))).toEqual([]);
      text.push(random.pick(mine));
      ours.accept(text.at(-1)!);
      expect(other.acceptToken(text.at(-1)!)).toBe(true);
    }
    other.dispose();
  }
});

/** Whether no valid text begins so. */
function hopeless(bytes: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true });
  } catch {
    return true;
  }
  // An escape that a pair of surrogates can no longer come of.
  return /\\u[dD]([c-fC-F]|[89abAB]..([^\\]|\\[^u]|\\u[^dD]|\\u[dD][^c-fC-F]))/.test(
    Buffer.from(bytes).toString("latin1").replaceAll("\\\\", ""),
  );
}

/** Bytes in the spelling of byte-level BPE: printable ones as they are, the others from U+0100 on. */
function spell(word: Uint8Array): string {
  const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  const others = [...Array(256).keys()].filter((b) => !printable(b));
  return [...word].map((b) => String.fromCodePoint(printable(b) ? b : 256 + others.indexOf(b))).join("");
}
