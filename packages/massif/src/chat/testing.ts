/** What this room's tests share: a tokenizer of single bytes with K2's special tokens, and the shared vectors. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { readJsonl } from "../common/index.ts";
import { k2Specials, loadTokenizer, Tokenizer } from "../tokenizer/index.ts";

/** One token a byte, so that every character beyond ASCII is cut; `without` leaves special tokens out. */
export function byteTokenizer(without: readonly string[] = []): Tokenizer {
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  const specials = k2Specials.filter(({ name }) => !without.includes(name));
  return new Tokenizer({ tokens, specials: specials.map((token, i) => ({ ...token, id: 256 + i })) });
}

const shared = resolve(import.meta.dirname, "../../../../../shared/data");
export const hasShared = existsSync(shared);

export interface Vector {
  template: string;
  messages: unknown;
  tools: unknown;
  add_generation_prompt: boolean;
  rendered: string;
  rendered_sorted_compact_tools?: string;
}

/** The 300 vectors of `../shared/data/chat`. */
export const vectors = (): Promise<Vector[]> =>
  Array.fromAsync(readJsonl(resolve(shared, "chat/k2_template_vectors.jsonl.xz")) as AsyncIterable<Vector>);

/** Kimi K2's own tokenizer. */
export const kimiTokenizer = (): Promise<Tokenizer> =>
  loadTokenizer(resolve(shared, "tokenizers/kimi_tiktoken.model.xz"), {
    config: resolve(shared, "tokenizers/kimi_tokenizer_config.json"),
  });
