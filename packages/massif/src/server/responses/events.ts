/** A message's events as those of the Responses API, and the response as it stands after each. */
import type { ModelEvent, TokenInfo, Usage } from "../../llm/index.ts";
import { InputReader } from "../openai/custom-tools.ts";
import { type Item, responsesLogprobs, responsesUsage } from "./responses.ts";

type Wire = Record<string, unknown> & { type: string };
export type Status = "queued" | "in_progress" | "completed" | "incomplete" | "failed" | "cancelled";

interface ResponseHead {
  id: string;
  created: number;
  model: string;
  echo: Record<string, unknown>;
  newId: () => string;
  logprobs: boolean;
  /** Tools whose calls are told as text. */
  custom: ReadonlySet<string>;
}

interface Open {
  item: Record<string, unknown>;
  kind: "message" | "reasoning" | "function_call" | "custom_tool_call";
  input?: InputReader;
  text: string;
  tokens: TokenInfo[];
}

export class ResponseEvents {
  status: Status = "queued";
  readonly output: Record<string, unknown>[] = [];
  readonly #head: ResponseHead;
  #sequence = 0;
  #open: Open | undefined;
  #tokens: TokenInfo[] = [];
  #usage: Usage | undefined;
  #reason: string | undefined;
  #error: { code: string; message: string } | undefined;

  constructor(head: ResponseHead) {
    this.#head = head;
  }

  /** The response as it is now. */
  get response(): Record<string, unknown> {
    const { id, created, model, echo } = this.#head;
    const settled = this.status !== "queued" && this.status !== "in_progress";
    return {
      ...{ id, object: "response", created_at: created, status: this.status, model, ...echo },
      completed_at: this.status === "completed" ? created : null,
      error: this.#error ?? null,
      incomplete_details: this.#reason === undefined ? null : { reason: this.#reason },
      output: [...this.output],
      ...(settled && this.#usage && { usage: responsesUsage(this.#usage) }),
    };
  }

  /** What the next request stands on beside the input. */
  get items(): Item[] {
    return this.output as unknown as Item[];
  }

  *start(): Generator<Wire> {
    this.status = "in_progress";
    yield this.#event("response.created", { response: this.response });
    yield this.#event("response.in_progress", { response: this.response });
  }

  *push(event: ModelEvent): Generator<Wire> {
    switch (event.type) {
      case "tokens":
        if (this.#head.logprobs) this.#tokens.push(...event.tokens);
        break;
      case "reasoning":
        if (this.#open?.kind !== "reasoning") yield* this.#begin("reasoning", { summary: [], content: [] });
        this.#open!.text += event.text;
        this.#tokens = [];
        yield this.#delta("response.reasoning_text.delta", { content_index: 0, delta: event.text });
        break;
      case "text": {
        if (this.#open?.kind !== "message") yield* this.#begin("message", { role: "assistant", content: [] });
        this.#open!.text += event.text;
        const tokens = this.#tokens.splice(0);
        this.#open!.tokens.push(...tokens);
        const logprobs = responsesLogprobs(tokens);
        yield this.#delta("response.output_text.delta", { content_index: 0, delta: event.text, logprobs });
        break;
      }
      case "tool-call-begin":
        if (this.#head.custom.has(event.name)) {
          yield* this.#begin("custom_tool_call", { call_id: event.id, name: event.name, input: "" });
          this.#open!.input = new InputReader();
        } else yield* this.#begin("function_call", { call_id: event.id, name: event.name, arguments: "" });
        break;
      case "tool-call-delta":
        if (this.#open!.input) {
          const delta = this.#open!.input.push(event.arguments);
          this.#open!.text += delta;
          if (delta) yield this.#delta("response.custom_tool_call_input.delta", { delta });
          break;
        }
        this.#open!.text += event.arguments;
        yield this.#delta("response.function_call_arguments.delta", { delta: event.arguments });
        break;
      case "tool-call-end":
        yield* this.#end("completed");
        break;
      case "usage":
        this.#usage = event.usage;
        break;
      case "finish": {
        const cut = event.reason === "length" || event.reason === "content_filter";
        yield* this.#end(cut ? "incomplete" : "completed");
        this.status = cut ? "incomplete" : "completed";
        if (cut) this.#reason = event.reason === "length" ? "max_output_tokens" : "content_filter";
        yield this.#event(`response.${this.status}`, { response: this.response });
      }
    }
  }

  /** Ends it otherwise: an error, or somebody's wish. */
  *stop(status: "failed" | "cancelled", error?: { code: string; message: string }): Generator<Wire> {
    yield* this.#end("incomplete");
    this.status = status;
    this.#error = error;
    if (status === "failed") yield this.#event("response.failed", { response: this.response });
  }

  *#begin(kind: Open["kind"], fields: Record<string, unknown>): Generator<Wire> {
    yield* this.#end("completed");
    const prefix = { message: "msg", reasoning: "rs", function_call: "fc", custom_tool_call: "ctc" }[kind];
    const item = { id: `${prefix}_${this.#head.newId()}`, type: kind, status: "in_progress", ...fields };
    this.#open = { item, kind, text: "", tokens: [] };
    yield this.#event("response.output_item.added", { output_index: this.output.length, item });
    if (kind === "message")
      yield this.#delta("response.content_part.added", { content_index: 0, part: outputText("", []) });
    if (kind === "reasoning")
      yield this.#delta("response.content_part.added", {
        content_index: 0,
        part: { type: "reasoning_text", text: "" },
      });
  }

  *#end(status: "completed" | "incomplete"): Generator<Wire> {
    const open = this.#open;
    if (!open) return;
    const { kind, text, tokens } = open;
    const item: Record<string, unknown> = { ...open.item, status };
    if (kind === "function_call") {
      item.arguments = text;
      yield this.#delta("response.function_call_arguments.done", { arguments: text, name: item.name });
    } else if (kind === "custom_tool_call") {
      item.input = text;
      yield this.#delta("response.custom_tool_call_input.done", { input: text });
    } else {
      const part = kind === "message" ? outputText(text, tokens) : { type: "reasoning_text", text };
      const done = kind === "message" ? { text, logprobs: responsesLogprobs(tokens) } : { text };
      const name = kind === "message" ? "output_text" : "reasoning_text";
      yield this.#delta(`response.${name}.done`, { content_index: 0, ...done });
      yield this.#delta("response.content_part.done", { content_index: 0, part });
      item.content = [part];
    }
    yield this.#event("response.output_item.done", { output_index: this.output.length, item });
    this.output.push(item);
    this.#open = undefined;
  }

  #delta(type: string, fields: Record<string, unknown>): Wire {
    return this.#event(type, { item_id: this.#open!.item.id, output_index: this.output.length, ...fields });
  }

  #event(type: string, fields: Record<string, unknown>): Wire {
    return { type, sequence_number: this.#sequence++, ...fields };
  }
}

const outputText = (text: string, tokens: readonly TokenInfo[]) => ({
  ...{ type: "output_text", text, annotations: [] },
  logprobs: responsesLogprobs(tokens),
});
