/** Names of dtypes, PyTorch's own, and the typed arrays that hold their elements. */
import { TorchError } from "./error.ts";

export const DTYPES = [
  "float32",
  "float64",
  "float16",
  "bfloat16",
  "int64",
  "int32",
  "int16",
  "int8",
  "uint8",
  "bool",
  "uint16",
  "uint32",
  "uint64",
  "float8_e4m3fn",
  "float8_e5m2",
  "float8_e8m0fnu",
  "complex64",
  "complex128",
] as const;
export type DType = (typeof DTYPES)[number];

/** `cpu`, `cuda`, `cuda:1`, `mps`, `meta`. */
export type Device = "cpu" | "cuda" | `cuda:${number}` | "mps" | "meta" | (string & {});

export type TypedArray =
  | Float32Array
  | Float64Array
  | Float16Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

const ARRAY_OF: Partial<Record<DType, new (buffer: ArrayBuffer) => TypedArray>> = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Float16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
};

/** Elements as a typed array; undefined for dtypes JavaScript has no array for (bfloat16, float8, complex). */
export function typedArrayOf(dtype: DType, buffer: ArrayBuffer): TypedArray | undefined {
  const ArrayType = ARRAY_OF[dtype];
  return ArrayType && new ArrayType(buffer);
}

/** The dtype whose elements a typed array holds. A Uint8Array is uint8, never bool. */
export function dtypeOfArray(array: TypedArray): DType {
  for (const [dtype, ArrayType] of Object.entries(ARRAY_OF)) {
    if (dtype !== "bool" && ArrayType && array instanceof ArrayType) return dtype as DType;
  }
  throw new TorchError("torch.argument", {
    found: `${Object.prototype.toString.call(array)} is no typed array of a known dtype`,
  });
}
