/**
 * Where CPU time goes, by operator, backward passes included (packages/torch/native/profile.cc), and what share of the
 * cores' peak each operator's products reach.
 */
import { type ModelConfig, modelSize, numel, parameterSpecs } from "../packages/massif/src/model/index.ts";
import { addon } from "../packages/torch/src/addon.ts";

/** Floating-point operations of the products that a step needs, by operator as `profile` names it. As `modelSize` counts: two
 *  a weight, attention causally, the backward pass twice the forward; what is computed again counts nothing. */
export function productsOfStep(config: ModelConfig, batch: number, seqLen: number): Record<string, number> {
  const tokens = batch * seqLen;
  const flops = { linear: 0, moe_experts: 0, linear_cross_entropy: 0, mla_attention: 0 };
  for (const { name, kind, shape, routed } of parameterSpecs(config)) {
    if (name === "lm_head.weight") flops.linear_cross_entropy += 2 * tokens * numel(shape);
    else if (routed) flops.moe_experts += (2 * tokens * numel(shape) * config.numExpertsPerTok) / config.nRoutedExperts;
    else if (kind === "matrix") flops.linear += 2 * tokens * numel(shape);
  }
  const sum = Object.values(flops).reduce((a, b) => a + b, 0);
  flops.mla_attention = tokens * modelSize(config, seqLen).flopsPerToken - sum;
  return Object.fromEntries(
    Object.entries(flops).flatMap(([op, n]) => [
      [op, n],
      [`${op} backward`, 2 * n],
    ]),
  );
}

/** `massif::linear` → `linear`, its backward's C++ type → `linear backward`, `AddBackward0` → `add backward`. */
function readable(name: string): string {
  const own = /CppNode<massif::.*::(\w+)>/.exec(name)?.[1];
  const backward = own ?? /(\w+?)Backward\d*$/.exec(name)?.[1];
  const snake = backward?.replace(/(?<!^)(?=[A-Z])/g, "_").toLowerCase();
  return snake ? `${snake} backward` : name.replace(/^(aten|massif)::/, "");
}

/** Runs `work` and prints a table of the operators that it called, CPU milliseconds a repetition, dearest first. `flops` are
 *  those of one repetition's products, by operator; `peak` is a core's, in GFLOP/s. */
export function profile(
  name: string,
  repetitions: number,
  work: () => void,
  { flops = {}, peak }: { flops?: Record<string, number>; peak?: number } = {},
): void {
  const native = addon();
  const began = process.cpuUsage();
  native.watch(true);
  for (let i = 0; i < repetitions; i++) work();
  const table = native.watch(false);
  const { user, system } = process.cpuUsage(began);
  const total = (user + system) / 1e3 / repetitions;
  const rows = table.map(([op, calls, ms]) => [readable(op), calls / repetitions, ms / repetitions] as const);
  const outside = total - rows.reduce((sum, [, , ms]) => sum + ms, 0);
  console.log(
    `\n${name}: ${total.toFixed(2)} ms of CPU time, one of ${repetitions}${peak ? `; peak ${peak.toFixed(0)} GFLOP/s a core` : ""}\n`,
  );
  console.log("| operator | calls | ms | share | of the peak |\n| --- | ---: | ---: | ---: | ---: |");
  for (const [op, calls, ms] of [...rows, ["(around them)", 0, outside] as const].toSorted((a, b) => b[2] - a[2])) {
    if (ms < total / 1e3) continue;
    const reached = flops[op] && peak ? `${((100 * flops[op]) / ms / 1e6 / peak).toFixed(0)} %` : "";
    console.log(
      `| ${op} | ${+calls.toFixed(1) || ""} | ${ms.toFixed(3)} | ${((100 * ms) / total).toFixed(1)} % | ${reached} |`,
    );
  }
}
