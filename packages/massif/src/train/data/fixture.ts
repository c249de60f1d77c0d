/** For tests: a token file of given documents, in a folder of its own that goes away with it. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TokenFile, type TokenFileInfo } from "./tokens.ts";
import { TokenWriter } from "./writer.ts";

export const fixtureInfo = (vocabSize: number): TokenFileInfo => ({
  vocabSize,
  endId: vocabSize - 1,
  tokenizer: "ab".repeat(32),
  config: "cd".repeat(32),
});

/** Token i stands for i % 5 + 1 bytes, the last (the end) for none. */
export const fixtureBytes = (vocabSize: number): Uint16Array =>
  Uint16Array.from({ length: vocabSize }, (_, i) => (i === vocabSize - 1 ? 0 : (i % 5) + 1));

export function writeTokens(path: string, documents: Record<string, readonly number[]>, vocabSize = 300): void {
  const bytes = fixtureBytes(vocabSize);
  const writer = new TokenWriter(path, fixtureInfo(vocabSize), bytes);
  for (const [id, ids] of Object.entries(documents)) {
    const textBytes = ids.reduce((sum, token) => sum + bytes[token]!, 0);
    writer.add(id, Uint32Array.from(ids), textBytes);
  }
  writer.finish();
}

/** Documents of the given lengths; all their tokens are different, counted from 0. */
export function countingFile(lengths: readonly number[]): TokenFile {
  const folder = mkdtempSync(join(tmpdir(), "massif-tokens-"));
  let next = 0;
  const documents = lengths.map((n, i) => [`d${i}`, Array.from({ length: n }, () => next++)] as const);
  writeTokens(join(folder, "counting.tokens"), Object.fromEntries(documents), next + 1);
  const file = TokenFile.open(join(folder, "counting.tokens"));
  rmSync(folder, { recursive: true });
  return file;
}
