import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { MassifError } from "../../common/index.ts";
import { CleanConfig, type CleanCounts, Cleaner } from "./clean.ts";
import { cutText } from "./cut.ts";
import type { Encoded } from "./encode.worker.ts";
import { tokenizerFingerprint } from "./encoder.ts";
import { EncoderPool } from "./pool.ts";
import { readDocuments, resolveSources, SourceConfig, type SourceFile } from "./sources.ts";
import { documentKey, type SplitConfig, splitDocuments } from "./split.ts";
import { TokenFile } from "./tokens.ts";
import { TokenWriter } from "./writer.ts";

/** A corpus, from its files to its token file. */
export const DataConfig = z.strictObject({
  sources: z.array(SourceConfig).min(1).describe("Where the text comes from."),
  clean: CleanConfig.prefault({}).describe("What is done to the text."),
  maxChars: z
    .int()
    .min(100)
    .optional()
    .describe("Longer documents are cut at paragraphs; the pieces count as documents, also where some are held out."),
});
export type DataConfig = z.output<typeof DataConfig>;

export interface PrepareOptions {
  /** The folder that relative paths in the config start from. */
  base: string;
  /** The tokenizer's folder. */
  tokenizer: string;
  /** Where the token file goes, as `NAME.tokens`, with what was counted as `NAME.json`. */
  out: string;
  name?: string;
  /** Tokenizing threads; by default the machine's cores less one, at most 16: one thread reads and cleans for them all.
   *  The file is the same for any number. */
  workers?: number;
  progress?: (progress: PrepareProgress) => void;
  /** Milliseconds. */
  now?: () => number;
}

export interface PrepareProgress {
  documents: number;
  tokens: number;
  /** UTF-8 bytes tokenized. */
  bytes: number;
  bytesPerSecond: number;
  /** Unknown while a first compressed file is read. */
  secondsLeft: number | undefined;
}

/** What is in a prepared token file. */
export interface Prepared {
  path: string;
  /** Why it was made; "cached" when the file there was right already. */
  why: "cached" | "absent" | "changed" | "damaged";
  documents: number;
  tokens: number;
  textBytes: number;
  files: number;
  cleaning: CleanCounts;
}

/** Raised when the same config would give another file. */
const PREPARATION = 1;
const BATCH_CHARS = 1 << 18;

/** The cleaned texts of a corpus with their ids, in the order of its token file. */
export async function* readCorpus(
  config: DataConfig,
  base: string,
  cleaner = new Cleaner(config.clean),
  files: SourceFile[] = resolveSources(config.sources, base),
): AsyncGenerator<{ id: string; text: string; file: number }> {
  for await (const { id, text, file } of readDocuments(files)) {
    const cleaned = cleaner.clean(text);
    if (cleaned === undefined) continue;
    if (!config.maxChars || cleaned.length <= config.maxChars) yield { id, text: cleaned, file };
    else {
      let n = 0;
      for (const piece of cutText(cleaned, config.maxChars)) yield { id: `${id}/${++n}`, text: piece, file };
    }
  }
}

/** The texts that a split leaves to train on: what a tokenizer learns from, so that held-out text stays unseen. The
 *  corpus is read twice: a split by number of documents needs every id first. */
export async function* readTrainingTexts(config: DataConfig, base: string, split: SplitConfig): AsyncGenerator<string> {
  const keys: bigint[] = [];
  for await (const { id } of readCorpus(config, base)) keys.push(documentKey(id));
  const heldOut = new Set(splitDocuments(BigUint64Array.from(keys), split).heldOut);
  let document = 0;
  for await (const { text } of readCorpus(config, base)) if (!heldOut.has(document++)) yield text;
}

/** Makes the token file of a corpus, unless the one there is from the same files, config and tokenizer. A preparation
 *  that is killed leaves the old file, or none; what it had begun is removed by the next.
 *  @throws MassifError those of sources, tokenizer and writer; `data.empty` when cleaning leaves nothing */
