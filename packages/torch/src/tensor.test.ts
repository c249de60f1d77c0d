import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { DTYPES, type DType, type TypedArray, torch } from "./index.ts";

const ARRAYS: [DType, TypedArray][] = [
  ["float32", new Float32Array([1.5, -2, 0.1])],
  ["float64", new Float64Array([1.5, -2, 0.1])],
  ["float16", new Float16Array([1.5, -2, 0.1])],
  ["int64", new BigInt64Array([1n, -(2n ** 62n) - 1n, 3n])],
  ["uint64", new BigUint64Array([1n, 2n ** 64n - 1n, 3n])],
  ["int32", new Int32Array([1, -2, 2 ** 31 - 1])],
  ["uint32", new Uint32Array([1, 2, 2 ** 32 - 1])],
  ["int16", new Int16Array([1, -2, 32767])],
  ["uint16", new Uint16Array([1, 2, 65535])],
  ["int8", new Int8Array([1, -2, 127])],
  ["uint8", new Uint8Array([1, 2, 255])],
];

describe("data in and out", () => {
  test.each(ARRAYS)("%s goes in and comes out as its typed array", (dtype, array) => {
    const x = torch.tensor(array);
    expect(x.dtype).toBe(dtype);
    expect(x.toTypedArray()).toEqual(array);
    expect(torch.zeros([3], { dtype }).set(array).toTypedArray()).toEqual(array);
  });

  test.each([
    ["bfloat16", [1.5, -2, 0.10009765625]],
    ["float8_e4m3fn", [1.5, -2, 0.1015625]],
    ["float8_e5m2", [1.5, -2, 0.09375]],
    ["float8_e8m0fnu", [1, 2, 0.125]],
  ] as [DType, number[]][])("%s comes out as float32", (dtype, expected) => {
    const x = torch.tensor(dtype === "float8_e8m0fnu" ? [1, 2, 0.12] : [1.5, -2, 0.1], { dtype });
    expect(x.dtype).toBe(dtype);
    expect(x.toTypedArray()).toEqual(new Float32Array(expected));
    expect(torch.fromBytes(x.bytes(), dtype, [3]).tolist()).toEqual(expected);
  });

  test("bool and complex", () => {
    const x = torch.tensor([[true, false]]);
    expect([x.dtype, x.tolist(), x.toTypedArray()]).toEqual(["bool", [[true, false]], new Uint8Array([1, 0])]);
    const z = torch.view_as_complex(torch.tensor([[1.5, 2]]));
    expect(z.dtype).toBe("complex64");
    expect(() => z.toArray()).toThrow("take torch.view_as_real(x) first");
    expect(String(z)).toBe("Tensor[1] complex64 cpu");
  });

  test("a view of an array, a shape, a conversion, a transposed tensor", () => {
    const whole = new Float32Array([0, 1, 2, 3, 4]);
    expect(torch.tensor(whole.subarray(1), { shape: [2, 2], dtype: "float64" }).T.toArray()).toEqual([1, 3, 2, 4]);
    expect(torch.tensor(new Float32Array(new SharedArrayBuffer(8))).tolist()).toEqual([0, 0]);
    expect(() => torch.tensor(whole, { shape: [2, 2] })).toThrow("the shape needs 16 bytes, the data has 20");
    expect(() => torch.tensor(new DataView(new ArrayBuffer(4)) as never)).toThrow("no typed array of a known dtype");
  });

  test("what is taken out is a copy; what is put in is one too", () => {
    const array = new Float32Array([1, 2]);
    const x = torch.tensor(array);
    array[0] = 9;
    x.toTypedArray()[1] = 9;
    expect(x.tolist()).toEqual([1, 2]);
  });

  test("set refuses another dtype, another length, and strides", () => {
    const x = torch.zeros([2, 2]);
    expect(() => x.set(new Int32Array(4))).toThrow("set: the tensor is float32, the array int32");
    expect(() => x.set(new Float32Array(3))).toThrow("the tensor has 16 bytes, the data 12");
    expect(() => x.T.set(new Float32Array(4))).toThrow("expected a contiguous CPU tensor");
  });

  test("every dtype has a tensor, and its size", () => {
    const sizes = DTYPES.map((dtype) => torch.empty([2, 3], { dtype }).nbytes / 6);
    expect(sizes).toEqual([4, 8, 2, 2, 8, 4, 2, 1, 1, 1, 2, 4, 8, 1, 1, 1, 8, 16]);
  });
});

