/** The thread that tokenizes: texts in, token ids out, in the order asked. */
import { parentPort, workerData } from "node:worker_threads";
import { MassifError, type Trouble } from "../../common/index.ts";
import { loadEncoder } from "./encoder.ts";

/** What the writer of a token file needs to know of a tokenizer. */
export interface EncoderFacts {
  vocabSize: number;
  endId: number;
  /** UTF-8 bytes of each token; 0 for special ones. */
  tokenBytes: Uint16Array;
}

/** Some texts, tokenized: their ids end to end, and where each ends. */
export interface Encoded {
  ids: Uint32Array;
  ends: Uint32Array;
  /** UTF-8 bytes of each text. */
  bytes: Uint32Array;
}

export type FromWorker = EncoderFacts | Encoded | { code: string; trouble: Trouble };

const port = parentPort!;
const { folder } = workerData as { folder: string };

function say(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}

function fail(error: unknown): void {
  const found = error instanceof Error ? error.message : String(error);
  if (!(error instanceof MassifError)) say({ code: "data.worker", trouble: { found: `tokenizing failed: ${found}` } });
  else say({ code: error.code, trouble: { ...error.trouble, cause: undefined } });
}

try {
  const { encode, ...facts } = await loadEncoder(folder);
  port.on("message", (texts: string[]) => {
    try {
      const parts = texts.map(encode);
      const ids = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
      const ends = new Uint32Array(parts.length);
      let at = 0;
      for (const [i, part] of parts.entries()) {
        ids.set(part, at);
        ends[i] = at += part.length;
      }
      const bytes = Uint32Array.from(texts, (text) => Buffer.byteLength(text));
      say({ ids, ends, bytes }, [ids.buffer, ends.buffer, bytes.buffer]);
    } catch (error) {
      fail(error);
    }
  });
  say(facts);
} catch (error) {
  fail(error);
}
