import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  DTYPES,
  readHeader,
  SafeTensors,
  saveCheckpoint,
  saveSafetensors,
  type Tensor,
  TorchError,
  torch,
} from "./index.ts";

let box: string;
beforeEach(() => {
  box = mkdtempSync(join(tmpdir(), "massif-safetensors-"));
});
afterEach(() => rmSync(box, { recursive: true }));
const at = (name: string) => join(box, name);
const SAVED = DTYPES.filter((dtype) => dtype !== "complex128");

/** A file with this header and data, whatever they are worth. */
function forge(header: string, data = Buffer.alloc(0), length = Buffer.byteLength(header)): string {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(length));
  writeFileSync(at("forged.safetensors"), Buffer.concat([prefix, Buffer.from(header), data]));
  return at("forged.safetensors");
}

describe("files", () => {
  test("what Python wrote is read: every dtype, an empty tensor, one without dimensions", () => {
    using _ = torch.scope();
    const file = new SafeTensors(`${import.meta.dirname}/fixtures/python.safetensors`);
    expect(file.metadata).toEqual({ by: "python", unicode: "é漢" });
    expect(file.names.sort()).toEqual([...SAVED, "empty", "scalar"].sort());
    const list = SAVED.map((dtype) => file.get(dtype));
    expect(list.map((t) => t.dtype)).toEqual(SAVED);
    for (const t of list.filter(({ dtype }) => /^(float(16|32|64)|bfloat16|float8_e[45].*)$/.test(dtype)))
      expect([t.dtype, t.tolist()]).toEqual([
        t.dtype,
        [
          [1, 0, 2],
          [4, 1, 0.5],
        ],
      ]);
    for (const t of list.filter(({ dtype }) => /^u?int/.test(dtype)))
      expect([t.dtype, t.tolist()]).toEqual([
        t.dtype,
        [
          [1, 0, 2],
          [4, 1, 0],
        ],
      ]);
    expect(file.get("bool").tolist()).toEqual([
      [true, false, true],
      [true, true, true],
    ]);
    expect(torch.view_as_real(file.get("complex64")).at(1, 2).tolist()).toEqual([0.5, 0]);
    expect([file.get("empty").shape, file.get("scalar").shape, file.get("scalar").item()]).toEqual([[0, 3], [], 2.5]);
  });

  test("every dtype comes back as it was saved, byte for byte", () => {
    using _ = torch.scope();
    const tensors = new Map(
      SAVED.map(
        (dtype) =>
          [
            `a.${dtype}`,
            torch
              .tensor([
                [1, 0.5],
                [0, 2],
              ])
              .to(dtype),
          ] as [string, Tensor],
      ),
    );
    tensors
      .set("turned", torch.arange(6).view([2, 3]).T)
      .set("scalar", torch.tensor(1.5))
      .set("none", torch.empty([3, 0]));
    saveSafetensors(at("x.safetensors"), tensors, { note: "hello" });
    const file = new SafeTensors(at("x.safetensors"));
    expect(file.metadata).toEqual({ format: "pt", note: "hello" });
    for (const [name, tensor] of tensors) {
      const again = file.get(name);
      expect([name, again.dtype, again.shape, again.bytes()]).toEqual([
        name,
        tensor.dtype,
        tensor.shape,
        tensor.bytes(),
      ]);
    }
    expect(() => saveSafetensors(at("y.safetensors"), [["z", torch.zeros([1], { dtype: "complex128" })]])).toThrow(
      "z is complex128, which safetensors does not have",
    );
    expect(() => file.get("nope")).toThrow("there is no tensor nope");
    expect([file.has("nope"), file.has("scalar")]).toEqual([false, true]);
  });

  test("a header that is no multiple of eight: what is not aligned is copied", () => {
    const header =
      '{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}';
    const file = new SafeTensors(
      forge(header, Buffer.from([7, ...new Uint8Array(new Float32Array([1.5, -2]).buffer)])),
    );
    expect([file.get("b").tolist(), file.get("f").tolist()]).toEqual([[7], [1.5, -2]]);
  });

  test("a tensor outlives its file's object, its scope's mapping and the file; changing it changes no file", () => {
    saveSafetensors(at("x.safetensors"), [
      ["w", torch.tensor([1, 2, 3])],
      ["v", torch.tensor([4])],
    ]);
    const bytes = readFileSync(at("x.safetensors"));
    const file = new SafeTensors(at("x.safetensors"));
    const first = torch.tidy(() => file.get("w"));
    const second = torch.tidy(() => file.get("w"));
    const before = torch.memory().tensors;
    first.add_(10);
    expect(second.tolist()).toEqual([1, 2, 3]);
    expect(readFileSync(at("x.safetensors"))).toEqual(bytes);
    saveSafetensors(at("x.safetensors"), [["w", torch.tidy(() => first.mul(2))]]);
    expect([first.tolist(), second.tolist()]).toEqual([
      [11, 12, 13],
      [1, 2, 3],
    ]);
    expect(torch.memory().tensors - before).toBe(1);
    {
      using _ = torch.scope();
      expect(new SafeTensors(at("x.safetensors")).get("w").tolist()).toEqual([22, 24, 26]);
      expect(() => file.get("v")).toThrow("is not the file any more that was opened: it was written again");
    }
    expect(torch.memory().tensors - before).toBe(1);
  });
});

