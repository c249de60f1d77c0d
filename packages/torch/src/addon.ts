/** The native add-on as TypeScript sees it (packages/torch/native). A handle is a number that stands for a tensor. */
import { TorchError } from "./error.ts";
import { loadAddon } from "./load.ts";

export type Handle = number;

/** One overload of an operator, as libtorch's schema describes it. */
export interface Schema {
  overload: string;
  args: { name: string; type: string; keyword: boolean; optional: boolean; length: number }[];
  /** For each result: the argument it is (in-place and `out=` forms), or -1. */
  aliases: number[];
  returns: string[];
}

export interface MachineInfo {
  torch: string;
  /** The instruction set that ATen chose, e.g. `AVX512`. */
  cpu: string;
  parallel: string;
  cuda: boolean;
  mps: boolean;
  /** The accelerator that can be used here and now (`cuda`, `mps`), or null. */
  accelerator: string | null;
  devices: number;
}

type NativeOperator = (...args: unknown[]) => unknown;

export interface Addon {
  setErrorFactory(make: (code: string, message: string) => Error): void;
  info(): MachineInfo;
  threads(n?: number): number;
  manualSeed(seed: number | bigint): void;
  rngState(device: string): Handle;
  rngState(device: string, state: Handle): void;
  deterministic(on: boolean): void;
  synchronize(): void;
  emptyCache(): void;
  operatorNames(): string[];
  overloads(name: string): Schema[];
  operator(name: string, overload: string): NativeOperator;
  dispose(h: Handle): void;
  disposeAll(handles: Float64Array, count: number): void;
  isLive(h: Handle): boolean;
  memory(): { tensors: number; bytes: number };
  track(h: Handle): number;
  untrack(bytes: number): void;
  shape(h: Handle): number[];
  dtype(h: Handle): string;
  device(h: Handle): string;
  numel(h: Handle): number;
  itemSize(h: Handle): number;
  fromBytes(bytes: Uint8Array, dtype: string, shape: readonly number[]): Handle;
  toBytes(h: Handle): ArrayBuffer;
  copyFromBytes(h: Handle, bytes: Uint8Array): void;
  requiresGrad(h: Handle, on?: boolean): boolean;
  isLeaf(h: Handle): boolean;
  gradOf(h: Handle): Handle | null;
  setGrad(h: Handle, grad: Handle | null): void;
  gradMode(on?: boolean): boolean;
  grad(...args: GradArguments): (Handle | null)[];
  watch(on: true): void;
  /** Calls and CPU milliseconds of each operator and backward node since `watch(true)`. */
  watch(on: false): [name: string, calls: number, ms: number][];
  gradAsync(...args: GradArguments): Promise<(Handle | null)[]>;
}

type GradArguments = [
  outputs: Handle[],
  inputs: Handle[] | null,
  gradOutputs: Handle[] | null,
  retainGraph: boolean,
  createGraph: boolean,
  allowUnused: boolean,
];

let loaded: Addon | undefined;

/** The add-on, loaded (and built, where that is needed) at the first use of a tensor. */
export function addon(): Addon {
  if (!loaded) {
    loaded = loadAddon();
    loaded.setErrorFactory((code, found) => new TorchError(code, { found }));
  }
  return loaded;
}