describe("from numbers", () => {
  test("whole numbers are int64, others float32, as PyTorch guesses", () => {
    expect([[1, 2], [1, 0.5], [true], [2n], [], [Number.NaN]].map((data) => torch.tensor(data).dtype)).toEqual(
      ["int64", "float32", "bool", "int64", "float32", "float32"], // prettier
    );
    expect(torch.tensor([1.9, -1.9], { dtype: "int64" }).tolist()).toEqual([1, -1]);
    expect(torch.tensor([2n ** 64n - 1n], { dtype: "uint64" }).toTypedArray()).toEqual(
      new BigUint64Array([2n ** 64n - 1n]),
    );
    expect(torch.tensor(3).shape).toEqual([]);
    expect(torch.tensor([[[]]]).shape).toEqual([1, 1, 0]);
    expect(torch.tensor([1], { requiresGrad: true, dtype: "float32" }).requiresGrad).toBe(true);
  });

  test.each([
    [[[1], [2, 3], []], "nested arrays of unequal length (shape would be [3, 1])"],
    [[[1, 2], 3], "3 where shape [2, 2] has an array"],
    [[1, [2]], "nested arrays of unequal length (shape would be [2])"],
    [["a"], "a where shape [1] has a number"],
    [[undefined], "undefined where shape [1] has a number"],
  ])("%j is refused", (data, found) => {
    expect(() => torch.tensor(data as never)).toThrow(found);
  });

  test("no whole number", () => {
    expect(() => torch.tensor([Number.NaN], { dtype: "int64" })).toThrow("NaN in a tensor of integers");
  });
});

test("at: numbers, ranges, new dimensions and the rest, all views", () => {
  const x = torch.arange(24).view([2, 3, 4]);
  expect(x.at(1, 2, -1).item()).toBe(23);
  expect(x.at(0, [1, null], [0, 4, 2]).tolist()).toEqual([
    [4, 6],
    [8, 10],
  ]);
  expect(x.at("...", 0).tolist()).toEqual([
    [0, 4, 8],
    [12, 16, 20],
  ]);
  expect(x.at(1, "...", null, [-1]).shape).toEqual([3, 1, 1]);
  expect(x.at().shape).toEqual([2, 3, 4]);
  x.at(0, 0).fill_(-1);
  expect(x.at([null, 1], 0).tolist()).toEqual([[-1, -1, -1, -1]]);
  expect(() => x.at(2)).toThrow("select(): index 2 out of range for tensor of size [2, 3, 4] at dimension 0");
});

test("a tensor prints itself", () => {
  expect(inspect(torch.tensor([[1, 2]]))).toBe("Tensor[1, 2] int64 cpu [ [ 1, 2 ] ]");
  expect(String(torch.zeros([1000]))).toBe("Tensor[1000] float32 cpu");
  expect(String(torch.zeros([2], { device: "meta" }))).toBe("Tensor[2] float32 meta");
  const x = torch.tensor(0.5).requires_grad_();
  expect(String(x)).toBe("Tensor[] float32 cpu requiresGrad 0.5");
  x.dispose();
  expect(String(x)).toBe("Tensor(disposed)");
});

test("a generator's state goes on exactly where it was", () => {
  torch.manualSeed(7);
  torch.randn([5]);
  const state = torch.getRngState();
  const next = torch.randn([4]).tolist();
  torch.setRngState(torch.tensor(state.toTypedArray()));
  expect(torch.randn([4]).tolist()).toEqual(next);
});
