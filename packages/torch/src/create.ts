/** Tensors from JavaScript data. */
import { addon } from "./addon.ts";
import { type Device, type DType, dtypeOfArray, type TypedArray } from "./dtype.ts";
import { TorchError } from "./error.ts";
import { type NestedNumbers, Tensor } from "./tensor.ts";

type Scalar = number | boolean | bigint;

export interface TensorOptions {
  dtype?: DType;
  device?: Device;
  requiresGrad?: boolean;
}

/**
 * A tensor from a number, nested arrays, or a typed array (with `shape`, else one-dimensional). As in PyTorch, whole
 * numbers make int64 and others float32; JavaScript cannot tell 1.0 from 1, so say `dtype` where it matters.
 */
export function tensor(
  data: NestedNumbers | TypedArray,
  options: TensorOptions & { shape?: readonly number[] } = {},
): Tensor {
  const { dtype, device, requiresGrad } = options;
  let made: Tensor;
  if (ArrayBuffer.isView(data)) {
    made = fromBytes(
      new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      dtypeOfArray(data),
      options.shape ?? [data.length],
    );
  } else {
    const shape = shapeOf(data as NestedNumbers);
    const flat: Scalar[] = [];
    flatten(data as NestedNumbers, shape, 0, flat);
    made = fromNumbers(flat, dtype ?? guessDtype(flat), options.shape ?? shape);
  }
  const own = made.dtype;
  if ((dtype ?? own) !== own || (device ?? "cpu") !== "cpu") {
    using onCpu = made;
    made = onCpu.to(device ?? "cpu", dtype ?? own);
  }
  if (requiresGrad) made.requiresGrad = true;
  return made;
}

/** A CPU tensor with a copy of raw bytes: row-major, little-endian, of any dtype. */
export function fromBytes(bytes: Uint8Array, dtype: DType, shape: readonly number[]): Tensor {
  return new Tensor(addon().fromBytes(bytes, dtype, shape));
}

function shapeOf(data: NestedNumbers): number[] {
  const shape: number[] = [];
  for (let level: NestedNumbers | undefined = data; Array.isArray(level); level = level[0]) shape.push(level.length);
  return shape;
}

/** Appends the numbers in row-major order; refuses what is no regular block. */
function flatten(data: NestedNumbers, shape: number[], depth: number, flat: Scalar[]): void {
  const length = shape[depth];
  if (
    Array.isArray(data) ? data.length !== length : length !== undefined || !/number|boolean|bigint/.test(typeof data)
  ) {
    throw new TorchError("torch.argument", {
      found: Array.isArray(data)
        ? `nested arrays of unequal length (shape would be [${shape.join(", ")}])`
        : `${String(data)} where shape [${shape.join(", ")}] has ${length === undefined ? "a number" : "an array"}`,
      expected: "a regular block of numbers",
    });
  }
  if (Array.isArray(data)) for (const item of data) flatten(item, shape, depth + 1, flat);
  else flat.push(data as Scalar);
}

function guessDtype(flat: Scalar[]): DType {
  if (flat.length && flat.every((x) => typeof x === "boolean")) return "bool";
  if (flat.length && flat.every((x) => typeof x === "bigint" || Number.isInteger(x))) return "int64";
  return "float32";
}

/** The numbers as the dtype where an array of JavaScript's holds it exactly, else as float64. */
function fromNumbers(flat: Scalar[], dtype: DType, shape: readonly number[]): Tensor {
  const from = (array: TypedArray, as: DType) => fromBytes(new Uint8Array(array.buffer), as, shape);
  if (dtype === "int64") return from(BigInt64Array.from(flat, toBigInt), dtype);
  if (dtype === "uint64") return from(BigUint64Array.from(flat, toBigInt), dtype);
  if (dtype === "bool")
    return from(
      Uint8Array.from(flat, (x) => (x ? 1 : 0)),
      dtype,
    );
  if (dtype === "float32") return from(Float32Array.from(flat, Number), dtype);
  return from(Float64Array.from(flat, Number), "float64");
}

/** Towards zero, as PyTorch. */
function toBigInt(x: Scalar): bigint {
  if (typeof x === "number" && !Number.isFinite(x))
    throw new TorchError("torch.argument", { found: `${x} in a tensor of integers` });
  return BigInt(typeof x === "number" ? Math.trunc(x) : x);
}
