/** One turn of the assistant in K2's format: reasoning, then text, an enforced value, or a section of tool calls.
 *
 *  `<|tool_calls_section_begin|>` (`<|tool_call_begin|>functions.NAME:IDX<|tool_call_argument_begin|>{…}<|tool_call_end|>`)⁺
 *  `<|tool_calls_section_end|>`, then the end token. Control tokens stand only where this says so. */
import { MassifError } from "../common/index.ts";
import { compile, type Dfa, oneOf, TooLarge } from "./dfa.ts";
import { readGrammar } from "./ebnf.ts";
import { Frames } from "./frames.ts";
import { Grammar } from "./grammar.ts";
import { CONTROL, type Frame, Machine, type Next, type Sym } from "./machine.ts";
import { Masks } from "./masks.ts";
import { type Costs, type Node, shortest } from "./node.ts";
import { patternRe, Unsupported } from "./regex.ts";
import { type Rules, Sentences } from "./rules.ts";
import type { Json } from "./scalars.ts";
import { anyObject, read } from "./schema.ts";
import { raw } from "./text.ts";
import { trieOf, type Vocabulary } from "./trie.ts";

export interface CompileOptions {
  /** Tokens that end an answer, by name or id. None: the caller stops at `canEnd`. */
  end?: readonly (string | number)[];
  /** Bytes of white space allowed between two tokens of JSON; 0 (compact) unless told. */
  whitespace?: number;
}

/** Texts that a pattern or a grammar (EBNF or Lark) describes as a whole, or one of some. */
export type TextFormat = { regex: string } | { choice: readonly string[] } | { grammar: string };

export interface TurnOptions extends CompileOptions {
  tools?: readonly { name: string; parameters?: Json }[];
  /** `required`: at least one call, of any tool; a name: of that one. */
  toolChoice?: "auto" | "none" | "required" | { name: string };
  /** More than one call in the turn. */
  parallel?: boolean;
  /** The index of the turn's first call: K2 numbers the calls of a conversation. */
  firstIndex?: number;
  /** The turn begins inside `<think>`; `</think>` (or a section) ends it. */
  reasoning?: boolean;
  /** What stands in place of free text. */
  format?: "text" | "json_object" | { schema: Json } | TextFormat;
}

const SECTION_BEGIN = "<|tool_calls_section_begin|>";
const SECTION_END = "<|tool_calls_section_end|>";
const CALL_BEGIN = "<|tool_call_begin|>";
const ARGUMENTS = "<|tool_call_argument_begin|>";
const CALL_END = "<|tool_call_end|>";
const THINK_END = "</think>";
const MAX_CALLS = 128;

/** Does the work that all grammars of a vocabulary share (some 100 ms at 163,840 tokens), so that no answer waits for it. */
export function prepare(vocabulary: Vocabulary): void {
  const machine = new Machine();
  const frames = new Frames(machine, new Map(), 0);
  new Masks(machine, trieOf(vocabulary), []).prepare(frames.common());
}

/** Text that is one value of `schema`. Throws `schema.unsupported`, `schema.invalid`, `schema.empty`. */
export function compileSchema(schema: Json, vocabulary: Vocabulary, options: CompileOptions = {}): Grammar {
  const root = read(schema);
  const costs = shortest(root);
  refuseEmpty(root, costs, "the schema");
  const machine = new Machine();
  const frames = new Frames(machine, costs, options.whitespace ?? 0);
  return new Grammar(vocabulary, machine, machine.start([frames.value(root)]), [], ids(vocabulary, options.end ?? []));
}

/** What a turn's schemas, patterns and grammars come to: plain data, the costly part of compiling. */
export interface TurnParts {
  tools: { name: string; root: Node }[];
  value: Node | undefined;
  text: Rules | undefined;
  costs: Costs;
}

/** A whole turn. Throws as `compileSchema` does, with the tool's name before the path, and `schema.tool`. */
export const compileTurn = (vocabulary: Vocabulary, options: TurnOptions): Grammar =>
  buildTurn(vocabulary, options, readTurn(options));

