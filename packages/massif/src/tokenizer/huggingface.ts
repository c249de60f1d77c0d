/** Hugging Face's tokenizer.json, as far as it is byte-level BPE. What it says beyond that is an error that names it,
 *  never ignored; only the post-processor is (it adds BOS and the like, which no encode of ours does). */
import { z } from "zod";
import { MassifError } from "../common/index.ts";
import { spell, unspell } from "./bytes.ts";
import { patterns } from "./pattern.ts";
import { Tokenizer, type TokenizerParts } from "./tokenizer.ts";
import { NONE } from "./vocabulary.ts";

// By hand, since these two have hundreds of thousands of entries.
const isVocab = (value: unknown) =>
  typeof value === "object" && value !== null && Object.values(value).every((id) => Number.isInteger(id) && id >= 0);
const isMerges = (value: unknown) =>
  Array.isArray(value) &&
  value.every(
    (merge) => (typeof merge === "string" ? merge.split(" ") : Array.isArray(merge) ? merge : []).length === 2,
  );

const component = z.looseObject({ type: z.string() });
const schema = z.looseObject({
  added_tokens: z
    .array(
      z.looseObject({
        id: z.int().nonnegative(),
        content: z.string(),
        special: z.boolean(),
        lstrip: z.boolean().default(false),
        rstrip: z.boolean().default(false),
        single_word: z.boolean().default(false),
      }),
    )
    .default([]),
  normalizer: component.nullish(),
  pre_tokenizer: component.nullish(),
  decoder: component.nullish(),
  model: z.looseObject({
    type: z.string().default("BPE"),
    vocab: z.custom<Record<string, number>>(isVocab, "is not a map from token to id"),
    merges: z.custom<(string | [string, string])[]>(isMerges, "is not a list of pairs of tokens"),
    ignore_merges: z.boolean().default(false),
    dropout: z.number().nullish(),
    continuing_subword_prefix: z.string().nullish(),
    end_of_word_suffix: z.string().nullish(),
    byte_fallback: z.boolean().default(false),
  }),
});
const splitSchema = z.looseObject({
  type: z.literal("Split"),
  pattern: z.object({ Regex: z.string() }),
  behavior: z.literal("Isolated"),
  invert: z.literal(false),
});
const byteLevelSchema = z.looseObject({
  type: z.literal("ByteLevel"),
  add_prefix_space: z.literal(false),
  use_regex: z.boolean().default(true),
});

/** A tokenizer from the parsed JSON of a tokenizer.json. Throws `tokenizer.file` (not such a file) and
 *  `tokenizer.unsupported` (not byte-level BPE as we do it). */
