/** Gives Tensor a method, and `torch` a function, for each operator; all others are reached through `torch.ops`. */

import { DTYPES } from "./dtype.ts";
import type { Functions, OwnOperators } from "./generated/functions.ts";
import { FUNCTIONS, METHODS } from "./generated/names.ts";
import { type Operator, operator } from "./overloads.ts";
import { Tensor } from "./tensor.ts";

/** `to(device)` is Python's own form: ATen's has the dtype with it. */
function to(this: Tensor, ...args: unknown[]): Tensor {
  const [device, next] = args;
  const op = once("aten::to");
  if (typeof device !== "string" || typeof next === "string" || (DTYPES as readonly string[]).includes(device))
    return op(this, ...args) as Tensor;
  return op(this, { device, ...(next as object | undefined) }) as Tensor;
}

const made = new Map<string, Operator>();

function once(name: string, overload?: string): Operator {
  const key = overload === undefined ? name : `${name}.${overload}`;
  let op = made.get(key);
  if (!op) made.set(key, (op = operator(name, overload)));
  return op;
}

for (const name of METHODS) {
  let op: Operator | undefined;
  Object.defineProperty(Tensor.prototype, name, {
    configurable: true,
    writable: true,
    value(this: Tensor, ...args: unknown[]) {
      op ??= once(`aten::${name}`);
      return op(this, ...args);
    },
  });
}

Object.defineProperty(Tensor.prototype, "to", { configurable: true, writable: true, value: to });

/** Every ATen operator as a function, made at its first use. */
export const functions = {} as Functions;
for (const name of FUNCTIONS) {
  Object.defineProperty(functions, name, {
    configurable: true,
    enumerable: true,
    get() {
      const op = once(`aten::${name}`);
      Object.defineProperty(functions, name, { value: op, enumerable: true });
      return op;
    },
  });
}

type Namespace = Record<string, Operator>;

const namespaceOf = (namespace: string): Namespace =>
  new Proxy(Object.create(null) as Namespace, {
    get: (cache, name) => {
      if (typeof name !== "string") return undefined;
      const [base, overload] = name.split(".") as [string, string | undefined];
      return (cache[name] ??= once(`${namespace}::${base}`, overload === "default" ? "" : overload));
    },
  });

/** Operators by namespace, known to the types or not: `torch.ops.massif.rms_norm(x, w, eps)`, `torch.ops.aten["add.Tensor"]`. */
export const ops = new Proxy(Object.create(null) as Record<string, Namespace>, {
  get: (cache, name) => (typeof name === "string" ? (cache[name] ??= namespaceOf(name)) : undefined),
}) as Record<string, Namespace> & { massif: OwnOperators };
