import { existsSync } from "node:fs";
import { join } from "node:path";
import { MassifError } from "../common/index.ts";
import { parity as compare, PARITY_BARS, type ParityReport, passes } from "../train/parity.ts";
import { type Command, parse } from "./command.ts";

const HELP = `
usage: massif parity FOLDER… [--json]

Compares the model with Hugging Face transformers, through the trainer itself: logits, loss, the gradient of every tensor
of the checkpoint, routing, a greedy continuation, and the checkpoint saved again. FOLDER is one preset as
bench/peers/hf_reference.py writes it: config.json, model.safetensors, reference.safetensors. Each figure is the worst
of fused and plain operators, with activations kept and recomputed.

  --json   one JSON object on standard output (an array of them for several folders)

Exit code 1 if anything differs by more than its bar.

example: massif parity ../shared/data/parity/a
`;

const ROWS: [keyof Omit<ParityReport, "ok">, string][] = [
  ["logitsMaxAbs", "logits, float32: largest difference"],
  ["lossAbs", "loss: difference"],
  ["gradRelMax", "gradients: worst tensor, relative"],
  ["logitsFp64MaxAbs", "logits, float64: largest difference"],
  ["routingEqual", "experts of every token"],
  ["greedyEqual", "greedy continuation"],
  ["roundTripEqual", "checkpoint and config, saved again"],
];

export const parity: Command = {
  summary: "compares logits, gradients, routing and text with Hugging Face transformers",
  help: HELP,
  async run(args) {
    const { values, positionals } = parse(args, { json: { type: "boolean" } });
    if (!positionals.length)
      throw new MassifError("cli.usage", { found: "no FOLDER", fix: "massif parity --help shows an example" });
    for (const folder of positionals) checkFolder(folder);
    const reports = positionals.map((folder) => {
      const report = compare(folder);
      if (!values.json) console.log(table(folder, report));
      return report;
    });
    if (values.json) console.log(JSON.stringify(reports.length === 1 ? reports[0] : reports, null, 2));
    return reports.every(({ ok }) => ok) ? 0 : 1;
  },
};

function checkFolder(folder: string): void {
  if (!existsSync(join(folder, "reference.safetensors")))
    throw new MassifError("cli.usage", {
      found: `${folder} holds no reference.safetensors`,
      expected: "a folder written by bench/peers/hf_reference.py",
    });
}

/** One report for people. */
export function table(folder: string, report: ParityReport): string {
  const lines = ROWS.map(([key, label]) => {
    const value = report[key];
    const bar =
      typeof value === "boolean" ? "equal" : `≤ ${PARITY_BARS[key as keyof typeof PARITY_BARS].toExponential()}`;
    const shown = typeof value === "boolean" ? (value ? "equal" : "different") : value.toExponential(2);
    return `  ${label.padEnd(38)}${shown.padStart(10)}   ${bar.padEnd(9)} ${passes(key, value) ? "passes" : "FAILS"}`;
  });
  return [folder, ...lines, ""].join("\n");
}
