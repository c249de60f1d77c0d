import { appendFileSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { crc32c, TensorboardFile } from "./tensorboard.ts";

const fresh = () => join(mkdtempSync(join(tmpdir(), "tb-")), "events.out.tfevents.massif");

/** A reader that shares nothing with the writer: a generic protobuf walk, and a bitwise CRC. */
function records(file: string): Uint8Array[] {
  const bytes = readFileSync(file);
  const all: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(unmask(bytes.readUInt32LE(at + 8))).toBe(slowCrc(bytes.subarray(at, at + 8)));
    expect(unmask(bytes.readUInt32LE(at + 12 + length))).toBe(slowCrc(data));
    all.push(data);
    at += 16 + length;
  }
  return all;
}

function unmask(masked: number): number {
  const rotated = (masked - 0xa282ead8) >>> 0;
  return ((rotated >>> 17) | (rotated << 15)) >>> 0;
}

function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffffn;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let i = 0; i < 8; i++) crc = crc & 1n ? (crc >> 1n) ^ 0x82f63b78n : crc >> 1n;
  }
  return Number(crc ^ 0xffffffffn);
}

type Field = [id: number, value: number | bigint | Uint8Array];

function fields(message: Uint8Array): Field[] {
  const view = new DataView(message.buffer, message.byteOffset, message.length);
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message[at++]!;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const all: Field[] = [];
  while (at < message.length) {
    const key = Number(varint());
    const type = key & 7;
    if (type === 0) all.push([key >> 3, varint()]);
    else if (type === 1) all.push([key >> 3, view.getFloat64((at += 8) - 8, true)]);
    else if (type === 5) all.push([key >> 3, view.getFloat32((at += 4) - 4, true)]);
    else if (type === 2) {
      const length = Number(varint());
      all.push([key >> 3, message.subarray(at, (at += length))]);
    } else throw new Error(`wire type ${type}`);
  }
  return all;
}

const text = (value: unknown) => Buffer.from(value as Uint8Array).toString();
const decoded = (file: string) =>
  records(file).map((record) => {
    const event = Object.fromEntries(fields(record));
    const summary = event[5] ? fields(event[5] as Uint8Array) : [];
    const scalars = summary.map(([, value]) => Object.fromEntries(fields(value as Uint8Array)));
    return {
      time: event[1],
      step: event[2],
      ...(event[3] ? { version: text(event[3]) } : {}),
      ...(scalars.length ? { scalars: scalars.map((s) => [text(s[1]), s[2]]) } : {}),
    };
  });

test("CRC-32C gives the vectors of RFC 3720 B.4", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
});

test("an independent decoder reads what was written", () => {
  const file = fresh();
  {
    using board = new TensorboardFile(file, 1.5);
    board.scalars(1, { "train/loss": 8.25, "train/lr": 0.5 }, 2.5);
    board.scalars(3_000_000_000, { größe: Number.NaN }, 3.5);
    board.scalars(5, {}, 4);
  }
  expect(decoded(file)).toEqual([
    { time: 1.5, step: 0n, version: "brain.Event:2" },
    {
      time: 2.5,
      step: 1n,
      scalars: [
        ["train/loss", 8.25],
        ["train/lr", 0.5],
      ],
    },
    { time: 3.5, step: 3_000_000_000n, scalars: [["größe", Number.NaN]] },
  ]);
});

test("cut goes back to a step, drops a torn event, and writing goes on", () => {
  const file = fresh();
  {
    using board = new TensorboardFile(file, 1);
    for (const step of [100, 200, 300]) board.scalars(step, { loss: step }, step);
  }
  appendFileSync(file, Uint8Array.of(9, 9, 9));
  using board = new TensorboardFile(file, 2);
  board.cut(1e9);
  expect(decoded(file).map((e) => e.step)).toEqual([0n, 100n, 200n, 300n]);
  board.cut(200);
  board.scalars(300, { loss: 1 }, 9);
  expect(decoded(file).map((e) => [e.step, e.scalars?.[0]?.[1]])).toEqual([
    [0n, undefined],
    [100n, 100],
    [200n, 200],
    [300n, 1],
  ]);
  board.cut(-1);
  expect(decoded(file).map((e) => [e.step, e.version])).toEqual([[0n, "brain.Event:2"]]);
});
