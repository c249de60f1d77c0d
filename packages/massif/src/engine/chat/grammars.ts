/** The grammars that hold answers: of which request which, compiled once. */
import { callCount, controls, declaredTools } from "../../chat/index.ts";
import { compileAside, type Grammar, type Json, type TurnOptions, type Vocabulary } from "../../enforcer/index.ts";
import type { ChatRequest } from "../../llm/index.ts";

/** Compiled grammars remembered. */
const MOST = 64;

/** Whether a grammar holds the answer: where the request wants a format or leaves no choice about calls, and, if it is to
 *  (`ifAuto`), where the model may call or not. */
export function isEnforced(request: ChatRequest, ifAuto: boolean): boolean {
  const { toolChoice = "auto", responseFormat } = request;
  const some = declaredTools(request).length > 0;
  if (responseFormat && responseFormat.type !== "text") return true;
  if (toolChoice === "auto") return some && ifAuto;
  return some || toolChoice !== "none";
}

export class Grammars {
  readonly #vocabulary: Vocabulary;
  readonly #compiled = new Map<string, Grammar>();

  constructor(vocabulary: Vocabulary) {
    this.#vocabulary = vocabulary;
  }

  /** For an answer that begins inside of its reasoning or behind it. Throws `schema.*`. */
  async of(request: ChatRequest, reasoning: boolean): Promise<Grammar> {
    const { toolChoice, parallelToolCalls = true, responseFormat, messages, sampling } = request;
    const options: TurnOptions = {
      tools: declaredTools(request).flatMap(({ function: fn }) =>
        fn ? [{ name: fn.name, ...(fn.parameters != null && { parameters: fn.parameters as Json }) }] : [],
      ),
      ...(toolChoice !== undefined && { toolChoice }),
      parallel: parallelToolCalls,
      firstIndex: callCount(messages),
      reasoning,
      format: formatOf(responseFormat),
      end: sampling?.ignoreEnd ? [] : [controls.end],
    };
    const key = JSON.stringify(options);
    const grammar = this.#compiled.get(key) ?? (await compileAside(this.#vocabulary, options));
    // The latest used stand last, so the first is the one to forget.
    this.#compiled.delete(key);
    this.#compiled.set(key, grammar);
    if (this.#compiled.size > MOST) this.#compiled.delete(this.#compiled.keys().next().value!);
    return grammar;
  }
}

function formatOf(format: ChatRequest["responseFormat"]): NonNullable<TurnOptions["format"]> {
  switch (format?.type) {
    case "json_schema":
      return { schema: format.schema as Json };
    case "regex":
      return { regex: format.pattern };
    case "choice":
      return { choice: format.choices };
    case "grammar":
      return { grammar: format.grammar };
    default:
      return format?.type ?? "text";
  }
}
