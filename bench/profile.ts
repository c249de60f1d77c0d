/**
 * Where our time goes, by operator: every call through the binding is timed. A backward pass is one call (`grad`), since
 * autograd runs its operators without coming back; `perf record` sees into it (bench/README.md).
 */
import { addon } from "../packages/torch/src/addon.ts";

interface Entry {
  calls: number;
  ms: number;
}
const entries = new Map<string, Entry>();

function timed<A extends unknown[], R>(name: string, call: (...args: A) => R): (...args: A) => R {
  return (...args) => {
    const began = performance.now();
    try {
      return call(...args);
    } finally {
      const ms = performance.now() - began;
      const entry = entries.get(name);
      if (entry) {
        entry.calls++;
        entry.ms += ms;
      } else entries.set(name, { calls: 1, ms });
    }
  };
}

/** Times every operator that is called from here on. Call it before the first: a call once planned is not timed. */
export function watchOperators(): void {
  const native = addon();
  const operator = native.operator.bind(native);
  native.operator = (name, overload) => timed(name.replace("aten::", ""), operator(name, overload));
  native.grad = timed("grad", native.grad.bind(native));
  native.disposeAll = timed("(end of scope)", native.disposeAll.bind(native));
  native.shape = timed("(shape)", native.shape.bind(native));
}

/** Runs `work` and prints a table of what it called: milliseconds a repetition, dearest first. */
export function profile(name: string, repetitions: number, work: () => void): void {
  entries.clear();
  const began = performance.now();
  for (let i = 0; i < repetitions; i++) work();
  const total = (performance.now() - began) / repetitions;
  const rows = [...entries].map(([op, { calls, ms }]) => [op, calls / repetitions, ms / repetitions] as const);
  const outside = total - rows.reduce((sum, [, , ms]) => sum + ms, 0);
  console.log(`\n${name}: ${total.toFixed(2)} ms, one of ${repetitions}\n\n| operator | calls | ms | share |`);
  console.log("| --- | ---: | ---: | ---: |");
  for (const [op, calls, ms] of [...rows, ["(TypeScript)", 0, outside] as const].toSorted((a, b) => b[2] - a[2]))
    console.log(`| ${op} | ${+calls.toFixed(1) || ""} | ${ms.toFixed(3)} | ${((100 * ms) / total).toFixed(1)} % |`);
}
