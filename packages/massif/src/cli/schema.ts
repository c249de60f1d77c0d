/** `massif schema check`: which tool schemas Moonshot's validator accepts, row by row. */
import { z } from "zod";
import { MassifError, readJsonl, writeJsonl } from "../common/index.ts";
import { checkToolSchema } from "../enforcer/index.ts";
import { type Command, parse } from "./command.ts";

/** walle's own test suite runs at this depth; its library allows 30. */
const SUITE_DEPTH = 5;

const help = `
usage: massif schema check [FILE] [--max-depth N]

Judges JSON Schemas of tools by the rules of Moonshot's validator walle (the subset called MFJS, strictest level). Rows
are JSONL from FILE or standard input: {schema} (JSON text or an object) → {accepted, reason}. The reason says what is
wrong and where. Rows that are refused are answers, not failures: the exit code is 0.

--max-depth N  levels of properties (default: ${SUITE_DEPTH}, as in walle's test suite; its library allows 30)

Example:
  echo '{"schema":{"type":"object","properties":{"city":{"type":"string","format":"x"}}}}' | massif schema check
`;

const Row = z.object({ schema: z.unknown() }).refine((row) => row.schema !== undefined, "a row has a “schema”");

export const schema: Command = {
  summary: "checks tool schemas by Moonshot's rules (walle)",
  help,
  async run(args) {
    const { values, positionals } = parse(args, { "max-depth": { type: "string" } });
    const [verb, file, ...more] = positionals;
    if (verb !== "check" || more.length) {
      throw new MassifError("cli.usage", {
        found: "massif schema takes the verb “check” and at most one file",
        fix: "see massif schema --help",
      });
    }
    const maxDepth = Number(values["max-depth"] ?? SUITE_DEPTH);
    if (!Number.isInteger(maxDepth) || maxDepth < 1) {
      throw new MassifError("cli.usage", {
        found: `--max-depth ${values["max-depth"]}`,
        expected: "a whole number from 1",
      });
    }
    async function* verdicts() {
      for await (const row of readJsonl(file, Row)) yield checkToolSchema(row.schema, { maxDepth });
    }
    await writeJsonl(undefined, verdicts());
    return 0;
  },
};