export function parseHuggingFace(json: unknown, path: string): Tokenizer {
  const unsupported = (what: string): never => {
    throw new MassifError("tokenizer.unsupported", {
      found: `${path}: ${what} is not supported`,
      expected: "byte-level BPE: model BPE, pre-tokenizer ByteLevel, or Split by an expression and then ByteLevel",
    });
  };
  const file = schema.safeParse(json);
  if (!file.success) {
    const type = z.object({ model: z.object({ type: z.string() }) }).safeParse(json).data?.model.type;
    if (type && type !== "BPE") return unsupported(`model ${type}`);
    const [issue] = file.error.issues;
    throw new MassifError("tokenizer.file", { found: `${path}: ${issue?.path.join(".")}: ${issue?.message}` });
  }
  const { added_tokens, normalizer, pre_tokenizer, decoder, model } = file.data;
  if (model.type !== "BPE") unsupported(`model ${model.type}`);
  for (const key of ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"] as const) {
    if (model[key]) unsupported(`model.${key} ${JSON.stringify(model[key])}`);
  }
  for (const token of added_tokens) {
    for (const key of ["lstrip", "rstrip", "single_word"] as const) {
      if (token[key]) unsupported(`${key} of added token ${JSON.stringify(token.content)}`);
    }
  }
  const form = /^NFK?[CD]$/.exec(normalizer?.type ?? "")?.[0] as TokenizerParts["normalize"];
  if (normalizer && !form) unsupported(`normalizer ${normalizer.type}`);
  if (decoder && decoder.type !== "ByteLevel") unsupported(`decoder ${decoder.type}`);

  const added = new Set(added_tokens.map(({ content }) => content));
  const tokens: (Uint8Array | undefined)[] = [];
  const idOf = new Map(Object.entries(model.vocab));
  for (const [text, id] of idOf) {
    if (added.has(text)) continue;
    tokens[id] = unspell(text) ?? unsupported(`token ${JSON.stringify(text)}, which spells no bytes,`);
  }
  const ranks = new Int32Array(tokens.length).fill(NONE);
  const pairs = new Set<number>();
  const pairOf = (left: number, right: number) => left * 2 ** 24 + right;
  for (const [rank, merge] of model.merges.entries()) {
    const [left, right] = typeof merge === "string" ? (merge.split(" ") as [string, string]) : merge;
    const [a, b, id] = [idOf.get(left), idOf.get(right), idOf.get(left + right)];
    if (a === undefined || b === undefined || id === undefined) {
      return unsupported(`merge ${rank} (${left} ${right}), of tokens that are not in the vocabulary,`);
    }
    ranks[id] = Math.min(ranks[id]!, rank);
    pairs.add(pairOf(a, b));
  }
  const tokenizer = new Tokenizer({
    tokens,
    ranks,
    specials: added_tokens.map(({ id, content, special }) => ({ id, name: content, special })),
    pattern: patternOf(pre_tokenizer, unsupported),
    wholePieces: model.ignore_merges,
    normalize: form,
  });
  // We merge by the rank of the joined bytes, Hugging Face by the pair: the same, if the pair that occurs is listed.
  const { vocabulary } = tokenizer;
  for (let id = 0; id < vocabulary.size; id++) {
    if (ranks[id] === NONE) continue;
    const halves = vocabulary.halves(id);
    if (!halves || pairs.has(pairOf(...halves))) continue;
    const [left, right] = halves.map((half) => spell(vocabulary.bytes(half)));
    unsupported(`a list of merges that makes ${left}${right} without "${left} ${right}"`);
  }
  return tokenizer;
}

function patternOf(pre: z.infer<typeof component> | null | undefined, unsupported: (what: string) => never): string {
  const sequence = pre?.type === "Sequence" && Array.isArray(pre.pretokenizers) ? pre.pretokenizers : [pre];
  const byteLevel = byteLevelSchema.safeParse(sequence.at(-1)).data;
  const split = splitSchema.safeParse(sequence[0]).data;
  if (sequence.length === 1 && byteLevel?.use_regex) return patterns.gpt2;
  if (sequence.length === 2 && byteLevel && !byteLevel.use_regex && split) return split.pattern.Regex;
  return unsupported(`pre_tokenizer ${JSON.stringify(pre)}`);
}

/** The tokenizer.json of a tokenizer. Python's `tokenizers` gives the same ids with it, but for the cuts that Kimi K2's
 *  own code makes in texts over 400,000 characters and runs over 25,000, which this file cannot say. */
export function writeHuggingFace({ vocabulary, specials, splitter, wholePieces, normalize }: Tokenizer): string {
  const spelled = (id: number) => spell(vocabulary.bytes(id));
  const vocab: [string, number][] = [];
  const merged: number[] = [];
  for (let id = 0; id < vocabulary.size; id++) {
    const text = vocabulary.bytes(id).length ? spelled(id) : specials.find((token) => token.id === id)?.name;
    if (text !== undefined) vocab.push([text, id]);
    if (vocabulary.ranks[id] !== NONE) merged.push(id);
  }
  merged.sort((a, b) => vocabulary.ranks[a]! - vocabulary.ranks[b]!);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  const split = { type: "Split", pattern: { Regex: splitter.pattern }, behavior: "Isolated", invert: false };
  const file = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specials.map(({ id, name, special }) => ({
      id,
      content: name,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special,
    })),
    normalizer: normalize ? { type: normalize } : null,
    pre_tokenizer:
      splitter.pattern === patterns.gpt2
        ? { ...byteLevel, use_regex: true }
        : { type: "Sequence", pretokenizers: [split, { ...byteLevel, use_regex: false }] },
    post_processor: null,
    decoder: { ...byteLevel, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: wholePieces,
      vocab: Object.fromEntries(vocab),
      merges: merged.flatMap((id) => {
        const halves = vocabulary.halves(id);
        return halves ? [halves.map(spelled)] : [];
      }),
    },
  };
  return JSON.stringify(file);
}
