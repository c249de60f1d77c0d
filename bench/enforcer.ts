/** The enforcer against @mlc-ai/web-xgrammar (C++ in WASM): time of a mask at K2's 163,840 tokens, alternating in one run.
 *
 *    node bench/enforcer.ts [--schemas 60] [--rounds 3] [--tokens 60]
 *
 *  Schemas: the objects among walle's valid cases (../shared/data/schemas). Both follow the same tokens, drawn at random
 *  from what both allow; “first” is that answer with a fresh grammar, “again” the same once more. Prints
 *  medians and 99th percentiles in µs, ratios peer ÷ ours (over 1: we are faster), and where the masks differ: the peer
 *  writes keys in the schema's order only, ours in any, so tokens that we alone allow are expected. */
import { readFileSync } from "node:fs";
import { createRequire, Module } from "node:module";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { Random } from "../packages/massif/src/common/index.ts";
import { compileSchema, type Json, prepare, vocabularyOf } from "../packages/massif/src/enforcer/index.ts";
import { allowed, walleCases } from "../packages/massif/src/enforcer/testing.ts";
import { spell } from "../packages/massif/src/tokenizer/bytes.ts";
import { loadTokenizer } from "../packages/massif/src/tokenizer/index.ts";

const { values } = parseArgs({
  options: {
    schemas: { type: "string", default: "60" },
    rounds: { type: "string", default: "3" },
    tokens: { type: "string", default: "60" },
  },
});
const data = resolve(import.meta.dirname, "../../shared/data");
const tokenizer = await loadTokenizer(join(data, "tokenizers/kimi_tiktoken.model.xz"), {
  config: join(data, "tokenizers/kimi_tokenizer_config.json"),
});
const vocabulary = vocabularyOf(tokenizer, 163_840);
const END = tokenizer.special.get("<|im_end|>")!;

/** The package says it is a module, and calls `require`: loaded as CommonJS it works. */
function loadPeer(): typeof import("@mlc-ai/web-xgrammar") {
  const file = createRequire(join(import.meta.dirname, "../packages/massif/package.json")).resolve(
    "@mlc-ai/web-xgrammar",
  );
  const module = new Module(file) as Module & { _compile(code: string, file: string): void };
  module.filename = file;
  module._compile(readFileSync(file, "utf8"), file);
  return module.exports;
}

const peer = loadPeer();
const spelled = Array.from({ length: vocabulary.vocabSize }, (_, id) => {
  const bytes = id < tokenizer.vocabulary.size ? vocabulary.tokenBytes(id) : undefined;
  return bytes?.length ? spell(bytes) : "";
});
const info = await peer.TokenizerInfo.createTokenizerInfo(spelled, "byte_level", false, vocabulary.vocabSize, [END]);
const peerCompiler = await peer.GrammarCompiler.createGrammarCompiler(info, false);

const { valid } = await walleCases();
const schemas = valid
  .map((text) => JSON.parse(text) as Json)
  .filter((schema) => (schema as { type?: string }).type === "object");
const ms = (since: number) => performance.now() - since;
const times = { first: [[], []], again: [[], []], compile: [[], []] } as Record<
  string,
  [ours: number[], theirs: number[]]
>;
let [masks, same, oursOnly, theirsOnly, skipped] = [0, 0, 0, 0, 0];

let at = performance.now();
prepare(vocabulary);
console.log(`prepare, once a vocabulary: ${ms(at).toFixed(0)} ms`);
for (let round = 0; round < Number(values.rounds); round++) {
  for (const [s, schema] of schemas.slice(0, Number(values.schemas)).entries()) {
    const compile = () => compileSchema(schema, vocabulary, { end: [END] });
    const compilePeer = () => peerCompiler.compileJSONSchema(JSON.stringify(schema), false, -1, [",", ":"], false);
    const random = Random.of(round, s);
    const ids: number[] = [];
    let grammar = compile();
    let theirs = await compilePeer().catch(() => undefined);
    if (!theirs) {
      skipped++;
      continue;
    }
    for (const pass of ["draw", "first", "again"] as const) {
      if (pass === "first") {
        theirs.dispose();
        at = performance.now();
        grammar = compile();
        times.compile![0].push(ms(at));
        at = performance.now();
        theirs = await compilePeer();
        times.compile![1].push(ms(at));
      }
      const matcher = grammar.start();
      const other = await peer.GrammarMatcher.createGrammarMatcher(theirs);
      for (let step = 0; step < Number(values.tokens) && !matcher.finished; step++) {
        at = performance.now();
        const mask = matcher.mask();
        times[pass]?.[0].push(ms(at));
        at = performance.now();
        const peerMask = await other.getNextTokenBitmask();
        times[pass]?.[1].push(ms(at));
        if (pass === "draw") {
          const both = mask.map((word, i) => word & peerMask[i]!);
          masks++;
          const [more, less] = [count(mask) - count(both), count(Uint32Array.from(peerMask)) - count(both)];
          if (more) oursOnly++;
          if (less) theirsOnly++;
          if (!more && !less) same++;
          // The first half of an answer goes on, the second hurries to its end.
          const early = step * 2 < Number(values.tokens);
          const choices = allowed(both);
          const closing = (id: number) => id === END || /["}\]]/.test(spelled[id]!);
          const wanted = choices.filter((id) => (early ? id !== END && !/[}\]]/.test(spelled[id]!) : closing(id)));
          if (!choices.length) break;
          ids.push(random.pick(wanted.length ? wanted : choices));
        }
        if (ids[step] === undefined) break;
        matcher.accept(ids[step]!);
        if (!other.acceptToken(ids[step]!)) throw new Error("the peer refuses a token that its mask allows");
      }
      other.dispose();
    }
    theirs.dispose();
  }
}

function count(mask: Uint32Array): number {
  let bits = 0;
  for (let word of mask) for (; word; word &= word - 1) bits++;
  return bits;
}

for (const [name, [ours, theirs]] of Object.entries(times)) {
  const at = (list: number[], q: number) => list.toSorted((a, b) => a - b)[Math.floor(q * (list.length - 1))]! * 1000;
  const row = (q: number) =>
    `ours ${at(ours, q).toFixed(1)} peer ${at(theirs, q).toFixed(1)} ratio ${(at(theirs, q) / at(ours, q)).toFixed(2)}`;
  console.log(`${name.padEnd(8)} µs  median: ${row(0.5)}   p99: ${row(0.99)}   n ${ours.length}`);
}
console.log(
  `masks ${masks}: equal ${same}, with tokens only ours ${oursOnly}, only the peer's ${theirsOnly}; schemas the peer refused ${skipped}`,
);
