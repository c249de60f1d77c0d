import { emptyRows, type FirstToken, IGNORE, type Rows, Sequence, writeRow } from "./rows.ts";
import type { TokenFile } from "./tokens.ts";

/** A batch of held-out rows; the last may have fewer rows than the others. */
export interface EvaluationBatch extends Rows {
  /** Targets that count (the others are −100). */
  targetCount: number;
  /** UTF-8 bytes of text that those targets stand for. */
  bytes: number;
}

export interface EvaluationConfig {
  /** B, rows a batch. */
  batch: number;
  /** T, tokens a row. */
  seqLen: number;
  /** At most so many rows; all by default. */
  maxRows?: number;
  firstToken?: FirstToken;
}

/** Each held-out document once, in the order of their keys: the same rows at every evaluation, and the first few rows
 *  are already a fair sample. `bytes` is summed over exactly the tokens that are targets, so bits per byte is exact
 *  whatever the tokenizer, the row length and `maxRows`. Documents' ends are predicted too: they cost bits and have no
 *  bytes. With `firstToken` "masked" a document's first token is neither predicted nor counted. */
export function* evaluationBatches(
  file: TokenFile,
  documents: Uint32Array,
  { batch, seqLen, maxRows = Number.POSITIVE_INFINITY, firstToken = "masked" }: EvaluationConfig,
): Generator<EvaluationBatch> {
  const key = (document: number) => file.keys[document]!;
  const byKey = documents.toSorted((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a - b));
  const sequence = new Sequence(file, byKey);
  // An end token before all documents is what the first one's first token is predicted from.
  const lead = firstToken === "predicted" ? 1 : 0;
  const count = Math.min(maxRows, Math.ceil((sequence.length + lead - 1) / seqLen));
  for (let row = 0; row < count; row += batch) {
    const rows = emptyRows(Math.min(batch, count - row), seqLen);
    for (let b = 0; b < rows.batch; b++) {
      const from = (row + b) * seqLen - lead;
      const pieces = sequence.pieces(Math.max(0, from), from + seqLen + 1);
      writeRow(rows, b, pieces, firstToken, from < 0 ? file.info.endId : undefined);
    }
    let targetCount = 0;
    let bytes = 0;
    for (const target of rows.targets) {
      if (target === IGNORE) continue;
      targetCount++;
      bytes += file.tokenBytes[target]!;
    }
    yield { ...rows, targetCount, bytes };
  }
}

/** Bits a byte of text, from a summed negative log-likelihood in nats. */
export function bitsPerByte(nll: number, bytes: number): number {
  return nll / Math.LN2 / bytes;
}
