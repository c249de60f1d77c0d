/** A libtorch tensor: a handle with methods. The operators (`x.add(y)`, `x.softmax(-1)`, …) are installed by ops.ts. */
import { inspect } from "node:util";
import { addon, type Handle } from "./addon.ts";
import { type Device, type DType, type TypedArray, typedArrayOf } from "./dtype.ts";
import { TorchError } from "./error.ts";
import type { TensorMethods } from "./generated/methods.ts";
import { adopt } from "./scope.ts";

export type NestedNumbers = number | boolean | bigint | readonly NestedNumbers[];

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

  /** Frees the tensor now. Using it afterwards is an error that names the operation. */
  dispose(): void {
    addon().dispose(this.h);
  }

  [Symbol.dispose](): void {
    if (this.live) this.dispose();
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
    addon().copyFromBytes(this.h, new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    return this;
  }

  toString(): string {
    if (!this.live) return "Tensor(disposed)";
    const shape = this.shape;
    const few = shape.reduce((a, b) => a * b, 1) <= 64;
    const values = few ? ` ${inspect(this.tolist(), { depth: 8, compact: 4, breakLength: 120 })}` : "";
    return `Tensor[${shape.join(", ")}] ${this.dtype} ${this.device}${this.requiresGrad ? " requiresGrad" : ""}${values}`;
  }

  [inspect.custom](): string {
    return this.toString();
  }
}