describe("what is no whole file is refused, by name", () => {
  const entry = (fields: object) =>
    JSON.stringify({ w: { dtype: "F32", shape: [2], data_offsets: [0, 8], ...fields } });
  test.each([
    ["a header that is no JSON", "{nope", "the header is no JSON"],
    ["a header that is no object", "[1]", "the header is no object"],
    ["an unknown dtype", entry({ dtype: "F4" }), "w has dtype F4, which is not known here"],
    ["no entry", '{"w":null}', "w has dtype undefined"],
    ["a negative size", entry({ shape: [-2] }), "w has no proper shape and data_offsets"],
    ["one offset", entry({ data_offsets: [0] }), "w has no proper shape and data_offsets"],
    ["too few bytes for its shape", entry({ shape: [3] }), "w [3] of F32 is 12 bytes, data_offsets says 8"],
    ["an end before its start", entry({ data_offsets: [8, 0] }), "w [2] of F32 is 8 bytes, data_offsets says -8"],
    ["an end beyond the file", entry({ data_offsets: [8, 16] }), "w should end at byte"],
  ])("%s", (_, header, found) => {
    const error = (() => {
      try {
        return readHeader(forge(header, Buffer.alloc(8)));
      } catch (e) {
        return e;
      }
    })() as TorchError;
    expect(error).toBeInstanceOf(TorchError);
    expect([error.code, error.message.startsWith(`${at("forged.safetensors")}: `)]).toEqual([
      "torch.safetensors",
      true,
    ]);
    expect(error.message).toContain(found);
  });

  test("every cut of a file", () => {
    saveSafetensors(at("x.safetensors"), [["w", torch.tensor([1, 2, 3])]]);
    const whole = readFileSync(at("x.safetensors"));
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(at("cut.safetensors"), whole.subarray(0, length));
      expect(() => new SafeTensors(at("cut.safetensors"))).toThrow(TorchError);
    }
    expect(() => readHeader(forge("{}", Buffer.alloc(0), 2 ** 52))).toThrow(
      "the header should have 4503599627370496 bytes",
    );
    expect(() => new SafeTensors(at("none.safetensors"))).toThrow(`cannot open ${at("none.safetensors")}`);
  });
});

describe("checkpoints", () => {
  const weights = (n: number): [string, Tensor][] =>
    Array.from({ length: n }, (_, i) => [`layers.${i}.w`, torch.full([10], i, { dtype: "float32" })]);

  test("shards and an index when it is large, one file when it is small", () => {
    saveCheckpoint(box, weights(5), { maxShardBytes: 90, metadata: { by: "test" } });
    expect(readdirSync(box).sort()).toEqual([
      "model-00001-of-00003.safetensors",
      "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors",
      "model.safetensors.index.json",
    ]);
    const index = JSON.parse(readFileSync(at("model.safetensors.index.json"), "utf8"));
    expect(index.metadata).toEqual({ total_size: 200 });
    expect(index.weight_map["layers.4.w"]).toBe("model-00003-of-00003.safetensors");
    for (const path of [box, at("model.safetensors.index.json")]) {
      const read = new SafeTensors(path);
      expect(read.names.map((name) => read.get(name).sum().item())).toEqual([0, 10, 20, 30, 40]);
    }
    saveCheckpoint(box, weights(1));
    expect(new SafeTensors(box).names).toEqual(["layers.0.w"]);
  });

  test("an index that is damaged or names a file that is gone", () => {
    saveCheckpoint(box, weights(2), { maxShardBytes: 40 });
    rmSync(at("model-00002-of-00002.safetensors"));
    expect(() => new SafeTensors(box)).toThrow(`cannot open ${at("model-00002-of-00002.safetensors")}`);
    writeFileSync(at("model.safetensors.index.json"), "{");
    expect(() => new SafeTensors(box)).toThrow("the index is no JSON");
    writeFileSync(at("model.safetensors.index.json"), "{}");
    expect(() => new SafeTensors(box)).toThrow("there is no weight_map");
    rmSync(at("model.safetensors.index.json"));
    expect(() => new SafeTensors(box)).toThrow(`no checkpoint in ${box}`);
  });

  test("a save that fails leaves the file that was there, and nothing else", () => {
    saveSafetensors(at("model.safetensors"), weights(1));
    const before = readFileSync(at("model.safetensors"));
    const gone = torch.ones([2]);
    gone.bytes = () => {
      throw new Error("disk full");
    };
    expect(() => saveSafetensors(at("model.safetensors"), [...weights(1), ["b", gone]])).toThrow("disk full");
    expect(readFileSync(at("model.safetensors"))).toEqual(before);
    expect(readdirSync(box)).toEqual(["model.safetensors"]);
    expect(() => saveSafetensors(at("model.safetensors"), [...weights(1), ...weights(1)])).toThrow(
      "two tensors are called layers.0.w",
    );
  });
});
