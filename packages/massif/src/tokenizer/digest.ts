import { createHash } from "node:crypto";
import type { Tokenizer } from "./tokenizer.ts";

const known = new WeakMap<Tokenizer, string>();

/** A tokenizer's name by what it is: `sha256:` and 16 hex digits over every token's bytes and every special token. Ids
 *  that one tokenizer made mean nothing to another, so what keeps ids keeps this name with them. */
export function tokenizerDigest(tokenizer: Tokenizer): string {
  const found = known.get(tokenizer);
  if (found) return found;
  const hash = createHash("sha256").update(JSON.stringify(tokenizer.specials.map(({ name, id }) => [name, id])));
  const { vocabulary } = tokenizer;
  for (let id = 0; id < vocabulary.size; id++) {
    const bytes = vocabulary.bytes(id);
    hash.update(Uint8Array.of(bytes.length & 255, bytes.length >> 8)).update(bytes);
  }
  const name = `sha256:${hash.digest("hex").slice(0, 16)}`;
  known.set(tokenizer, name);
  return name;
}
