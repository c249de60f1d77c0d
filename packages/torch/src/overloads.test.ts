import { expect, test } from "vitest";
import { type Tensor, TorchError, torch } from "./index.ts";
import type { Operator } from "./overloads.ts";

const { aten } = torch.ops as unknown as { aten: Record<string, Operator> };
const x = torch.tensor([
  [1.5, 2],
  [3, 4],
]);

/** The error of a call that must fail. */
function errorOf(fn: () => unknown): TorchError {
  try {
    fn();
  } catch (error) {
    if (error instanceof TorchError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

test("the kind of a number chooses the overload: integer, float, tensor", () => {
  expect(torch.full([2], 1).dtype).toBe("int64");
  expect(torch.full([2], 1.5).dtype).toBe("float32");
  expect(torch.full([1], 2n ** 53n + 1n).toTypedArray()).toEqual(new BigInt64Array([9007199254740993n]));
  expect(torch.arange(3).dtype).toBe("int64");
  expect(torch.tensor([1, 2]).add(0.5).tolist()).toEqual([1.5, 2.5]);
  expect(x.pow(2).tolist()).toEqual([
    [2.25, 4],
    [9, 16],
  ]);
  expect(torch.pow(2, torch.tensor([3, 4])).tolist()).toEqual([8, 16]);
  expect(x.max(torch.tensor(2.5)).tolist()).toEqual([
    [2.5, 2.5],
    [3, 4],
  ]);
});

test("positional, keyword and mixed arguments are the same call", () => {
  const expected = [[4.5], [10]];
  const y = torch.tensor([
    [1, 2],
    [3, 7],
  ]);
  const sum = y.sum(1, true).tolist();
  expect(sum).toEqual([[3], [10]]);
  expect(y.sum([1], true).tolist()).toEqual(sum);
  expect(y.sum(1, { keepdim: true }).tolist()).toEqual(sum);
  expect(y.sum({ dim: [1], keepdim: true }).tolist()).toEqual(sum);
  expect(y.sum({ keepdim: true, dim: 1 }).tolist()).toEqual(sum);
  expect(torch.sum(y, 1, { keepdim: true, dtype: "float64" }).dtype).toBe("float64");
  expect(torch.tensor([[4.5], [10]]).tolist()).toEqual(expected);
});

test("undefined and null stand for what is left out", () => {
  expect(x.clamp(null, 2).tolist()).toEqual([
    [1.5, 2],
    [2, 2],
  ]);
  expect(x.clamp(undefined as unknown as null, 2).tolist()).toEqual([
    [1.5, 2],
    [2, 2],
  ]);
  expect(torch.zeros([1], { dtype: undefined }).dtype).toBe("float32");
  expect(x.to("cpu", { copy: true }).tolist()).toEqual(x.tolist());
});

test("a lone number stands for int[1] and int[2], not for an unsized list", () => {
  expect(torch.ones([1, 1, 4, 4]).max_pool2d(2).shape).toEqual([1, 1, 2, 2]);
  expect(x.roll(1, 0).tolist()).toEqual([
    [3, 4],
    [1.5, 2],
  ]);
  expect(errorOf(() => aten.zeros!(3)).message).toContain("'size' takes int[]");
});

test("the same combination of kinds is resolved once, and another one anew", () => {
  const values = [x.std(), x.std(0), x.std(false), x.std([0, 1]), x.std(1)].map((t) => t.shape);
  expect(values).toEqual([[], [2], [], [], [2]]);
  for (const device of ["cpu", "meta", "cpu"]) expect(torch.empty([1], { device }).device).toBe(device);
  expect([x.to("float64").dtype, x.to("cpu").dtype, x.to("cpu", "int32").dtype]).toEqual([
    "float64",
    "float32",
    "int32",
  ]);
});

test("in-place and out= hand back the object that was passed", () => {
  const y = x.clone();
  expect(y.add_(1)).toBe(y);
  expect(y.tolist()).toEqual([
    [2.5, 3],
    [4, 5],
  ]);
  const out = torch.empty_like(x);
  expect(torch.add(x, x, { out })).toBe(out);
  expect(out.tolist()).toEqual([
    [3, 4],
    [6, 8],
  ]);
  const [values, indices] = [torch.empty([2]), torch.empty([2], { dtype: "int64" })];
  const result = torch.max(x, 1, { max: values, max_values: indices }) as unknown as Tensor[];
  expect(result[0]).toBe(values);
  expect(result[1]).toBe(indices);
  expect(indices.tolist()).toEqual([1, 1]);
});

test("several results, lists of results, numbers, and lists with gaps", () => {
  const [values, indices] = x.topk(1);
  expect([values.tolist(), indices.tolist()]).toEqual([
    [[2], [4]],
    [[1], [1]],
  ]);
  expect(x.unbind().map((t) => t.tolist())).toEqual([
    [1.5, 2],
    [3, 4],
  ]);
  expect([x.size(0), x.numel(), x.equal(x), torch.tensor(true).item(), torch.tensor(2.5).item()]).toEqual([
    2,
    4,
    true,
    true,
    2.5,
  ]);
  const at = torch.tensor([1, 0]);
  expect(x.index([null, at]).tolist()).toEqual([
    [2, 1.5],
    [4, 3],
  ]);
  const y = x.clone();
  expect(y.index_put_([at], torch.tensor([10, 20], { dtype: "float32" }))).toBe(y);
  expect(y.tolist()).toEqual([
    [10, 20],
    [10, 20],
  ]);
});

test("an operator, or one overload, by name through torch.ops", () => {
  expect((aten.add!(x, 1) as Tensor).tolist()).toEqual([
    [2.5, 3],
    [4, 5],
  ]);
  expect((aten["add.Tensor"]!(x, x) as Tensor).tolist()).toEqual([
    [3, 4],
    [6, 8],
  ]);
  expect((aten["relu.default"]!(x) as Tensor).tolist()).toEqual(x.tolist());
  expect(errorOf(() => aten["add.Tensor"]!(x, 1)).message).toContain("'other' takes Tensor");
  expect(errorOf(() => aten.no_such!(x))).toMatchObject({
    code: "torch.argument",
    message: "libtorch has no operator aten::no_such",
  });
  expect(errorOf(() => aten["add.nope"]!(x)).message).toBe("libtorch has no operator aten::add.nope");
});

test("a call that fits no form is told what the forms are, and why each does not fit", () => {
  const say = (fn: () => unknown) => errorOf(fn).message;
  expect(say(() => aten.add!(x, "a"))).toBe(
    [
      'add(Tensor[2, 2], "a") fits no form of add',
      "  expected: add.Scalar(self: Tensor, other: Scalar, alpha: Scalar = …): 'other' takes Scalar",
      "            add.Tensor(self: Tensor, other: Tensor, { alpha: Scalar = … }): 'other' takes Tensor",
    ].join("\n"),
  );
  expect(say(() => aten.relu!(x, 1))).toContain("relu(self: Tensor): too many arguments");
  expect(say(() => aten.relu!())).toContain("'self' is missing");
  expect(say(() => aten.zeros!([2], { dtyp: "int32" }))).toContain("there is no 'dtyp'");
  expect(say(() => aten.sum!(x, 0, { dim: 1 }))).toContain("an argument is given twice");
  expect(say(() => aten.zeros!([2], { dtype: "float33" }))).toContain("'dtype' takes ScalarType?");
  expect(say(() => aten.zeros!([2], { device: "gpu" }))).toContain("'device' takes Device?");
  expect(say(() => aten.zeros!([2, "a"]))).toContain("'size' takes int[]");
  expect(say(() => aten.select!(x, 0.5, 0))).toContain("'dim' takes int");
});

test("ATen's own errors come with its text, without its C++ stack", () => {
  const error = errorOf(() => x.matmul(torch.zeros([3])));
  expect(error).toMatchObject({ code: "torch.aten", message: "size mismatch, got input (2), mat (2x2), vec (3)" });
  expect(error.stack).toContain("overloads.test.ts");
  expect(errorOf(() => torch.cat([])).message).toBe("torch.cat(): expected a non-empty list of Tensors");
});

test("a disposed tensor is an error that names operation and argument", () => {
  const gone = x.clone();
  gone.dispose();
  const found = "the tensor was disposed (its scope ended, or dispose() was called)";
  expect(errorOf(() => x.add(gone))).toMatchObject({ code: "torch.disposed", message: `aten::add: 'other': ${found}` });
  expect(errorOf(() => torch.stack([x, gone])).message).toBe(`aten::stack: 'tensors': ${found}`);
  expect(errorOf(() => gone.shape).message).toBe(`shape: ${found}`);
  expect(errorOf(() => torch.grad(gone, x)).message).toBe(`grad: ${found}`);
  expect(errorOf(() => aten.add!(gone, "a")).message).toContain("add(a disposed Tensor");
});
