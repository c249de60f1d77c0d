/**
 * Lifetimes. The garbage collector sees numbers, not the memory behind them, and in a synchronous loop it never runs; so
 * a tensor belongs to the scope it was made in and goes when the scope ends. What is made outside every scope is freed by
 * the garbage collector at leisure: a safety net, not a plan. (TorchSharp's dispose scopes; see docs/architecture.md.)
 *
 * Scopes nest on one stack. A scope that stays open over an `await` also takes what other code makes meanwhile: open
 * scopes in synchronous code, or where only one flow touches tensors.
 */
import { type Addon, addon, type Handle } from "./addon.ts";
import { TorchError } from "./error.ts";

/** Anything that holds a handle: a Tensor. */
interface Held {
  h: Handle;
}

const stack: TensorScope[] = [];
let scratch = new Float64Array(1024);

let record: ((tensor: Held) => void) | undefined;

const safetyNet = new FinalizationRegistry<{ h: Handle; bytes: number }>(({ h, bytes }) => {
  const native = addon();
  if (native.isLive(h)) native.dispose(h);
  native.untrack(bytes);
});

/** A new tensor joins the innermost scope, or the safety net when there is none. */
export function adopt(tensor: Held): void {
  record?.(tensor);
  const scope = stack[stack.length - 1];
  if (scope) scope.add(tensor);
  else safetyNet.register(tensor, { h: tensor.h, bytes: addon().track(tensor.h) });
}

/** Frees at its end every tensor that was made in it, but for those kept. */
export class TensorScope {
  #tensors: Held[] = [];
  #kept = new Set<Held>();
  #open = true;

  constructor() {
    stack.push(this);
  }

  /** @internal */
  add(tensor: Held): void {
    this.#tensors.push(tensor);
  }

  /** Lets tensors outlive this scope: they move to the one around it (or to the garbage collector). Returns its argument. */
  keep<T extends Held | readonly Held[]>(tensors: T): T {
    for (const tensor of Array.isArray(tensors) ? (tensors as readonly Held[]) : [tensors as Held])
      this.#kept.add(tensor);
    return tensors;
  }

  /** Ends the scope. Ending it twice does nothing; ending an outer scope first ends those inside it. */
  end(): void {
    if (!this.#open) return;
    while (stack[stack.length - 1] !== this) stack[stack.length - 1]?.end();
    stack.pop();
    this.#open = false;
    const tensors = this.#tensors;
    if (!tensors.length) return; // Nor is the add-on needed: where it cannot be had, that error is the one to see.
    const native = addon();
    if (tensors.length > scratch.length) scratch = new Float64Array(tensors.length * 2);
    let n = 0;
    for (const tensor of tensors) {
      if (this.#kept.size && this.#kept.has(tensor)) moveOut(tensor, native);
      else scratch[n++] = tensor.h;
    }
    native.disposeAll(scratch, n);
    this.#tensors = [];
    this.#kept.clear();
  }

  [Symbol.dispose](): void {
    this.end();
  }
}

function moveOut(tensor: Held, native: Addon): void {
  const around = stack[stack.length - 1];
  if (around) around.add(tensor);
  else if (native.isLive(tensor.h)) safetyNet.register(tensor, { h: tensor.h, bytes: native.track(tensor.h) });
}

/** `using scope = torch.scope();`: what is made until the block ends is freed there. */
export function scope(): TensorScope {
  return new TensorScope();
}

/** Runs `fn` in a scope of its own; the tensors in what it returns (a tensor, or arrays and plain objects of them) survive. */
export function tidy<T>(fn: () => T): T {
  using inner = new TensorScope();
  const result = fn();
  if (result instanceof Promise)
    throw new TorchError("torch.argument", {
      found: "torch.tidy was given an asynchronous function",
      expected: "a synchronous one: its scope ends when it returns",
      fix: "using scope = torch.scope()",
    });
  keepAll(inner, result);
  return result;
}

function keepAll(inner: TensorScope, value: unknown): void {
  if (typeof value !== "object" || value === null) return;
  if (Array.isArray(value)) for (const item of value) keepAll(inner, item);
  else if (Object.getPrototypeOf(value) === Object.prototype)
    for (const item of Object.values(value)) keepAll(inner, item);
  else inner.keep(value as Held); // a tensor, or something that no scope holds
}

/** Takes tensors out of every open scope: only `dispose()` (or, at leisure, the garbage collector) frees them. For parameters. */
export function keep<T extends Held | readonly Held[]>(tensors: T): T {
  for (const open of stack) open.keep(tensors);
  return tensors;
}

/** Live tensors, the bytes of their distinct storages, and, while `trackLeaks(true)`, where each live one was made. */
export function memory(): { tensors: number; bytes: number; created?: Map<string, number> } {
  const { tensors, bytes } = addon().memory();
  if (!record) return { tensors, bytes };
  const created = new Map<string, number>();
  for (const [h, where] of origins) {
    if (addon().isLive(h)) created.set(where, (created.get(where) ?? 0) + 1);
    else origins.delete(h);
  }
  return { tensors, bytes, created };
}

const origins = new Map<Handle, string>();
/** Frames of this package, which say nothing of who made a tensor. */
const OURS = new RegExp(`${RegExp.escape(import.meta.dirname)}/(generated/)?[a-z]+\\.[jt]s`);

/** Debug mode: remembers the creation stack of every tensor made from now on (slow). `false` forgets them. */
export function trackLeaks(on: boolean): void {
  origins.clear();
  record = on
    ? (tensor) => {
        const lines = new Error().stack?.split("\n").slice(1) ?? [];
        origins.set(tensor.h, lines.filter((line) => !OURS.test(line)).join("\n"));
      }
    : undefined;
}
