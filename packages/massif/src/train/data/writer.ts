import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import { MassifError } from "../../common/index.ts";
import { documentKey } from "./split.ts";
import { BLOCK, HEADER, MAGIC, type TokenFileInfo, VERSION } from "./tokens.ts";

/** Writes a token file beside its place and moves it there when it is whole: a reader sees the old file or the new one. */
export class TokenWriter {
  readonly #path: string;
  readonly #partial: string;
  readonly #info: TokenFileInfo;
  readonly #tokenBytes: Uint16Array;
  readonly #width: 2 | 4;
  readonly #ends: number[] = [];
  readonly #idEnds: number[] = [];
  #keys = new BigUint64Array(1024);
  readonly #bytes: number[] = [];
  readonly #crcs: number[] = [];
  /** The documents' ids, in chunks. */
  readonly #ids: Buffer[] = [];
  #nextIds = "";
  readonly #block = Buffer.alloc(BLOCK);
  #filled = 0;
  #written = HEADER;
  #tokens = 0;
  #idBytes = 0;
  #textBytes = 0;
  #fd: number | undefined;

  /** @param tokenBytes UTF-8 bytes that each token of the vocabulary stands for; 0 for special tokens */
  constructor(path: string, info: TokenFileInfo, tokenBytes: Uint16Array) {
    this.#path = path;
    this.#partial = `${path}.${process.pid}.partial`;
    this.#info = info;
    this.#tokenBytes = tokenBytes;
    this.#width = info.vocabSize <= 2 ** 16 ? 2 : 4;
    this.#fd = this.#guard(() => openSync(this.#partial, "w"));
  }

  get tokens(): number {
    return this.#tokens;
  }

  get documents(): number {
    return this.#ends.length;
  }

  /** UTF-8 bytes of the documents so far. */
  get textBytes(): number {
    return this.#textBytes;
  }

  /** Appends one document, without its end token.
   *  @throws MassifError `data.tokens.lossy` when the tokens do not stand for as many bytes as the text has */
  add(id: string, ids: Uint32Array, textBytes: number): void {
    let bytes = 0;
    for (const token of ids) bytes += this.#tokenBytes[token] ?? Number.NaN;
    if (bytes !== textBytes) {
      throw new MassifError("data.tokens.lossy", {
        found: `the tokens of document ${id} stand for ${bytes} bytes, its text has ${textBytes}`,
        expected: "a byte-level tokenizer, which loses nothing",
      });
    }
    const tokens = this.#width === 2 ? new Uint16Array(ids.length + 1) : new Uint32Array(ids.length + 1);
    tokens.set(ids);
    tokens[ids.length] = this.#info.endId;
    this.#append(Buffer.from(tokens.buffer));
    if (this.documents === this.#keys.length) {
      const grown = new BigUint64Array(2 * this.#keys.length);
      grown.set(this.#keys);
      this.#keys = grown;
    }
    this.#keys[this.documents] = documentKey(id);
    this.#nextIds += id;
    if (this.#nextIds.length >= BLOCK) this.#packIds();
    this.#idBytes += Buffer.byteLength(id);
    this.#tokens += tokens.length;
    this.#textBytes += textBytes;
    this.#ends.push(this.#tokens);
    this.#idEnds.push(this.#idBytes);
    this.#bytes.push(textBytes);
  }

  /** Completes the file, makes it durable, and puts it in its place. */
  finish(): void {
    this.#packIds();
    for (const ids of this.#ids) this.#append(ids);
    this.#flush();
    const index = Buffer.concat(
      [
        BigUint64Array.from(this.#ends, BigInt),
        this.#keys.subarray(0, this.documents),
        BigUint64Array.from(this.#idEnds, BigInt),
        Uint32Array.from(this.#bytes),
        Uint32Array.from(this.#crcs),
        this.#tokenBytes,
      ].map((column) => new Uint8Array(column.buffer, column.byteOffset, column.byteLength)),
    );
    this.#write(index, this.#written);
    const header = Buffer.alloc(HEADER);
    MAGIC.copy(header);
    header.writeUInt32LE(VERSION, 8);
    header.writeUInt32LE(this.#width, 12);
    header.writeBigUInt64LE(BigInt(this.#tokens), 16);
    header.writeBigUInt64LE(BigInt(this.documents), 24);
    header.writeBigUInt64LE(BigInt(this.#idBytes), 32);
    header.writeBigUInt64LE(BigInt(this.#textBytes), 40);
    header.writeUInt32LE(this.#info.vocabSize, 48);
    header.writeUInt32LE(this.#info.endId, 52);
    header.write(this.#info.tokenizer, 64, "hex");
    header.write(this.#info.config, 96, "hex");
    header.writeUInt32LE(crc32(index), HEADER - 8);
    header.writeUInt32LE(crc32(header.subarray(0, HEADER - 4)), HEADER - 4);
    this.#write(header, 0);
    this.#guard(() => {
      fsyncSync(this.#fd!);
      closeSync(this.#fd!);
      this.#fd = undefined;
      renameSync(this.#partial, this.#path);
      const folder = openSync(dirname(this.#path), "r");
      fsyncSync(folder);
      closeSync(folder);
    });
  }

  /** Gives up; nothing stays behind. */
  abort(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    rmSync(this.#partial, { force: true });
  }

  #packIds(): void {
    this.#ids.push(Buffer.from(this.#nextIds));
    this.#nextIds = "";
  }

  #append(bytes: Buffer): void {
    for (let from = 0; from < bytes.length; ) {
      const n = bytes.copy(this.#block, this.#filled, from);
      from += n;
      this.#filled += n;
      if (this.#filled === BLOCK) this.#flush();
    }
  }

  #flush(): void {
    if (!this.#filled) return;
    const bytes = this.#block.subarray(0, this.#filled);
    this.#crcs.push(crc32(bytes));
    this.#write(bytes, this.#written);
    this.#written += this.#filled;
    this.#filled = 0;
  }

  #write(bytes: Buffer, position: number): void {
    this.#guard(() => {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(this.#fd!, bytes, done, Math.min(bytes.length - done, 2 ** 30), position + done);
      }
    });
  }

  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (cause) {
      const full = (cause as NodeJS.ErrnoException).code === "ENOSPC";
      throw new MassifError(full ? "data.tokens.disk-full" : "data.tokens.write", {
        found: full
          ? `the disk is full: ${this.#partial} could not be written`
          : `cannot write ${this.#partial}: ${cause instanceof Error ? cause.message : String(cause)}`,
        fix: full ? "make room, or name another folder" : "check the folder and its permissions",
        cause,
      });
    }
  }
}
