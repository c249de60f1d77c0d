/**
 * safetensors (the format of Hugging Face checkpoints): an 8-byte header length, a JSON header, and the bytes.
 * Files are memory-mapped: a tensor that is read costs no copy until it is written to. Sharded folders have an index.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { DType } from "./dtype.ts";
import { TorchError } from "./error.ts";
import { functions } from "./ops.ts";
import { tidy } from "./scope.ts";
import type { Tensor } from "./tensor.ts";

/** What safetensors calls a dtype, and its bytes an element. */
const FORMAT: Partial<Record<DType, readonly [name: string, size: number]>> = {
  float64: ["F64", 8],
  float32: ["F32", 4],
  float16: ["F16", 2],
  bfloat16: ["BF16", 2],
  int64: ["I64", 8],
  int32: ["I32", 4],
  int16: ["I16", 2],
  int8: ["I8", 1],
  uint64: ["U64", 8],
  uint32: ["U32", 4],
  uint16: ["U16", 2],
  uint8: ["U8", 1],
  bool: ["BOOL", 1],
  float8_e4m3fn: ["F8_E4M3", 1],
  float8_e5m2: ["F8_E5M2", 1],
  float8_e8m0fnu: ["F8_E8M0", 1],
  complex64: ["C64", 8],
};
const DTYPE_OF = new Map(
  Object.entries(FORMAT).map(([dtype, [name, size]]) => [name, { dtype: dtype as DType, size }] as const),
);

/** One tensor of a file: where its bytes lie, counted from the start of the file. */
export interface TensorEntry {
  dtype: DType;
  shape: number[];
  start: number;
  end: number;
}

const damaged = (path: string, found: string, cause?: unknown) =>
  new TorchError("torch.safetensors", {
    found: `${path}: ${found}`,
    expected: "a whole safetensors file",
    fix: "copy or download it again",
    cause,
  });

/** The header of a file: its tensors and its metadata. Checked against the file's size; no tensor is read. */
export function readHeader(path: string): {
  tensors: Map<string, TensorEntry>;
  metadata: Record<string, string>;
  size: number;
  /** Tells this file from another one under its name. */
  stamp: string;
} {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (cause) {
    throw new TorchError("torch.safetensors", { found: `cannot open ${path}`, cause });
  }
  try {
    const stats = fstatSync(fd);
    const { size } = stats;
    const prefix = Buffer.alloc(8);
    if (readSync(fd, prefix, 0, 8, 0) < 8) throw damaged(path, `only ${size} bytes`);
    const length = Number(prefix.readBigUInt64LE());
    if (length > size - 8) throw damaged(path, `the header should have ${length} bytes, the file has ${size}`);
    const text = Buffer.alloc(length);
    readSync(fd, text, 0, length, 8);
    const { __metadata__: metadata = {}, ...entries } = parseObject(path, "the header", text.toString("utf8"));
    const tensors = new Map<string, TensorEntry>();
    for (const [name, entry] of Object.entries(entries))
      tensors.set(name, entryOf(path, name, entry, 8 + length, size));
    return { tensors, metadata: metadata as Record<string, string>, size, stamp: stampOf(stats) };
  } finally {
    closeSync(fd);
  }
}

const stampOf = ({ dev, ino, size, mtimeMs }: Stats) => [dev, ino, size, mtimeMs].join();

function parseObject(path: string, what: string, text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw damaged(path, `${what} is no JSON`, cause);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw damaged(path, `${what} is no object`);
  return value as Record<string, unknown>;
}

const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);

/** An entry of the header, checked: a tensor that fits it can be read without looking further. */
function entryOf(path: string, name: string, entry: unknown, data: number, size: number): TensorEntry {
  const { dtype, shape, data_offsets: offsets } = (entry ?? {}) as Record<string, unknown>;
  const known = DTYPE_OF.get(dtype as string);
  if (!known) throw damaged(path, `${name} has dtype ${dtype}, which is not known here`);
  if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2)
    throw damaged(path, `${name} has no proper shape and data_offsets`);
  const [start, end] = offsets.map((offset) => offset + data) as [number, number];
  if (end > size) throw damaged(path, `${name} should end at byte ${end}, the file at ${size}`);
  const bytes = shape.reduce((a, b) => a * b, known.size);
  if (end - start !== bytes)
    throw damaged(
      path,
      `${name} [${shape.join(", ")}] of ${dtype} is ${bytes} bytes, data_offsets says ${end - start}`,
    );
  return { dtype: known.dtype, shape, start, end };
}

/** The tensors of a file, or of a folder with `model.safetensors` or a sharded `model.safetensors.index.json`, by name. */
export class SafeTensors {
  readonly metadata: Record<string, string> = {};
  readonly #entries = new Map<string, TensorEntry & { file: string }>();
  readonly #files = new Map<string, { size: number; stamp: string; mapped?: Tensor }>();

