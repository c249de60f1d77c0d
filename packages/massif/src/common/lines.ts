/** Text files, line by line and as JSON lines, read as a stream whether plain, gzip, zstd or xz (told by their first
 *  bytes, so standard input may be compressed too). Text is UTF-8; a malformed byte reads as U+FFFD. */
import { createReadStream, createWriteStream, type PathLike } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip, createZstdCompress, createZstdDecompress } from "node:zlib";
import type { ZodType } from "zod";
import { MassifError } from "./errors.ts";

/** A path; `"-"` or nothing is standard input (or output). */
export type Source = string | undefined;

const named = (source: Source): string => (source === undefined || source === "-" ? "standard input" : source);

const magics = {
  gzip: [0x1f, 0x8b],
  zstd: [0x28, 0xb5, 0x2f, 0xfd],
  xz: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00],
};

/** The bytes of a source, unpacked. Throws `lines.read` when it cannot be opened, or is truncated or damaged. */
export async function* readBytes(source: Source): AsyncGenerator<Uint8Array> {
  const plain = source === undefined || source === "-" ? process.stdin : createReadStream(source as PathLike);
  try {
    const chunks: AsyncIterator<Uint8Array> = plain[Symbol.asyncIterator]();
    let head = new Uint8Array(0);
    for (let next = await chunks.next(); !next.done; next = await chunks.next()) {
      head = Buffer.concat([head, next.value]);
      if (
        head.length >= 6 ||
        Object.values(magics).every((magic) => magic.some((byte, i) => byte !== (head[i] ?? byte)))
      )
        break;
    }
    const rest = Readable.from(joined(head, chunks), { objectMode: false });
    const has = (magic: number[]) => magic.every((byte, i) => head[i] === byte);
    if (has(magics.gzip)) yield* unpacked(rest, createGunzip());
    else if (has(magics.zstd)) yield* unpacked(rest, createZstdDecompress());
    else if (has(magics.xz)) yield* unxz(rest);
    else yield* rest;
  } catch (cause) {
    if (cause instanceof MassifError) throw cause;
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new MassifError("lines.read", { found: `cannot read ${named(source)}: ${text}`, cause });
  } finally {
    if (plain !== process.stdin) plain.destroy();
  }
}

async function* joined(head: Uint8Array, chunks: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield head;
  for (let next = await chunks.next(); !next.done; next = await chunks.next()) yield next.value;
}

async function* unpacked(packed: Readable, unpack: NodeJS.ReadWriteStream): AsyncGenerator<Uint8Array> {
  packed.on("error", (error) => unpack.emit("error", error));
  for await (const chunk of packed.pipe(unpack)) yield chunk as Uint8Array;
}

/** xz as WebAssembly, which takes the end of its input for the end of the data: the footer ("YZ", then padding of
 *  zeros) tells a whole file from a truncated one. */
async function* unxz(packed: Readable): AsyncGenerator<Uint8Array> {
  const { default: xz } = await import("xz-decompress");
  let tail = Buffer.alloc(0);
  const watched = Readable.from(
    (async function* () {
      for await (const chunk of packed as AsyncIterable<Uint8Array>) {
        tail = Buffer.concat([tail, chunk]).subarray(-4096);
        yield chunk;
      }
    })(),
    { objectMode: false },
  );
  yield* new xz.XzReadableStream(Readable.toWeb(watched) as ConstructorParameters<typeof xz.XzReadableStream>[0]);
  let end = tail.length;
  while (end > 0 && tail[end - 1] === 0) end--;
  if (tail.toString("latin1", end - 2, end) !== "YZ") throw new Error("the xz data ends too early");
}

/** The pieces of a source as text, each as it arrives; pieces end anywhere but inside a character. */
async function* readPieces(source: Source): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  for await (const chunk of readBytes(source)) yield decoder.decode(chunk, { stream: true });
  yield decoder.decode();
}

/** A whole source as one string. */
export async function readText(source: Source): Promise<string> {
  let text = "";
  for await (const piece of readPieces(source)) text += piece;
  return text;
}

/** The lines of a source without their `\n` or `\r\n`; the n-th value is line n (from 1). A last line needs no end. */
export async function* readLines(source: Source): AsyncGenerator<string> {
  let line = "";
  for await (const piece of readPieces(source)) {
    let from = 0;
    for (let end = piece.indexOf("\n"); end >= 0; end = piece.indexOf("\n", from)) {
      line += piece.slice(from, end);
      yield line.endsWith("\r") ? line.slice(0, -1) : line;
      line = "";
      from = end + 1;
    }
    line += piece.slice(from);
  }
  if (line) yield line;
}

/** The values of a JSONL source, each checked by `schema` (zod) if one is given; blank lines are skipped.
 *  Throws `lines.json` or `lines.schema`, which name file, line and key. */
export async function* readJsonl<T = unknown>(source: Source, schema?: ZodType<T>): AsyncGenerator<T> {
  let number = 0;
  for await (const line of readLines(source)) {
    number++;
    if (!line.trim()) continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      const text = cause instanceof Error ? cause.message : String(cause);
      throw new MassifError("lines.json", {
        found: `${named(source)}:${number} is not JSON: ${text}`,
        expected: "one JSON value a line (JSONL)",
        cause,
      });
    }
    if (!schema) {
      yield value as T;
      continue;
    }
    const checked = schema.safeParse(value);
    if (!checked.success) {
      const [issue] = checked.error.issues;
      const key = issue?.path.length ? `"${issue.path.join(".")}": ` : "";
      throw new MassifError("lines.schema", { found: `${named(source)}:${number}: ${key}${issue?.message}` });
    }
    yield checked.data;
  }
}

/** Writes one JSON value a line, to a path (packed if it ends in `.gz` or `.zst`) or standard output, and returns how
 *  many. A reader that goes away (`| head`) ends the writing quietly. */
export async function writeJsonl(target: Source, rows: Iterable<unknown> | AsyncIterable<unknown>): Promise<number> {
  let count = 0;
  async function* text(): AsyncGenerator<string> {
    let held = "";
    for await (const row of rows) {
      held += `${JSON.stringify(row)}\n`;
      count++;
      if (held.length < 65536) continue;
      yield held;
      held = "";
    }
    if (held) yield held;
  }
  if (target === undefined || target === "-") {
    await pipeline(text, process.stdout, { end: false }).catch(unlessClosed);
    return count;
  }
  if (target.endsWith(".xz"))
    throw new MassifError("lines.write", { found: `cannot write ${target}: xz is only read`, fix: "use .zst or .gz" });
  const file = createWriteStream(target);
  if (target.endsWith(".gz")) await pipeline(text, createGzip(), file);
  else if (target.endsWith(".zst")) await pipeline(text, createZstdCompress(), file);
  else await pipeline(text, file);
  return count;
}

function unlessClosed(error: NodeJS.ErrnoException): void {
  if (error.code !== "EPIPE" && error.code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
}
