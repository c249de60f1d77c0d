/** A model whose tool calls are checked against their schemas, and mended by asking once more under a constraint: what
 *  separated K2's own service from engines without an enforcer (kimi-k2.md §7.13). */
import { type ChatRequest, complete, type LanguageModel, type ModelEvent, type Usage } from "../llm/index.ts";
import { Validator } from "./validate.ts";

export type CallOutcome = "valid" | "repaired" | "invalid";

export interface VerifiedOptions {
  /** `count` passes calls on as they come; `repair` holds each back until it is known to be right. */
  mode: "count" | "repair";
  onCall?: (outcome: CallOutcome) => void;
}

interface Call {
  index: number;
  id: string;
  name: string;
  args: string;
}

export class VerifiedModel implements LanguageModel {
  readonly name: string;
  readonly #model: LanguageModel;
  readonly #options: VerifiedOptions;
  readonly #validator = new Validator();

  constructor(model: LanguageModel, options: VerifiedOptions) {
    this.name = model.name;
    this.#model = model;
    this.#options = options;
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { mode, onCall } = this.#options;
    const tools = request.tools ?? [];
    let call: Call | undefined;
    /** Wrong, or only cut short: what comes next tells. */
    let broken: Call | undefined;
    let usage: Usage | undefined;
    /** What mending cost. */
    const more: Usage[] = [];
    for await (const event of this.#model.stream(request)) {
      if (event.type === "usage") {
        usage = event.usage;
        continue;
      }
      if (broken && (event.type === "tool-call-begin" || event.type === "finish")) {
        const short = event.type === "finish" && event.reason === "length";
        const mended = short || mode === "count" ? undefined : await this.#mend(request, broken);
        onCall?.(mended ? "repaired" : "invalid");
        if (mode === "repair") yield* told(mended?.call ?? broken, mended ? undefined : "arguments-invalid");
        if (mended?.usage) more.push(mended.usage);
        broken = undefined;
      }
      if (event.type === "finish" && usage) yield { type: "usage", usage: more.reduce(sum, usage) };
      if (event.type === "tool-call-begin") call = { index: event.index, id: event.id, name: event.name, args: "" };
      else if (event.type === "tool-call-delta" && call) call.args += event.arguments;
      else if (event.type === "tool-call-end" && call) {
        const right = this.#validator.check(tools, call.name, call.args) === undefined;
        if (right) onCall?.("valid");
        else broken = call;
        if (right && mode === "repair") yield* told(call);
        call = undefined;
        if (mode === "repair") continue;
      }
      // Held back until it is known to be right; the upstream's own complaint of it too.
      if (mode === "repair" && (call || (event.type === "problem" && event.code === "arguments-invalid"))) continue;
      yield event;
    }
  }

  /** The call again, of that tool alone, which makes engines constrain it (vLLM and SGLang: a named choice is decoded under
   *  the tool's schema). Undefined where that is wrong too, or fails. */
  async #mend(request: ChatRequest, { index, id, name }: Call): Promise<{ call: Call; usage?: Usage } | undefined> {
    const tools = request.tools ?? [];
    const declared = tools.some((tool) => tool.function?.name === name);
    if (!tools.length) return undefined;
    const { logprobs: _, tokenIds: __, ...rest } = request;
    try {
      const { message, usage } = await complete(this.#model, {
        ...rest,
        toolChoice: declared ? { name } : "required",
        parallelToolCalls: false,
      });
      const [again] = message.tool_calls ?? [];
      const args = typeof again?.function.arguments === "string" ? again.function.arguments : "";
      if (!again || this.#validator.check(tools, again.function.name, args) !== undefined) return undefined;
      const same = again.function.name === name;
      const call = { index, id: same ? id : (again.id ?? id), name: again.function.name, args };
      return { call, ...(usage && { usage }) };
    } catch (error) {
      if (request.signal?.aborted) throw error;
      return undefined;
    }
  }
}

function* told({ index, id, name, args }: Call, problem?: "arguments-invalid"): Generator<ModelEvent> {
  yield { type: "tool-call-begin", index, id, name };
  if (args) yield { type: "tool-call-delta", index, arguments: args };
  if (problem) yield { type: "problem", code: problem, text: "" };
  yield { type: "tool-call-end", index };
}

const sum = (a: Usage, b: Usage): Usage => ({
  ...a,
  promptTokens: a.promptTokens + b.promptTokens,
  completionTokens: a.completionTokens + b.completionTokens,
});
