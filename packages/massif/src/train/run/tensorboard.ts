/**
 * TensorBoard event files, written by hand: TFRecord framing (length, masked CRC-32C, bytes, masked CRC-32C) around the
 * protobuf `Event{1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary{1: Value{1: tag, 2: float}}}`.
 * Source: tensorflow/core/lib/io/record_writer.h and core/util/event.proto.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync } from "node:fs";
import { appendWhole } from "./step-log.ts";

/** An event file; TensorBoard takes any name with `tfevents` in it. Like a log, it is appended to and cut. */
export class TensorboardFile implements Disposable {
  readonly file: string;
  readonly #fd: number;
  readonly #header: Uint8Array;

  /** `time` in seconds since 1970. */
  constructor(file: string, time: number) {
    this.file = file;
    this.#fd = openSync(file, "a");
    this.#header = event(time, 0, field(3, Buffer.from("brain.Event:2")));
    if (fstatSync(this.#fd).size === 0) this.#write(this.#header);
  }

  /** The scalars of one step. `time` in seconds since 1970. */
  scalars(step: number, values: Record<string, number>, time: number): void {
    const each = Object.entries(values).map(([tag, value]) => {
      const simple = Buffer.alloc(5);
      simple[0] = (2 << 3) | 5;
      simple.writeFloatLE(value, 1);
      return field(1, Buffer.concat([field(1, Buffer.from(tag)), simple]));
    });
    if (each.length) this.#write(event(time, step, field(5, Buffer.concat(each))));
  }

  /** Drops, behind the header, the first event later than `step` and all that follow it, and a last one that a kill has torn. */
  cut(step: number): void {
    const bytes = readFileSync(this.file);
    let at = 0;
    while (at + 16 <= bytes.length) {
      const length = Number(bytes.readBigUInt64LE(at));
      const end = at + 12 + length + 4;
      if (end > bytes.length || (at > 0 && stepOf(bytes.subarray(at + 12, end - 4)) > step)) break;
      at = end;
    }
    ftruncateSync(this.#fd, at);
    if (at === 0) this.#write(this.#header);
  }

  #write(data: Uint8Array): void {
    const record = Buffer.alloc(12 + data.length + 4);
    record.writeBigUInt64LE(BigInt(data.length), 0);
    record.writeUInt32LE(maskedCrc(record.subarray(0, 8)), 8);
    record.set(data, 12);
    record.writeUInt32LE(maskedCrc(data), 12 + data.length);
    appendWhole(this.#fd, this.file, record);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** Time and step always come first, so that `stepOf` finds them. */
function event(time: number, step: number, payload: Uint8Array): Uint8Array {
  const head = Buffer.alloc(10);
  head[0] = (1 << 3) | 1;
  head.writeDoubleLE(time, 1);
  head[9] = 2 << 3;
  return Buffer.concat([head, varint(step), payload]);
}

/** Reads back the varint that `event` wrote behind the time. */
function stepOf(event: Uint8Array): number {
  let step = 0;
  for (let i = 10, scale = 1; i < event.length; i++, scale *= 128) {
    step += (event[i]! & 127) * scale;
    if (event[i]! < 128) break;
  }
  return step;
}

/** A length-delimited field (wire type 2). */
function field(id: number, bytes: Uint8Array): Uint8Array {
  return Buffer.concat([varint((id << 3) | 2), varint(bytes.length), bytes]);
}

function varint(n: number): Uint8Array {
  const bytes: number[] = [];
  for (; n >= 128; n = Math.floor(n / 128)) bytes.push((n % 128) | 128);
  return Uint8Array.from([...bytes, n]);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  let c = i;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c;
});

/** CRC-32C (Castagnoli, RFC 3720 appendix B.4); Node's zlib has only the other polynomial. */
export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = CRC_TABLE[(c ^ byte) & 255]! ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function maskedCrc(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}