  constructor(path: string) {
    for (const file of filesOf(path)) {
      const { tensors, metadata, size, stamp } = readHeader(file);
      this.#files.set(file, { size, stamp });
      Object.assign(this.metadata, metadata);
      for (const [name, entry] of tensors) this.#entries.set(name, { ...entry, file });
    }
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** Dtype and shape without reading. */
  entry(name: string): TensorEntry & { file: string } {
    const entry = this.#entries.get(name);
    if (!entry)
      throw new TorchError("torch.safetensors", {
        found: `there is no tensor ${name}`,
        expected: `one of ${this.names.slice(0, 5).join(", ")}, … (${this.names.length})`,
      });
    return entry;
  }

  /** The tensor, on the CPU: a view of the mapped file, private to this process when written to. */
  get(name: string): Tensor {
    const { file, dtype, shape, start, end } = this.entry(name);
    if (start === end) return functions.empty(shape, { dtype });
    const [, size] = FORMAT[dtype]!;
    const whole = this.#map(file);
    return tidy(() => {
      const part = whole.narrow(0, start, end - start);
      return (start % size === 0 ? part : part.clone()).view(dtype).view(shape);
    });
  }

  /** The whole file as bytes. It goes with the scope that is open (what was read lives on), and is mapped again then. */
  #map(file: string): Tensor {
    const entry = this.#files.get(file)!;
    if (entry.mapped?.live) return entry.mapped;
    const stats = statSync(file, { throwIfNoEntry: false });
    if (!stats || stampOf(stats) !== entry.stamp)
      throw new TorchError("torch.safetensors", {
        found: `${file} is not the file any more that was opened: it was ${stats ? "written again" : "removed"}`,
        fix: "new SafeTensors(path) reads what is there now",
      });
    entry.mapped = functions.from_file(file, false, entry.size, { dtype: "uint8" });
    return entry.mapped;
  }
}

function filesOf(path: string): string[] {
  if (path.endsWith(".safetensors")) return [path];
  const index = path.endsWith(".index.json") ? path : join(path, "model.safetensors.index.json");
  if (existsSync(index)) {
    const { weight_map: map } = parseObject(index, "the index", readFileSync(index, "utf8"));
    if (typeof map !== "object" || map === null) throw damaged(index, "there is no weight_map");
    return [...new Set(Object.values(map as Record<string, string>))].map((file) => join(index, "..", file));
  }
  const single = join(path, "model.safetensors");
  if (existsSync(single)) return [single];
  throw new TorchError("torch.safetensors", {
    found: `no checkpoint in ${path}`,
    expected: "model.safetensors or model.safetensors.index.json",
  });
}

export interface SaveOptions {
  metadata?: Record<string, string>;
  /** Start a new file when one would grow beyond this many bytes; writes `model.safetensors.index.json` then. */
  maxShardBytes?: number;
}

/** Writes one safetensors file: first under another name, flushed, then renamed, so that a half-written one is never seen. */
export function saveSafetensors(
  path: string,
  tensors: Iterable<[string, Tensor]>,
  metadata: Record<string, string> = {},
): void {
  const list = [...tensors];
  const header: Record<string, unknown> = { __metadata__: { format: "pt", ...metadata } };
  let offset = 0;
  for (const [name, tensor] of list) {
    const [dtype] = FORMAT[tensor.dtype] ?? [];
    if (!dtype)
      throw new TorchError("torch.safetensors", {
        found: `${name} is ${tensor.dtype}, which safetensors does not have`,
      });
    if (Object.hasOwn(header, name))
      throw new TorchError("torch.safetensors", { found: `two tensors are called ${name}` });
    const bytes = tensor.nbytes;
    header[name] = { dtype, shape: tensor.shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const text = Buffer.from(JSON.stringify(header));
  const padding = Buffer.alloc((8 - (text.length % 8)) % 8, " "); // the data starts at a multiple of eight
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length + padding.length));
  writeWhole(path, function* () {
    yield* [prefix, text, padding];
    for (const [, tensor] of list) yield tensor.bytes();
  });
}

/** Writes under another name, flushes, renames. What fails half-way leaves nothing. */
function writeWhole(path: string, parts: () => Iterable<Uint8Array>): void {
  const partial = `${path}.${process.pid}.partial`;
  try {
    const fd = openSync(partial, "w");
    try {
      for (const bytes of parts()) writeAll(fd, bytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(partial, path);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  }
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, Math.min(bytes.length - at, 1 << 30));
}

/** Writes a checkpoint into a folder: `model.safetensors`, or shards and an index when it is larger than `maxShardBytes`. */
export function saveCheckpoint(
  folder: string,
  tensors: Iterable<[string, Tensor]>,
  { metadata, maxShardBytes = 5e9 }: SaveOptions = {},
): void {
  const shards: { bytes: number; tensors: [string, Tensor][] }[] = [{ bytes: 0, tensors: [] }];
  let total = 0;
  for (const [name, tensor] of tensors) {
    const bytes = tensor.nbytes;
    const last = shards[shards.length - 1]!;
    if (last.tensors.length && last.bytes + bytes > maxShardBytes) shards.push({ bytes: 0, tensors: [] });
    const shard = shards[shards.length - 1]!;
    shard.tensors.push([name, tensor]);
    shard.bytes += bytes;
    total += bytes;
  }
  const index = join(folder, "model.safetensors.index.json");
  if (shards.length === 1) {
    saveSafetensors(join(folder, "model.safetensors"), shards[0]!.tensors, metadata);
    rmSync(index, { force: true }); // one left by an earlier save would be read instead
    return;
  }
  const pad = (i: number) => String(i).padStart(5, "0");
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of shards.entries()) {
    const file = `model-${pad(i + 1)}-of-${pad(shards.length)}.safetensors`;
    saveSafetensors(join(folder, file), shard.tensors, metadata);
    for (const [name] of shard.tensors) weightMap[name] = file;
  }
  const text = JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2);
  writeWhole(index, () => [Buffer.from(text)]);
}
