/** The cost of a call: @massif/torch against Python's eager mode, one thread each, alternating in one run.
 *
 *    node bench/torch-eager.ts [--rounds 15] [--python .venv/bin/python]
 *
 *  `add`: a 4-element addition. `grad`: 16×16 mm, tanh, sum, and the gradient of the weights. Ours frees in a
 *  scope every 100 additions, and every gradient, as a training step would. Prints medians of the quiet rounds (others took under 10 % of the machine's
 *  time in either half) and the ratio peer ÷ ours: over 1, we are faster. */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { torch } from "../packages/torch/src/index.ts";

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "15" }, python: { type: "string", default: "python3" } },
});

torch.setNumThreads(1);
const a = torch.tensor([1, 2, 3, 4], { dtype: "float32" });
const b = torch.tensor([5, 6, 7, 8], { dtype: "float32" });
const x = torch.arange(256, { dtype: "float32" }).view([16, 16]).div(256);
const w = torch.arange(256, { dtype: "float32" }).view([16, 16]).div(512);
w.requiresGrad = true;

const tasks = {
  add: () => void a.add(b),
  grad: () => void torch.grad(x.mm(w).tanh().sum(), [w]),
};
type Task = keyof typeof tasks;

function ours(task: Task, count: number): [seconds: number, cpu: number] {
  const once = tasks[task];
  const began = performance.now();
  const cpu = process.cpuUsage();
  const inScope = task === "add" ? 100 : 1;
  for (let done = 0; done < count; done += inScope) {
    using _ = torch.scope();
    for (let i = 0; i < inScope; i++) once();
  }
  const { user, system } = process.cpuUsage(cpu);
  return [(performance.now() - began) / 1e3, (user + system) / 1e6];
}

const peer = spawn(values.python, [join(import.meta.dirname, "peers/torch_eager.py")], {
  stdio: ["pipe", "pipe", "inherit"],
});
const replies = createInterface(peer.stdout)[Symbol.asyncIterator]();

async function theirs(task: Task, count: number): Promise<[seconds: number, cpu: number]> {
  peer.stdin.write(`${task} ${count}\n`);
  const { value, done } = await replies.next();
  if (done) throw new Error("the Python peer has ended");
  const [s, cpu] = value.split(" ").map(Number) as [number, number];
  return [s, cpu];
}

/** CPU seconds that all processes of the machine have used. */
function busy(): number {
  const [, user, nice, system, , , irq, softirq, steal] = readFileSync("/proc/stat", "utf8").split(/\s+/).map(Number);
  return (user! + nice! + system! + irq! + softirq! + steal!) / 100;
}

/** Runs one half of a round: seconds, and the share of the machine that others had meanwhile. */
async function half(work: () => [number, number] | Promise<[number, number]>): Promise<{ s: number; others: number }> {
  const before = busy();
  const [s, cpu] = await work();
  return { s, others: (busy() - before - cpu) / (s * availableParallelism()) };
}

const median = (list: number[]) => list.toSorted((p, q) => p - q)[list.length >> 1]!;

for (const [task, count] of [
  ["add", 400_000],
  ["grad", 20_000],
] as const) {
  await half(() => ours(task, count));
  await half(() => theirs(task, count));
  const rounds: { mine: number; other: number; quiet: boolean }[] = [];
  for (let i = 0; i < Number(values.rounds); i++) {
    const mine = await half(() => ours(task, count));
    const other = await half(() => theirs(task, count));
    rounds.push({ mine: mine.s, other: other.s, quiet: Math.max(mine.others, other.others) < 0.1 });
  }
  const quiet = rounds.filter((r) => r.quiet);
  const kept = quiet.length ? quiet : rounds;
  const us = (side: "mine" | "other") => ((median(kept.map((r) => r[side])) / count) * 1e6).toFixed(2);
  const ratios = kept.map((r) => r.other / r.mine);
  console.log(
    `${task.padEnd(5)} ours ${us("mine")} µs  Python ${us("other")} µs  ratio ${median(ratios).toFixed(2)} ` +
      `[${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}]  ` +
      `${quiet.length ? `${quiet.length} of ${rounds.length} rounds quiet` : `none of ${rounds.length} rounds quiet: all kept`}`,
  );
}
peer.stdin.end();
