import { MassifError } from "../common/index.ts";
import { readConfig } from "../model/config.ts";
import { type ModelSize, modelSize } from "../model/parameters.ts";
import { type Command, parse } from "./command.ts";

const HELP = `
usage: massif inspect CONFIG_OR_FOLDER [--context N] [--json]

What a model of this config.json (Kimi K2's layout or transformers' deepseek_v3) would be: total and active parameters
by part, memory of its weights, cache a token, floating-point operations a token. Nothing is allocated and no torch is
needed: the real model takes as long as a small one.

  --context N   tokens that attention looks back over, for the FLOPs (4096)
  --json        one JSON object on standard output

example: massif inspect recipes/kimi-k2/config.json
`;

export const inspect: Command = {
  summary: "sizes of a model from its config: parameters, cache, FLOPs, memory",
  help: HELP,
  async run(args) {
    const { values, positionals } = parse(args, { json: { type: "boolean" }, context: { type: "string" } });
    const [path, ...more] = positionals;
    if (!path || more.length)
      throw new MassifError("cli.usage", {
        found: path ? `${positionals.length} paths` : "no path",
        expected: "one config.json, or the folder it lies in",
      });
    const context = Number(values.context ?? 4096);
    if (!Number.isInteger(context) || context < 1)
      throw new MassifError("cli.usage", { found: `--context ${values.context}`, expected: "a number of tokens" });
    const size = modelSize(readConfig(path), context);
    console.log(values.json ? JSON.stringify({ ...size, context }, null, 2) : page(size, context));
    return 0;
  },
};

/** The sizes for people. */
export function page(size: ModelSize, context: number): string {
  const row = (label: string, ...cells: string[]) => label.padEnd(22) + cells.map((c) => c.padStart(20)).join("");
  const count = (n: number) => n.toLocaleString("en-US");
  const bytes = Object.entries(size.weightBytes).map(([dtype, n]) => row(`weights in ${dtype}`, binary(n)));
  return [
    row("", "parameters", "active a token"),
    ...Object.entries(size.parts).map(([part, n]) => row(part, count(n.parameters), count(n.activeParameters))),
    row("all", count(size.parameters), count(size.activeParameters)),
    "",
    ...bytes,
    row("cache a token, bf16", `${count(size.kvBytesPerToken)} B`),
    row(`cache of ${count(context)}`, binary(size.kvBytesPerToken * context)),
    row("FLOPs a token", decimal(size.flopsPerToken), `at context ${count(context)}`),
    row("  in training", decimal(size.trainFlopsPerToken)),
  ].join("\n");
}

const scaled = (n: number, base: number, units: string[]) => {
  const power = Math.max(0, Math.min(units.length - 1, Math.floor(Math.log(n) / Math.log(base))));
  return `${(n / base ** power).toFixed(power ? 2 : 0)} ${units[power]}`;
};
const binary = (n: number) => scaled(n, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
const decimal = (n: number) => scaled(n, 1000, ["", "k", "M", "G", "T", "P"]).trim();
