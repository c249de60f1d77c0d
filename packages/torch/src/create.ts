/** Tensors from JavaScript data. */
import { addon } from "./addon.ts";
import { type Device, type DType, dtypeOfArray, type TypedArray } from "./dtype.ts";
import { TorchError } from "./error.ts";
import { type NestedNumbers, Tensor } from "./tensor.ts";

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
  let out: Tensor;
  if (ArrayBuffer.isView(data)) {
    out = fromBytes(
      new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      dtypeOfArray(data),
      options.shape ?? [data.length],
    );
  } else {
    const shape = shapeOf(data as NestedNumbers);
    const flat = (Array.isArray(data) ? (data as unknown[]).flat(shape.length - 1) : [data]) as (
      | number
      | boolean
      | bigint
    )[];
    const size = shape.reduce((a, b) => a * b, 1);
    if (flat.length !== size || flat.some((x) => Array.isArray(x))) {
      throw new TorchError("torch.argument", {
        found: `nested arrays of unequal length (shape would be [${shape}])`,
        expected: "a regular block of numbers",
      });
    }
    const guess = dtype ?? guessDtype(flat);
    out = fromNumbers(flat, guess, options.shape ?? shape);
  }
  if ((dtype && out.dtype !== dtype) || (device && device !== "cpu")) out = out.to(device ?? "cpu", dtype ?? out.dtype);
  if (requiresGrad) out.requiresGrad = true;
  return out;
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

function guessDtype(flat: (number | boolean | bigint)[]): DType {
  if (flat.length && flat.every((x) => typeof x === "boolean")) return "bool";
  if (flat.length && flat.every((x) => typeof x === "bigint" || Number.isInteger(x))) return "int64";
  return "float32";
}

function fromNumbers(flat: (number | boolean | bigint)[], dtype: DType, shape: readonly number[]): Tensor {
  const bytes = (array: TypedArray) => new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);
  if (dtype === "int64") return fromBytes(bytes(BigInt64Array.from(flat, (x) => BigInt(x))), "int64", shape);
  if (dtype === "bool")
    return fromBytes(
      Uint8Array.from(flat, (x) => (x ? 1 : 0)),
      "bool",
      shape,
    );
  if (dtype === "float32") return fromBytes(bytes(Float32Array.from(flat, Number)), "float32", shape);
  return fromBytes(bytes(Float64Array.from(flat, Number)), "float64", shape);
}
