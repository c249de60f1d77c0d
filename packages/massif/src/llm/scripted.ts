/** A model that says what a script says: deterministic, streamed in pieces of any size. */
import {
  addEvent,
  type ChatEvent,
  ChatParser,
  type ChatTokenizer,
  callCount,
  nativeId,
  textOf,
} from "../chat/index.ts";
import { type Clock, sleep, systemClock } from "./clock.ts";
import { aborted, LlmError } from "./errors.ts";
import type { Finish, LanguageModel, ModelEvent, Usage } from "./model.ts";
import type { ChatRequest } from "./request.ts";

/** One answer: its parts in the order in which a model says them, or what a model writes in K2's format. */
export interface Turn {
  reasoning?: string;
  text?: string;
  /** Ids are left out for K2's own; arguments may be an object, or text that is no JSON. */
  calls?: readonly { name: string; arguments?: string | object; id?: string }[];
  /** In place of the three above: K2's format, as text that spells the markers or (with the script's tokenizer) as ids. */
  tokens?: string | readonly number[];
  finish?: Finish;
  /** Default: a quarter of the bytes of what was asked and said. */
  usage?: Usage;
  /** Milliseconds before the first event, and before each other. */
  delay?: number;
  pause?: number;
  /** Thrown after all the events but usage and finish. */
  error?: Error;
}

export type Script = readonly Turn[] | ((request: ChatRequest, index: number) => Turn | Promise<Turn>);

export interface ScriptOptions {
  name?: string;
  /** Characters (or ids) a piece, or a function that tells the next piece's. Default 4. */
  cut?: number | (() => number);
  tokenizer?: ChatTokenizer;
  clock?: Clock;
}

export class ScriptedModel implements LanguageModel {
  readonly name: string;
  /** What was asked so far. */
  readonly requests: ChatRequest[] = [];
  readonly #script: Script;
  readonly #options: ScriptOptions;

  constructor(script: Script, options: ScriptOptions = {}) {
    this.#script = script;
    this.#options = options;
    this.name = options.name ?? "scripted";
  }

  /** The next turn of the script. Throws `llm.script` after the last, the turn's error, and `llm.aborted`. */
  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { clock = systemClock } = this.#options;
    const { signal } = request;
    const index = this.requests.push(request) - 1;
    const turn = typeof this.#script === "function" ? await this.#script(request, index) : this.#script[index];
    if (!turn) {
      throw new LlmError("llm.script", {
        found: `request ${index + 1} to ${this.name}, whose script has ${this.#script.length} turns`,
        fix: "give the script another turn, or make it a function of the request",
      });
    }
    const events = [...this.#events(turn, request)];
    const said = events.filter((event) => event.type !== "usage" && event.type !== "finish");
    for (const [i, event] of (turn.error ? said : events).entries()) {
      const wait = i ? turn.pause : turn.delay;
      if (wait) await sleep(wait, clock, signal);
      if (signal?.aborted) throw aborted(signal);
      yield event;
    }
    if (turn.error) throw turn.error;
  }

  *#events(turn: Turn, request: ChatRequest): Generator<ModelEvent> {
    const events: ChatEvent[] = [];
    for (const event of turn.tokens === undefined ? this.#parts(turn, request) : this.#parsed(turn, request)) {
      if (event.type !== "finish") yield event;
      addEvent(events, event);
    }
    yield { type: "usage", usage: turn.usage ?? estimateUsage(request, events) };
    const [last] = events.slice(-1);
    const called = events.some(({ type }) => type === "tool-call-begin");
    const reason = last?.type === "finish" ? last.reason : called ? "tool_calls" : "stop";
    yield { type: "finish", reason: turn.finish ?? reason };
  }

  *#parts({ reasoning = "", text = "", calls = [] }: Turn, request: ChatRequest): Generator<ChatEvent> {
    for (const piece of this.#pieces([...reasoning])) yield { type: "reasoning", text: piece.join("") };
    for (const piece of this.#pieces([...text])) yield { type: "text", text: piece.join("") };
    const before = callCount(request.messages);
    for (const [index, { name, id, arguments: args = {} }] of calls.entries()) {
      const written = typeof args === "string" ? args : JSON.stringify(args);
      yield { type: "tool-call-begin", index, name, id: id ?? nativeId(name, before + index) };
      for (const piece of this.#pieces([...written]))
        yield { type: "tool-call-delta", index, arguments: piece.join("") };
      yield { type: "tool-call-end", index };
    }
  }

  *#parsed({ tokens = "" }: Turn, request: ChatRequest): Generator<ChatEvent> {
    const { tokenizer } = this.#options;
    const tools = (request.tools ?? []).flatMap((tool) => tool.function?.name ?? []);
    const options = { tools, callCount: callCount(request.messages) };
    const parser = new ChatParser(typeof tokens === "string" || !tokenizer ? options : { ...options, tokenizer });
    const pieces =
      typeof tokens === "string" ? [...this.#pieces([...tokens])].map((piece) => piece.join("")) : this.#pieces(tokens);
    for (const piece of pieces) yield* parser.push(piece);
    yield* parser.end();
  }

  *#pieces<T>(items: readonly T[]): Generator<T[]> {
    const { cut = 4 } = this.#options;
    for (let from = 0; from < items.length; ) {
      const length = Math.max(1, typeof cut === "number" ? cut : cut());
      yield items.slice(from, (from += length));
    }
  }
}

/** Four bytes a token: what English and code come to, where nobody counts. */
export function estimateUsage(request: ChatRequest, said: Iterable<ChatEvent | ModelEvent>): Usage {
  const tokens = (text: string) => Math.ceil(Buffer.byteLength(text) / 4);
  const asked = request.messages.map((message) => {
    const calls = message.role === "assistant" && message.tool_calls ? JSON.stringify(message.tool_calls) : "";
    const reasoning = message.role === "assistant" ? (message.reasoning_content ?? "") : "";
    return textOf(message.content) + reasoning + calls;
  });
  if (request.tools?.length) asked.push(JSON.stringify(request.tools));
  let [written, reasoning] = ["", ""];
  for (const event of said) {
    if (event.type === "text") written += event.text;
    else if (event.type === "reasoning") reasoning += event.text;
    else if (event.type === "tool-call-begin") written += event.id;
    else if (event.type === "tool-call-delta") written += event.arguments;
  }
  return { promptTokens: tokens(asked.join("")), completionTokens: tokens(reasoning) + tokens(written) };
}