export async function prepareData(config: DataConfig, options: PrepareOptions): Promise<Prepared> {
  const { base, tokenizer, out, name = "text", progress, now = () => performance.now() } = options;
  const workers = options.workers ?? Math.min(16, Math.max(1, availableParallelism() - 1));
  const path = join(out, `${name}.tokens`);
  const summary = join(out, `${name}.json`);
  const files = resolveSources(config.sources, base);
  const want = { tokenizer: tokenizerFingerprint(tokenizer), config: fingerprint(config, files) };
  const why = standing(path, want);
  if (why === "cached") {
    const known = readSummary(summary, want);
    if (known) return { ...known, path, why };
  }
  mkdirSync(out, { recursive: true });
  removeAbandoned(out, name);

  const began = now();
  const pool = await EncoderPool.start(tokenizer, workers);
  const { vocabSize, endId, tokenBytes } = pool.facts;
  let writer: TokenWriter | undefined;
  try {
    writer = new TokenWriter(path, { vocabSize, endId, ...want }, tokenBytes);
    const cleaner = new Cleaner(config.clean);
    const meter = new Meter(files);
    const queue: { batch: Batch; encoded: Promise<Encoded> }[] = [];
    const write = async () => {
      const { batch, encoded } = queue.shift()!;
      const { ids, ends, bytes } = await encoded;
      for (const [i, id] of batch.ids.entries()) {
        writer!.add(id, ids.subarray(ends[i - 1] ?? 0, ends[i]), bytes[i]!);
        meter.add(batch.files[i]!, bytes[i]!);
      }
      progress?.({ ...meter.read((now() - began) / 1000), documents: writer!.documents, tokens: writer!.tokens });
    };
    // Written in the order read, so the number of threads cannot be seen in the file.
    for await (const batch of batches(readCorpus(config, base, cleaner, files))) {
      const encoded = pool.encode(batch.texts);
      encoded.catch(() => {}); // Seen when its turn to be written comes.
      queue.push({ batch, encoded });
      if (queue.length > 2 * workers) await write();
    }
    while (queue.length) await write();
    if (!writer.documents) {
      throw new MassifError("data.empty", {
        found: `no document is left of ${cleaner.counts.documents} (${cleaner.counts.short} too short)`,
        expected: "at least one",
        fix: "check the field that holds the text, and clean.minChars",
      });
    }
    const { documents, tokens, textBytes } = writer;
    const made = { documents, tokens, textBytes, files: files.length, cleaning: cleaner.counts };
    writer.finish();
    writeFileSync(`${summary}.partial`, `${JSON.stringify({ ...want, ...made }, undefined, 2)}\n`);
    renameSync(`${summary}.partial`, summary);
    return { ...made, path, why: why === "cached" ? "absent" : why };
  } catch (error) {
    writer?.abort();
    throw error;
  } finally {
    await pool.close();
  }
}

interface Batch {
  ids: string[];
  texts: string[];
  files: number[];
}

async function* batches(documents: AsyncIterable<{ id: string; text: string; file: number }>): AsyncGenerator<Batch> {
  let batch: Batch = { ids: [], texts: [], files: [] };
  let chars = 0;
  for await (const { id, text, file } of documents) {
    batch.ids.push(id);
    batch.texts.push(text);
    batch.files.push(file);
    chars += text.length;
    if (chars < BATCH_CHARS) continue;
    yield batch;
    batch = { ids: [], texts: [], files: [] };
    chars = 0;
  }
  if (batch.ids.length) yield batch;
}

/** Rate, and time left by the share of the files' bytes that has been read. */
class Meter {
  readonly #files: SourceFile[];
  readonly #total: number;
  #bytes = 0;
  #file = 0;
  #ofFile = 0;
  /** Sizes of the files that are done. */
  #done = 0;

  constructor(files: SourceFile[]) {
    this.#files = files;
    this.#total = files.reduce((sum, file) => sum + file.size, 0);
  }

  add(file: number, bytes: number): void {
    for (; this.#file < file; this.#file++) {
      this.#done += this.#files[this.#file]!.size;
      this.#ofFile = 0;
    }
    this.#ofFile += bytes;
    this.#bytes += bytes;
  }

  read(seconds: number): { bytes: number; bytesPerSecond: number; secondsLeft: number | undefined } {
    const { path, size } = this.#files[this.#file]!;
    // A compressed file's share is seen only when it is done.
    const plain = !/\.(?:gz|zst|xz|parquet)$/.test(path);
    const share = (this.#done + (plain ? Math.min(size, this.#ofFile) : 0)) / this.#total;
    return {
      bytes: this.#bytes,
      bytesPerSecond: this.#bytes / seconds,
      secondsLeft: share > 0 ? (seconds * (1 - share)) / share : undefined,
    };
  }
}

function fingerprint(config: DataConfig, files: SourceFile[]): string {
  const listed = files.map(({ name, size, stamp, rows }) => [name, size, stamp, rows]);
  const made = [PREPARATION, listed, config.clean, config.maxChars ?? 0];
  return createHash("sha256").update(JSON.stringify(made)).digest("hex");
}

function standing(path: string, want: { tokenizer: string; config: string }): Prepared["why"] {
  try {
    using file = TokenFile.open(path);
    return file.info.tokenizer === want.tokenizer && file.info.config === want.config ? "cached" : "changed";
  } catch (error) {
    if (!(error instanceof MassifError)) throw error;
    return error.code === "data.tokens.missing" ? "absent" : "damaged";
  }
}

function readSummary(path: string, want: object): Omit<Prepared, "path" | "why"> | undefined {
  try {
    const { tokenizer, config, ...made } = JSON.parse(readFileSync(path, "utf8"));
    return JSON.stringify({ tokenizer, config }) === JSON.stringify(want) ? made : undefined;
  } catch {
    return undefined;
  }
}

/** Partial files of processes that are no more. */
function removeAbandoned(out: string, name: string): void {
  for (const file of readdirSync(out)) {
    const pid = file.startsWith(`${name}.tokens.`) ? /\.(\d+)\.partial$/.exec(file)?.[1] : undefined;
    if (pid && !alive(Number(pid))) rmSync(join(out, file), { force: true });
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
