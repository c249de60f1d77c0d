/** A libtorch tensor: a handle with methods. The operators (`x.add(y)`, `x.softmax(-1)`, …) are installed by ops.ts. */
import { inspect } from "node:util";
import { addon, type Handle } from "./addon.ts";
import { type Device, type DType, dtypeOfArray, type TypedArray, typedArrayOf } from "./dtype.ts";
import { TorchError } from "./error.ts";
import type { TensorMethods } from "./generated/methods.ts";
import { adopt, tidy } from "./scope.ts";

export type NestedNumbers = number | boolean | bigint | readonly NestedNumbers[];

/** What `at` takes for a dimension: an element, a range, a new dimension, or as many whole ones as are left. */
export type Index = number | readonly [start?: number | null, end?: number | null, step?: number] | null | "...";

export interface Tensor extends TensorMethods {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: see above
export class Tensor {
  /** @internal The native handle. */
  readonly h: Handle;

  /** @internal Use torch.tensor, torch.zeros, … */
  constructor(h: Handle) {
    this.h = h;
    adopt(this);
  }

  get shape(): number[] {
    return addon().shape(this.h);
  }

  /** The number of dimensions. */
  get ndim(): number {
    return this.shape.length;
  }

  get dtype(): DType {
    return addon().dtype(this.h) as DType;
  }

  get device(): Device {
    return addon().device(this.h);
  }

  /** The size of its elements in bytes (a view counts what it shows). */
  get nbytes(): number {
    return addon().numel(this.h) * addon().itemSize(this.h);
  }

  /** The transpose of the last two dimensions, a view. */
  get mT(): Tensor {
    return this.transpose(-2, -1);
  }

  /** All dimensions in reverse order, a view. */
  get T(): Tensor {
    return this.numpy_T();
  }

  /** Basic indexing, a view: Python's `x[0, ..., None, 1:3]` is `x.at(0, "...", null, [1, 3])`. */
  at(...where: Index[]): Tensor {
    const taken = where.filter((index) => index !== null && index !== "...").length;
    return tidy(() => {
      let x = this.alias();
      let dim = 0;
      for (const index of where) {
        if (index === "...") dim += this.ndim - taken;
        else if (index === null) x = x.unsqueeze(dim++);
        else if (typeof index === "number") x = x.select(dim, index);
        else x = x.slice(dim++, index[0] ?? null, index[1] ?? null, index[2] ?? 1);
      }
      return x;
    });
  }

  get requiresGrad(): boolean {
    return addon().requiresGrad(this.h);
  }

  set requiresGrad(on: boolean) {
    addon().requiresGrad(this.h, on);
  }

  get isLeaf(): boolean {
    return addon().isLeaf(this.h);
  }

  /** What `backward()` has accumulated into this leaf, or null. A new handle at each reading. */
  get grad(): Tensor | null {
    const h = addon().gradOf(this.h);
    return h === null ? null : new Tensor(h);
  }

  set grad(value: Tensor | null) {
    addon().setGrad(this.h, value?.h ?? null);
  }

  /** False once the tensor was disposed or its scope has ended. */
  get live(): boolean {
    return addon().isLive(this.h);
  }

  /** Frees the tensor now. Using it afterwards is an error that names the operation; disposing of it again is none. */
  dispose(): void {
    addon().dispose(this.h);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Accumulates the gradients of this scalar (or of `gradient`·this) into the `.grad` of the leaves. */
  backward(gradient?: Tensor, { retainGraph = false, createGraph = false } = {}): void {
    addon().grad([this.h], null, gradient ? [gradient.h] : null, retainGraph || createGraph, createGraph, true);
  }

  /** The same on a worker thread: the event loop stays free. Bitwise the same gradients. */
  async backwardAsync(gradient?: Tensor, { retainGraph = false, createGraph = false } = {}): Promise<void> {
    await addon().gradAsync(
      [this.h],
      null,
      gradient ? [gradient.h] : null,
      retainGraph || createGraph,
      createGraph,
      true,
    );
  }

  /** The elements in row-major order, as the raw bytes of the dtype (little-endian). */
  bytes(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(addon().toBytes(this.h));
  }

  /** The elements in row-major order. int64 gives a BigInt64Array; bfloat16 and float8 come as Float32Array. */
  toTypedArray(): TypedArray {
    const dtype = this.dtype;
    const array = typedArrayOf(dtype, addon().toBytes(this.h));
    if (array) return array;
    if (dtype.startsWith("complex"))
      throw new TorchError("torch.argument", {
        found: `${dtype} has no typed array`,
        fix: "take torch.view_as_real(x) first",
      });
    using wide = this.to("float32");
    return new Float32Array(addon().toBytes(wide.h));
  }

  /** The elements as numbers in row-major order. */
  toArray(): number[] {
    return Array.from(this.toTypedArray() as ArrayLike<number | bigint>, Number);
  }

  /** Nested arrays of numbers (booleans for bool), as PyTorch's tolist. */
  tolist(): NestedNumbers {
    const flat: (number | boolean)[] = this.dtype === "bool" ? this.toArray().map(Boolean) : this.toArray();
    const nest = (shape: number[], start: number): NestedNumbers => {
      const [n, ...rest] = shape;
      if (n === undefined) return flat[start] as number;
      const size = rest.reduce((a, b) => a * b, 1);
      return Array.from({ length: n }, (_, i) => nest(rest, start + i * size));
    };
    return nest(this.shape, 0);
  }

  /** Overwrites a contiguous CPU tensor with the elements of a typed array of the same dtype. Returns this. */
  set(array: TypedArray): this {
    const dtype = dtypeOfArray(array);
    if (dtype !== this.dtype && !(dtype === "uint8" && this.dtype === "bool"))
      throw new TorchError("torch.argument", {
        found: `set: the tensor is ${this.dtype}, the array ${dtype}`,
        fix: "x.copy_(torch.tensor(array)) converts",
      });
    addon().copyFromBytes(this.h, new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    return this;
  }

  toString(): string {
    if (!this.live) return "Tensor(disposed)";
    const shape = this.shape;
    const few = shape.reduce((a, b) => a * b, 1) <= 64 && this.device !== "meta" && !/complex/.test(this.dtype);
    const values = few ? ` ${inspect(this.tolist(), { depth: 8, compact: 4, breakLength: 120 })}` : "";
    return `Tensor[${shape.join(", ")}] ${this.dtype} ${this.device}${this.requiresGrad ? " requiresGrad" : ""}${values}`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
