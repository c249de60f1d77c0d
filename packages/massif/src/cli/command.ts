import { type ParseArgsOptionsConfig, parseArgs } from "node:util";
import { MassifError, nearest } from "../common/index.ts";

/** One command: what `--help` prints, and what it does. `run` returns the exit code (0 done, 1 a check failed). */
export interface Command {
  /** One line for the list of commands. */
  summary: string;
  /** The text of `--help`: usage, options, and an example that works as it stands. */
  help: string;
  run(args: string[]): Promise<number>;
}

/** `util.parseArgs`, whose refusals become errors that name the nearest known option (exit code 2). */
export function parse<const O extends ParseArgsOptionsConfig>(args: string[], options: O, positionals = true) {
  try {
    return parseArgs({ args, options, allowPositionals: positionals, strict: true });
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    const unknown = /'(--?[^' ]+)/.exec(text)?.[1]?.replace(/^-+/, "");
    const like = unknown && !(unknown in options) ? nearest(unknown, Object.keys(options)) : undefined;
    throw new MassifError("cli.usage", {
      found: text.split(". ")[0] ?? text,
      fix: like ? `did you mean --${like}?` : "see --help",
      cause,
    });
  }
}
