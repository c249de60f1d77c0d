/**
 * libtorch for TypeScript: every ATen operator by schema, autograd, scopes, safetensors.
 *
 *     import { torch } from "@massif/torch";
 *     using scope = torch.scope();
 *     const y = torch.randn([2, 3]).matmul(w).softmax(-1);
 */
import { addon } from "./addon.ts";
import { enableGrad, grad, gradAsync, noGrad } from "./autograd.ts";
import { fromBytes, tensor } from "./create.ts";
import type { Device } from "./dtype.ts";
import { functions, ops } from "./ops.ts";
import { keep, memory, scope, tidy, trackLeaks } from "./scope.ts";
import { Tensor } from "./tensor.ts";

export type { MachineInfo } from "./addon.ts";
export type { GradOptions } from "./autograd.ts";
export { type Device, DTYPES, type DType, type TypedArray } from "./dtype.ts";
export { TorchError } from "./error.ts";
export {
  chooseExperts,
  decodePack,
  decodeRepack,
  decodeStep,
  type ExpertInputs,
  fastestProducts,
  hasTiles,
  linear,
  linearCrossEntropy,
  type MlaDecodeInputs,
  type MlaInputs,
  mlaAttention,
  mlaDecode,
  moeExperts,
  operatorPath,
  pick,
  rmsNorm,
  rotary,
  runsFused,
  runsNarrow,
  sigmoid,
  swiglu,
  usePlain,
} from "./fused.ts";
export {
  readHeader,
  SafeTensors,
  type SaveOptions,
  saveCheckpoint,
  saveSafetensors,
  type TensorEntry,
} from "./safetensors.ts";
export type { TensorScope } from "./scope.ts";
export { type Index, type NestedNumbers, Tensor } from "./tensor.ts";

const own = {
  tensor,
  fromBytes,
  scope,
  tidy,
  keep,
  memory,
  trackLeaks,
  grad,
  gradAsync,
  noGrad,
  enableGrad,
  ops,
  /** Whether operations on this thread are recorded for gradients. */
  isGradEnabled: (): boolean => addon().gradMode(),
  /** Seeds libtorch's generators on every device. */
  manualSeed: (seed: number | bigint): void => addon().manualSeed(seed),
  /** The state of a device's generator (uint8), from which it goes on exactly as it would have. */
  getRngState: (device: Device = "cpu"): Tensor => new Tensor(addon().rngState(device)),
  setRngState: (state: Tensor, device: Device = "cpu"): void => addon().rngState(device, state.h),
  /** How many threads an operator may use. */
  getNumThreads: (): number => addon().threads(),
  setNumThreads: (n: number): void => void addon().threads(n),
  /** Refuses operators that are not deterministic. */
  useDeterministicAlgorithms: (on: boolean): void => addon().deterministic(on),
  /** What is loaded and what the machine has. Loads (and, where needed, builds) the add-on. */
  info: () => addon().info(),
  /** Waits for the accelerator's queue; nothing on the CPU. */
  synchronize: (): void => addon().synchronize(),
  /** Gives the accelerator's cached memory back. */
  emptyCache: (): void => addon().emptyCache(),
  Tensor,
};

/** Every ATen operator as a function, and what surrounds them. */
export const torch = Object.defineProperties(functions, Object.getOwnPropertyDescriptors(own)) as Omit<
  typeof functions,
  keyof typeof own
> &
  typeof own;
