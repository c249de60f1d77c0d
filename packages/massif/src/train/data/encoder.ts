import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { MassifError } from "../../common/index.ts";
import { loadTokenizer } from "../../tokenizer/index.ts";

/** What the preparation of data needs of a tokenizer. */
export interface Encoder {
  vocabSize: number;
  /** The token that closes a document. */
  endId: number;
  /** UTF-8 bytes that each token stands for; 0 for special tokens, which text never becomes. */
  tokenBytes: Uint16Array;
  encode(text: string): ArrayLike<number>;
}

/** End tokens by family: Kimi K2, Qwen and GPT-2, Llama. */
const ENDS = ["[EOS]", "<|endoftext|>", "<|end_of_text|>", "</s>"];

/** @throws what `loadTokenizer` throws; `data.end-token` when the tokenizer has none */
export async function loadEncoder(folder: string): Promise<Encoder> {
  const tokenizer = await loadTokenizer(folder);
  const end = ENDS.find((name) => tokenizer.special.has(name));
  if (end === undefined) {
    throw new MassifError("data.end-token", {
      found: `the tokenizer in ${folder} has no token that ends a document`,
      expected: `a special token ${ENDS.join(", ")}`,
      fix: "train one: massif tokenizer train",
    });
  }
  const { vocabSize } = tokenizer;
  return {
    vocabSize,
    endId: tokenizer.idOf(end),
    tokenBytes: Uint16Array.from({ length: vocabSize }, (_, id) => tokenizer.vocabulary.bytes(id).length),
    encode: (text) => tokenizer.encode(text),
  };
}

/** SHA-256 over the files that a tokenizer (a folder, or one file) is loaded from: it changes when any of them does. */
export function tokenizerFingerprint(path: string): string {
  const alone = statSync(path, { throwIfNoEntry: false })?.isFile();
  const names = ["tokenizer.json", "tiktoken.model", "tokenizer_config.json"];
  const files = alone ? [path, join(dirname(path), names[2]!)] : names.map((name) => join(path, name));
  const hash = createHash("sha256");
  for (const file of files.filter((file) => existsSync(file))) {
    const bytes = readFileSync(file);
    hash.update(`${basename(file)}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest("hex");
}
