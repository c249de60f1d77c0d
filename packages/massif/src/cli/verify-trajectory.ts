/** `massif verify-trajectory FILE`: re-runs trajectories from their seeds and accepts them, or says why not. */
import { MassifError, readLines } from "../common/index.ts";
import { openWorld, Replayer, type World } from "../worlds/index.ts";
import { type Command, parse } from "./command.ts";

export const verifyTrajectory: Command = {
  summary: "re-run trajectories from their seeds: accepted, or the first reason why not",
  help: `
massif verify-trajectory FILE [--world FILE…] [--json]

Reads trajectories as JSONL (also .gz, .zst, .xz; - is standard input), runs each again from its seed, and accepts it
where every message comes again and the task was solved. One line for each row; exit code 1 where one is not accepted.
Gates, in order: row, world, start, structure, replay, outcome, record.

  --world FILE   the file of a world the rows name (may be given more than once; shipped worlds are known)
  --json         one JSON object on standard output: { accepted, rejected, rows: [{ row, id, accepted, gate?, why? }] }

Example:
  massif world serve ledger --out episode.jsonl   # an agent plays it, then
  massif verify-trajectory episode.jsonl
`,
  async run(args) {
    const { values, positionals } = parse(args, {
      world: { type: "string", multiple: true, default: [] },
      json: { type: "boolean", default: false },
    });
    const [file] = positionals;
    if (!file || positionals.length > 1)
      throw new MassifError("cli.usage", { found: "not one file", fix: "massif verify-trajectory FILE" });
    const replayer = new Replayer(resolver(values.world.map(openWorld)));
    const rows: ({ row: number; id?: unknown } & ReturnType<Replayer["verify"]>)[] = [];
    let number = 0;
    for await (const line of readLines(file)) {
      number++;
      if (!line.trim()) continue;
      const { id, verdict } = judged(replayer, line);
      rows.push({ row: number, ...(id !== undefined && { id }), ...verdict });
      if (!values.json)
        console.log(verdict.accepted ? `row ${number}: accepted` : `row ${number}: ${verdict.gate}: ${verdict.why}`);
    }
    const accepted = rows.filter((r) => r.accepted).length;
    const rejected = rows.length - accepted;
    if (values.json) console.log(JSON.stringify({ accepted, rejected, rows }));
    else console.log(`${accepted} accepted, ${rejected} rejected`);
    return rejected ? 1 : 0;
  },
};

function judged(replayer: Replayer, line: string): { id?: unknown; verdict: ReturnType<Replayer["verify"]> } {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch {
    return { verdict: { accepted: false, gate: "row", why: "not JSON" } };
  }
  const id = typeof row === "object" && row !== null && "id" in row ? row.id : undefined;
  return { ...(id !== undefined && { id }), verdict: replayer.verify(row) };
}

/** Given worlds first, then shipped ones; a name that is neither is unknown, not an error of the command. */
function resolver(given: readonly World[]): (name: string) => World | undefined {
  return (name) => {
    const own = given.find((w) => w.name === name);
    if (own) return own;
    try {
      return /^[a-z0-9-]+$/.test(name) ? openWorld(name) : undefined;
    } catch (error) {
      if (error instanceof MassifError && error.code === "world.file") return undefined;
      throw error;
    }
  };
}
