/** `massif world check FILE…`: proves worlds; `massif world serve FILE`: lets any agent play one over MCP. */
import { appendFileSync } from "node:fs";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { MassifError } from "../common/index.ts";
import {
  examine,
  openWorld,
  quizzes,
  type Report,
  readSplit,
  type Score,
  scoreQuiz,
  showReport,
  WorldEnvironment,
  worldServer,
} from "../worlds/index.ts";
import { type Command, parse } from "./command.ts";

export const world: Command = {
  summary: "check a world file (compiles, plans, oracle, exploits), or serve one over MCP",
  help: `
massif world check FILE… [--episodes 200] [--json]
massif world serve FILE [--seed 0] [--split train] [--out FILE]

check   compiles each world (errors name file, line and column), proves every task drawn from the first seeds of both
        splits (invariants, a plan, one end state), then plays the oracle (1.0), a noisy oracle and the exploits
        (each ≤ 0.25). FILE is a path, or the name of a shipped world: bank, calendar, ledger, lookup-chain, recover,
        retail, tool-select, puzzles, style-rubric. Exit code 1 where one fails.
serve   one episode as an MCP server on standard input and output: the world's tools, and say_to_user. The verifier
        stays out of reach; with --out, the record is appended to a file for massif verify-trajectory.

  --episodes N   proven of each split (200)         --json       one JSON object on standard output
  --seed N       the episode that is served (0)     --split S    train, heldout, or names=…,wordings=…,pairs=…

Example:
  massif world check ledger packages/massif/src/worlds/shipped/bank.json
`,
  async run(args) {
    const { values, positionals } = parse(args, {
      episodes: { type: "string", default: "200" },
      json: { type: "boolean", default: false },
      seed: { type: "string", default: "0" },
      split: { type: "string", default: "train" },
      out: { type: "string" },
    });
    const [verb, ...files] = positionals;
    if (verb === "check" && files.length) return check(files, whole("episodes", values.episodes), values.json);
    const [file] = files;
    if (verb === "serve" && file && files.length === 1)
      return serve(file, whole("seed", values.seed), values.split, values.out);
    throw new MassifError("cli.usage", {
      found: `massif world ${positionals.join(" ")}`,
      fix: "massif world check FILE… or massif world serve FILE",
    });
  },
};

function whole(name: string, text: string): number {
  const n = Number(text);
  if (Number.isSafeInteger(n) && n >= 0) return n;
  throw new MassifError("cli.usage", { found: `--${name} ${text}`, expected: "a whole number" });
}

type Result = (Report | { world: string; ok: boolean; scores: Score[]; n: number }) & { file: string };
type Failed = { file: string; ok: false; error: { code: string; message: string } };

async function check(files: string[], n: number, json: boolean): Promise<number> {
  const results: (Result | Failed)[] = [];
  for (const file of files) {
    const quiz = quizzes.find((q) => q.name === file);
    try {
      if (quiz) {
        const scores = await scoreQuiz(quiz, n);
        results.push({ file, world: quiz.name, ok: scores.every((s) => s.ok), scores, n });
      } else results.push({ file, ...(await examine(openWorld(file), n)) });
    } catch (error) {
      if (!(error instanceof MassifError)) throw error;
      results.push({ file, ok: false, error: { code: error.code, message: error.message } });
    }
    const last = results.at(-1);
    if (!json && last) console.log(show(last));
  }
  const ok = results.every((r) => r.ok);
  if (json) console.log(JSON.stringify({ ok, worlds: results }));
  return ok ? 0 : 1;
}

function show(result: Result | Failed): string {
  if ("error" in result) return `FAILED  ${result.file}\n${result.error.message}`;
  if ("problems" in result) return showReport(result);
  const rows = result.scores.map(
    (s) => `  ${s.player.padEnd(25)} ${s.success.toFixed(3).padStart(6)}  ${s.bar}${s.ok ? "" : "  FAILED"}`,
  );
  return [`${result.ok ? "ok" : "FAILED"}  ${result.world}, ${result.n} questions`, ...rows].join("\n");
}

async function serve(file: string, seed: number, splitText: string, out: string | undefined): Promise<number> {
  const split = readSplit(splitText);
  if (!split)
    throw new MassifError("cli.usage", {
      found: `--split ${splitText}`,
      expected: "train, heldout, or names=…,wordings=…,pairs=…",
    });
  const server = worldServer(new WorldEnvironment(openWorld(file), split), seed, (row) => {
    if (out) appendFileSync(out, `${JSON.stringify(row)}\n`);
  });
  await server.connect(new StdioServerTransport());
  // Standard input's end is the client's good-bye; the transport itself does not watch for it.
  await new Promise<void>((resolve) => {
    process.stdin.once("end", resolve);
    server.onclose = resolve;
  });
  return 0;
}