/** Throws all that `compileTurn` throws but `schema.control`. */
export function readTurn(options: TurnOptions): TurnParts {
  const { tools = [], toolChoice = tools.length ? "auto" : "none", format = "text" } = options;
  const chosen = tools.filter((tool) => typeof toolChoice === "string" || tool.name === toolChoice.name);
  if (toolChoice !== "none" && toolChoice !== "auto" && !chosen.length) {
    throw new MassifError("schema.tool", {
      found:
        typeof toolChoice === "string"
          ? "tool_choice is “required” without tools"
          : `there is no tool “${toolChoice.name}”`,
      expected: tools.length ? `one of ${tools.map((tool) => tool.name).join(", ")}` : "at least one tool",
    });
  }
  const calls = (toolChoice === "none" ? [] : chosen).map(({ name, parameters }) => ({
    name,
    root: named(name, () => (parameters === undefined ? anyObject() : read(parameters))),
  }));
  const value =
    format === "json_object"
      ? anyObject()
      : typeof format === "object" && "schema" in format
        ? read(format.schema)
        : undefined;
  const roots = calls.map(({ root }) => root);
  const costs = shortest({ kind: "union", of: value ? [...roots, value] : roots });
  for (const { name, root } of calls) refuseEmpty(root, costs, `the parameters of ${name}`);
  if (value) refuseEmpty(value, costs, "the response format");
  const text = typeof format === "object" && !("schema" in format) ? rulesOf(format) : undefined;
  return { tools: calls, value, text, costs };
}

/** The grammar of a turn that was read. Throws `schema.control`, and what a grammar's rules are refused for. */
export function buildTurn(vocabulary: Vocabulary, options: TurnOptions, parts: TurnParts): Grammar {
  const { tools, value, text, costs } = parts;
  const names = tools.length ? [SECTION_BEGIN, SECTION_END, CALL_BEGIN, ARGUMENTS, CALL_END] : [];
  if (options.reasoning) names.push(THINK_END);
  const machine = new Machine();
  const frames = new Frames(machine, costs, options.whitespace ?? 0);
  const turn = new Turn(machine, frames, names, tools, options);
  const answer = value ? frames.value(value) : text && new Sentences(machine, frames, text).start()[0]!;
  const body = turn.body(answer, options.toolChoice !== "auto" && options.toolChoice !== undefined && tools.length > 0);
  const start = machine.start(options.reasoning ? [...body, turn.thinking()] : body);
  return new Grammar(vocabulary, machine, start, ids(vocabulary, names), ids(vocabulary, options.end ?? []));
}

/** The frames of a turn around its values. */
class Turn {
  readonly #machine: Machine;
  readonly #frames: Frames;
  readonly #controls: readonly string[];
  readonly #tools: readonly { name: string; root: Node }[];
  readonly #first: number;
  readonly #most: number;

  constructor(
    machine: Machine,
    frames: Frames,
    controls: readonly string[],
    tools: readonly { name: string; root: Node }[],
    options: TurnOptions,
  ) {
    this.#machine = machine;
    this.#frames = frames;
    this.#controls = controls;
    this.#tools = tools;
    this.#first = options.firstIndex ?? 0;
    this.#most = options.parallel === false ? 1 : MAX_CALLS;
  }

