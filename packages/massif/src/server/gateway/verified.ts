/** A model whose tool calls are checked against their schemas, and mended by asking once more under a constraint: what
 *  separated K2's own service from engines without an enforcer (kimi-k2.md §7.13). */
import { callCount, nativeId } from "../../chat/index.ts";
import { type ChatRequest, complete, type LanguageModel, type ModelEvent, type Usage } from "../../llm/index.ts";
import { Validator } from "../validate.ts";
import { addUsage, writeCall } from "./written-call.ts";

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

interface Mended {
  call: Call;
  usage?: Usage;
  /** Its arguments end where the limit of tokens was. */
  short?: boolean;
}

export class VerifiedModel implements LanguageModel {
  readonly name: string;
  readonly #model: LanguageModel;
  readonly #options: VerifiedOptions;
  readonly #validator = new Validator();
  /** It has answered a forced choice with text: from then on such calls are asked for as JSON at once. */
  #deaf = false;

  constructor(model: LanguageModel, options: VerifiedOptions) {
    this.name = model.name;
    this.#model = model;
    this.#options = options;
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { mode, onCall } = this.#options;
    const tools = request.tools ?? [];
    /** Text of a forced call: told only where a call comes with it, or none can be had. */
    let held: ModelEvent[] | undefined = mode === "repair" && isForced(request) ? [] : undefined;
    if (held && this.#deaf) {
      const mended = await this.#write(request);
      if (mended) {
        onCall?.(mended.short ? "invalid" : "repaired");
        return yield* onlyCall(mended, mended.usage);
      }
    }
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
      if (held && event.type === "finish" && event.reason !== "content_filter") {
        const mended = await this.#write(request);
        onCall?.(mended && !mended.short ? "repaired" : "invalid");
        if (mended) {
          this.#deaf = true;
          return yield* onlyCall(mended, usage && mended.usage ? addUsage(usage, mended.usage) : usage);
        }
      }
      if (held && (event.type === "tool-call-begin" || event.type === "finish")) {
        yield* held;
        held = undefined;
      } else if (held && (event.type === "text" || event.type === "tokens")) {
        held.push(event);
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
      if (event.type === "finish" && usage) yield { type: "usage", usage: more.reduce(addUsage, usage) };
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
   *  the tool's schema); from one that does not listen to choices, as JSON. Undefined where that is wrong too, or fails. */
  async #mend(request: ChatRequest, { index, id, name }: Call): Promise<Mended | undefined> {
    const tools = request.tools ?? [];
    const declared = tools.some((tool) => tool.function?.name === name);
    if (!tools.length) return undefined;
    const { logprobs: _, tokenIds: __, ...rest } = request;
    const toolChoice = declared ? { name } : ("required" as const);
    const again = { ...rest, toolChoice, parallelToolCalls: false };
    const same = (call: Call): Call => ({ ...call, index, id: call.name === name ? id : call.id });
    try {
      if (!this.#deaf) {
        const { message, usage } = await complete(this.#model, again);
        const [call] = message.tool_calls ?? [];
        const args = typeof call?.function.arguments === "string" ? call.function.arguments : "";
        if (call && this.#validator.check(tools, call.function.name, args) === undefined) {
          const mended = same({ index, id: call.id ?? id, name: call.function.name, args });
          return { call: mended, ...(usage && { usage }) };
        }
        this.#deaf = !call;
      }
    } catch (error) {
      if (request.signal?.aborted) throw error;
      // It may refuse the choice, and still write JSON.
    }
    const written = await this.#write(again);
    return written?.short ? undefined : written && { ...written, call: same(written.call) };
  }

  /** The forced call as JSON. Undefined where that does not fit, or fails. */
  async #write(request: ChatRequest): Promise<Mended | undefined> {
    const { toolChoice, tools = [], messages } = request;
    try {
      const written = await writeCall(
        this.#model,
        request,
        typeof toolChoice === "object" ? toolChoice.name : undefined,
      );
      if (!written) return undefined;
      const { name, args, usage, finish } = written;
      const short = finish === "length";
      if (!short && this.#validator.check(tools, name, args) !== undefined) return undefined;
      return { call: { index: 0, id: nativeId(name, callCount(messages)), name, args }, usage, short };
    } catch (error) {
      if (request.signal?.aborted) throw error;
      return undefined;
    }
  }
}

const isForced = ({ toolChoice, tools }: ChatRequest): boolean =>
  !!tools?.length && (toolChoice === "required" || typeof toolChoice === "object");

function* onlyCall({ call, short = false }: Mended, usage: Usage | undefined): Generator<ModelEvent> {
  yield* told(call, short ? "arguments-invalid" : undefined);
  if (usage) yield { type: "usage", usage };
  yield { type: "finish", reason: short ? "length" : "tool_calls" };
}

function* told({ index, id, name, args }: Call, problem?: "arguments-invalid"): Generator<ModelEvent> {
  yield { type: "tool-call-begin", index, id, name };
  if (args) yield { type: "tool-call-delta", index, arguments: args };
  if (problem) yield { type: "problem", code: problem, text: "" };
  yield { type: "tool-call-end", index };
}
