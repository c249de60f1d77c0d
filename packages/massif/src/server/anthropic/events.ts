/** A message's events as Anthropic's, and the message that they make (serving-and-agent.md §4.3–4.5). */
import { createHmac } from "node:crypto";
import type { Finish, Usage } from "../../llm/index.ts";
import type { Tagged } from "../service.ts";

export const sign = (secret: string, thinking: string): string =>
  createHmac("sha256", secret).update(thinking).digest("base64");

/** Prompt tokens are told in three parts that add up. */
function anthropicUsage({ promptTokens, completionTokens, cachedTokens = 0 }: Usage): Record<string, number> {
  return {
    input_tokens: promptTokens - cachedTokens,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: cachedTokens,
    output_tokens: completionTokens,
  };
}

function stopReason(reason: Finish, stop: string | number | undefined): string {
  if (reason === "content_filter") return "refusal";
  if (reason === "length") return "max_tokens";
  if (reason === "tool_calls") return "tool_use";
  return stop === undefined ? "end_turn" : "stop_sequence";
}

type Wire = Record<string, unknown>;
const ZERO: Usage = { promptTokens: 0, completionTokens: 0 };

/** Events to Anthropic's. Indices go up by one from block to block, and blocks never overlap. */
export class MessageEvents {
  readonly #options: { id: string; model: string; secret: string; thinking: boolean; promptTokens: number };
  #index = -1;
  #open: "text" | "thinking" | "tool_use" | undefined;
  #thought = "";
  #usage = ZERO;

  /** `promptTokens` is what is known before the model answers; the last event tells what was counted. */
  constructor(options: { id: string; model: string; secret: string; thinking: boolean; promptTokens: number }) {
    this.#options = options;
  }

  start(): Wire {
    const { id, model, promptTokens } = this.#options;
    const usage = anthropicUsage({ promptTokens, completionTokens: 0 });
    const message = { id, type: "message", role: "assistant", model, content: [], stop_reason: null };
    return { type: "message_start", message: { ...message, stop_sequence: null, usage } };
  }

  *push({ event }: Tagged): Generator<Wire> {
    switch (event.type) {
      case "text":
        if (this.#open !== "text") yield* this.#begin("text", { type: "text", text: "" });
        yield this.#delta({ type: "text_delta", text: event.text });
        break;
      case "reasoning":
        if (!this.#options.thinking) break;
        if (this.#open !== "thinking")
          yield* this.#begin("thinking", { type: "thinking", thinking: "", signature: "" });
        this.#thought += event.text;
        yield this.#delta({ type: "thinking_delta", thinking: event.text });
        break;
      case "tool-call-begin":
        yield* this.#begin("tool_use", { type: "tool_use", id: event.id, name: event.name, input: {} });
        break;
      case "tool-call-delta":
        yield this.#delta({ type: "input_json_delta", partial_json: event.arguments });
        break;
      case "tool-call-end":
        yield* this.#end();
        break;
      case "usage":
        this.#usage = event.usage;
        break;
      case "finish": {
        yield* this.#end();
        const delta = {
          stop_reason: stopReason(event.reason, event.stop),
          stop_sequence: event.reason === "stop" && event.stop !== undefined ? String(event.stop) : null,
        };
        yield { type: "message_delta", delta, usage: anthropicUsage(this.#usage) };
        yield { type: "message_stop" };
      }
    }
  }

  *#begin(kind: "text" | "thinking" | "tool_use", content_block: Wire): Generator<Wire> {
    yield* this.#end();
    this.#open = kind;
    yield { type: "content_block_start", index: ++this.#index, content_block };
  }

  #delta(delta: Wire): Wire {
    return { type: "content_block_delta", index: this.#index, delta };
  }

  *#end(): Generator<Wire> {
    if (!this.#open) return;
    if (this.#open === "thinking") {
      yield this.#delta({ type: "signature_delta", signature: sign(this.#options.secret, this.#thought) });
      this.#thought = "";
    }
    this.#open = undefined;
    yield { type: "content_block_stop", index: this.#index };
  }
}

/** The message that the events make: what a client assembles, so that streamed and whole answers are one. */
export function anthropicMessage(events: Iterable<Wire>): Wire {
  let message: Wire = {};
  const content: Wire[] = [];
  let json = "";
  for (const event of events) {
    if (event.type === "message_start") message = { ...(event.message as Wire) };
    else if (event.type === "content_block_start") {
      content.push({ ...(event.content_block as Wire) });
      json = "";
    } else if (event.type === "content_block_delta") {
      const block = content.at(-1)!;
      const delta = event.delta as Record<string, string>;
      if (delta.type === "text_delta") block.text = `${block.text}${delta.text}`;
      else if (delta.type === "thinking_delta") block.thinking = `${block.thinking}${delta.thinking}`;
      else if (delta.type === "signature_delta") block.signature = delta.signature;
      else json += delta.partial_json;
    } else if (event.type === "content_block_stop") {
      const block = content.at(-1)!;
      if (block.type === "tool_use") block.input = inputOf(json);
    } else if (event.type === "message_delta") message = { ...message, ...(event.delta as Wire), usage: event.usage };
  }
  return { ...message, content };
}

/** The protocol wants an object where the model's text may be none: then the text is its only member. */
function inputOf(json: string): unknown {
  try {
    const value: unknown = JSON.parse(json || "{}");
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  } catch {
    // Not JSON: told below as it stands.
  }
  return { _raw: json };
}