  /** What follows the reasoning, bottom first. */
  body(answer: Frame | undefined, forced: boolean): Next {
    if (forced) return [this.#section()];
    const tools = this.#tools.length > 0;
    if (!answer) return tools ? [this.#maybeSection(), this.#free()] : [this.#free()];
    if (!tools) return [answer];
    const section = this.#section();
    const least = section.cost < answer.cost ? section : answer;
    const either = this.#machine.frame("turn either", () => ({
      cost: least.cost,
      toward: least.toward,
      nullable: answer.nullable === true,
      step: (sym) => [...answer.step(sym), ...section.step(sym)],
    }));
    return [either];
  }

  /** Any bytes, until `</think>`. */
  thinking(): Frame {
    const end = this.#symbol(THINK_END);
    return this.#machine.frame("turn thinking", () => ({
      cost: 1,
      toward: end,
      step: (sym) => (sym === end ? [[]] : sym < CONTROL ? [[this.thinking()]] : []),
    }));
  }

  /** Any bytes. */
  #free(): Frame {
    return this.#machine.frame("turn free", () => ({
      cost: 0,
      toward: -1,
      nullable: true,
      free: true,
      step: (sym) => (sym < CONTROL ? [[this.#free()]] : []),
    }));
  }

  #section(): Frame {
    const begin = this.#symbol(SECTION_BEGIN);
    return this.#machine.frame("turn section", () => ({
      cost: 1 + this.#calls(0).cost,
      toward: begin,
      step: (sym) => (sym === begin ? [[this.#calls(0)]] : []),
    }));
  }

  #maybeSection(): Frame {
    const section = this.#section();
    return this.#machine.frame("turn maybe", () => ({ cost: 0, toward: -1, nullable: true, step: section.step }));
  }

  /** In a section, between calls. */
  #calls(done: number): Frame {
    return this.#machine.frame(`turn calls ${done}`, () => {
      const begin = this.#symbol(CALL_BEGIN);
      const heads = done < this.#most ? this.#tools.map((_, tool) => this.#call(tool, this.#first + done, 0)) : [];
      return {
        cost: done ? 1 : 2 + Math.min(...heads.map((head) => head.cost)),
        toward: done ? this.#symbol(SECTION_END) : begin,
        step: (sym) => {
          if (sym === begin) return heads.map((head) => [this.#calls(done + 1), head]);
          return done && sym === this.#symbol(SECTION_END) ? [[]] : [];
        },
      };
    });
  }

  /** In a call's id, with `at` of its bytes written. */
  #call(tool: number, index: number, at: number): Frame {
    const { name, root } = this.#tools[tool]!;
    return this.#machine.frame(`turn call ${tool} ${index} ${at}`, () => {
      const id = new TextEncoder().encode(`functions.${name}:${index}`);
      const value = this.#frames.value(root);
      const expected = id[at] ?? this.#symbol(ARGUMENTS);
      return {
        cost: id.length - at + 1 + value.cost + 1,
        toward: expected,
        step: (sym) => {
          if (sym !== expected) return [];
          return [at < id.length ? [this.#call(tool, index, at + 1)] : [this.#callEnd(), value]];
        },
      };
    });
  }

  #callEnd(): Frame {
    const end = this.#symbol(CALL_END);
    return this.#machine.frame("turn end", () => ({ cost: 1, toward: end, step: (sym) => (sym === end ? [[]] : []) }));
  }

  #symbol(name: string): Sym {
    return CONTROL + this.#controls.indexOf(name);
  }
}

/** An error about a tool's parameters names the tool before the path. */
function named<T>(name: string, compile: () => T): T {
  try {
    return compile();
  } catch (cause) {
    if (!(cause instanceof MassifError)) throw cause;
    throw new MassifError(cause.code, { ...cause.trouble, found: `tool ${name}: ${cause.trouble.found}`, cause });
  }
}

/** Throws `schema.pattern`, `schema.grammar`. */
function rulesOf(format: TextFormat): Rules {
  if ("grammar" in format) return readGrammar(format.grammar);
  const words = "choice" in format ? format.choice.map((text) => new TextEncoder().encode(text)) : undefined;
  return {
    start: "root",
    of: new Map([["root", [[words ? oneOf(words) : wholePattern((format as { regex: string }).regex)]]]]),
  };
}

function wholePattern(pattern: string): Dfa {
  try {
    return compile(patternRe(pattern, { spell: raw, whole: true }));
  } catch (error) {
    if (!(error instanceof Unsupported || error instanceof TooLarge)) throw error;
    throw new MassifError("schema.pattern", {
      found: `the pattern cannot be enforced: ${error.message}`,
      cause: error,
    });
  }
}

function refuseEmpty(root: Node, costs: Costs, what: string): void {
  if (costs.get(root)! < Infinity) return;
  throw new MassifError("schema.empty", {
    found: `${what} allows no value`,
    expected: "a schema that some finite JSON satisfies",
  });
}

function ids(vocabulary: Vocabulary, names: readonly (string | number)[]): number[] {
  return names.map((name) => {
    const id = typeof name === "number" ? name : vocabulary.special?.get(name);
    if (id === undefined) {
      throw new MassifError("schema.control", {
        found: `the vocabulary has no control token “${name}”`,
        expected: "a tokenizer of K2's format",
      });
    }
    return id;
  });
}
