/** Gradients as functions: `torch.grad`, its asynchronous twin, and switching the recording off. */
import { addon } from "./addon.ts";
import { TorchError } from "./error.ts";
import { Tensor } from "./tensor.ts";

export interface GradOptions {
  /** One gradient for each output (a scalar output needs none). */
  gradOutputs?: readonly Tensor[];
  /** Keep the graph for another backward pass. */
  retainGraph?: boolean;
  /** Record the backward pass too, for second derivatives. */
  createGraph?: boolean;
  /** Give null for an input the outputs do not depend on, rather than an error. */
  allowUnused?: boolean;
}

type Args = Parameters<ReturnType<typeof addon>["grad"]>;

function argumentsOf(outputs: readonly Tensor[], inputs: readonly Tensor[], o: GradOptions): Args {
  const createGraph = o.createGraph ?? false;
  const seeds = o.gradOutputs?.map((t) => t.h) ?? null;
  return [
    outputs.map((t) => t.h),
    inputs.map((t) => t.h),
    seeds,
    o.retainGraph ?? createGraph,
    createGraph,
    o.allowUnused ?? false,
  ];
}

const wrap = (handles: (number | null)[]) => handles.map((h) => (h === null ? null : new Tensor(h)));
const many = (t: Tensor | readonly Tensor[]) => (t instanceof Tensor ? [t] : t);

/** The gradients of `outputs` with respect to `inputs`; nothing is accumulated anywhere. */
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: Tensor | readonly Tensor[],
  options: GradOptions & { allowUnused: true },
): (Tensor | null)[];
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: Tensor | readonly Tensor[],
  options?: GradOptions,
): Tensor[];
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: Tensor | readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  return wrap(addon().grad(...argumentsOf(many(outputs), many(inputs), options)));
}

/** The same on a worker thread, leaving the event loop free. Bitwise the same gradients. */
export async function gradAsync(
  outputs: Tensor | readonly Tensor[],
  inputs: Tensor | readonly Tensor[],
  options: GradOptions & { allowUnused: true },
): Promise<(Tensor | null)[]>;
export async function gradAsync(
  outputs: Tensor | readonly Tensor[],
  inputs: Tensor | readonly Tensor[],
  options?: GradOptions,
): Promise<Tensor[]>;
export async function gradAsync(
  outputs: Tensor | readonly Tensor[],
  inputs: Tensor | readonly Tensor[],
  options: GradOptions = {},
): Promise<(Tensor | null)[]> {
  return wrap(await addon().gradAsync(...argumentsOf(many(outputs), many(inputs), options)));
}

/**
 * `noGrad(fn)` runs a synchronous function without recording. `using _ = noGrad()` does so until the block ends; over an
 * `await` it holds for whatever else runs meanwhile.
 */
export function noGrad(): Disposable;
export function noGrad<T>(fn: () => T): T;
export function noGrad<T>(fn?: () => T): T | Disposable {
  return withGradMode(false, fn);
}

/** Records again inside `noGrad`. */
export function enableGrad(): Disposable;
export function enableGrad<T>(fn: () => T): T;
export function enableGrad<T>(fn?: () => T): T | Disposable {
  return withGradMode(true, fn);
}

function withGradMode<T>(on: boolean, fn?: () => T): T | Disposable {
  const was = addon().gradMode(on);
  const guard = { [Symbol.dispose]: () => void addon().gradMode(was) };
  if (!fn) return guard;
  using _ = guard;
  const result = fn();
  if (result instanceof Promise)
    throw new TorchError("torch.argument", {
      found: "an asynchronous function",
      expected: "a synchronous one: grad mode belongs to the thread",
      fix: "using _ = torch.noGrad()",
    });
  return result;
}
