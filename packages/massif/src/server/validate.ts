/** Tool arguments against their schema (AJV), with patterns that strangers wrote and texts that models wrote: a check that
 *  takes too long is a check that fails. */
import { createContext, Script } from "node:vm";
import { Ajv } from "ajv";
import type { JsonSchema, ToolSpec } from "../chat/index.ts";

/** Milliseconds for one pattern on one text. */
const PATIENCE = 25;
const REMEMBERED = 256;

const context = createContext({ compiled: /x/, text: "" });
const script = new Script("compiled.test(text)");

/** A regular expression that gives up: V8 stops one that backtracks for ever when its time is over. */
function patient(pattern: string, flags: string) {
  const compiled = new RegExp(pattern, flags);
  return {
    source: compiled.source,
    test(text: string): boolean {
      if (text.length < 20 || !/[*+{]/.test(pattern)) return compiled.test(text);
      try {
        Object.assign(context, { compiled, text });
        return script.runInContext(context, { timeout: PATIENCE }) as boolean;
      } catch {
        return false;
      }
    },
  };
}

type Check = (value: unknown) => string | undefined;

export class Validator {
  readonly #checks = new Map<string, Check>();

  /** What is wrong with the arguments of a call; undefined where nothing is. */
  check(tools: readonly ToolSpec[], name: string, args: string): string | undefined {
    const tool = tools.find(({ function: fn }) => fn?.name === name)?.function;
    if (!tool) return `there is no tool ${JSON.stringify(name)}`;
    let value: unknown;
    try {
      value = JSON.parse(args);
    } catch (error) {
      return `the arguments are no JSON: ${(error as Error).message}`;
    }
    // Moonshot's cases have parameters that are no objects: what the schema says holds.
    return this.#check(tool.parameters ?? { type: "object" })(value);
  }

  #check(schema: JsonSchema): Check {
    const key = JSON.stringify(schema);
    const known = this.#checks.get(key);
    if (known) return known;
    const check = compile(schema);
    this.#checks.set(key, check);
    if (this.#checks.size > REMEMBERED) this.#checks.delete(this.#checks.keys().next().value!);
    return check;
  }
}

/** A schema that nobody can compile checks nothing: it is the upstream's to refuse. */
function compile(schema: JsonSchema): Check {
  try {
    const regExp = Object.assign(patient, { code: "patient" });
    const ajv = new Ajv({ strict: false, validateFormats: false, code: { regExp }, logger: false });
    const validate = ajv.compile(schema);
    return (value) => (validate(value) ? undefined : ajv.errorsText(validate.errors, { dataVar: "arguments" }));
  } catch {
    return () => undefined;
  }
}
