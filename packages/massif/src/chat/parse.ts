/**
 * The K2 chat format, tokens to events: what a model writes after `<|im_assistant|>assistant<|im_middle|>`, as a stream
 * (kimi-k2.md §7.11). One state machine for reasoning, text and tool calls. Its events, adjacent deltas merged, are the
 * same for every way of cutting the stream, and no marker ever stands in a text.
 *
 * Well-formed: [<think> reasoning </think>] text [section of calls] <|im_end|>. What is not is read so (codes in
 * events.ts; a problem event says it each time, so nothing is lost silently):
 * - A section begin ends reasoning; so does the end. `<think>` opens reasoning again after text.
 * - A call outside of a section opens one. A second section's calls count like the first's.
 * - A call ends at its end marker, at the next call, at the section's end, at the end. Cut within its arguments it is
 *   a call with the arguments so far; cut within its id it is none.
 * - Text in or after the section (but for white space) is set aside.
 * - Ids: only the first `functions.` and the last `:N` are taken off, for names with dots and dashes. Others are repaired.
 * - Arguments stand as written, to the character; empty ones are `{}`.
 * - Control tokens where none may stand are dropped; a header of another turn ends the message.
 */

import type { ChatTokenizer } from "./encode.ts";
import { addEvent, type ChatEvent, type FinishReason, type ProblemCode, readCallId } from "./events.ts";
import type { Marker } from "./markers.ts";
import { partialMarker, Scanner } from "./scan.ts";

export interface ParserOptions {
  /** With it, `push` takes token ids; without, text that spells the markers. */
  tokenizer?: ChatTokenizer;
  /** Whether spelled think tags count. Default true; false for the Instruct templates, whose models have none. */
  think?: boolean;
  /** Names of the declared tools: a call whose id is a bare counter can then only mean the single one. */
  tools?: readonly string[];
  /** Calls that the conversation has made before: where repaired ids count on from. Default 0. */
  callCount?: number;
}

type State = "text" | "reasoning" | "section" | "id" | "arguments" | "nameless" | "after" | "end";

/** Where a marker means what it says; anywhere else it is stray. */
const accepts: Record<Marker, readonly State[]> = {
  think: ["text"],
  thinkEnd: ["reasoning"],
  sectionBegin: ["text", "reasoning", "after"],
  sectionEnd: ["section", "id", "arguments", "nameless"],
  callBegin: ["text", "reasoning", "section", "id", "arguments", "nameless", "after"],
  argumentBegin: ["id"],
  callEnd: ["id", "arguments", "nameless"],
  end: ["text", "reasoning", "section", "id", "arguments", "nameless", "after", "end"],
  turn: ["text", "reasoning", "section", "id", "arguments", "nameless", "after"],
  stray: [],
};

const asideCode: Partial<Record<State, ProblemCode>> = {
  section: "text-in-section",
  after: "text-after-section",
  end: "text-after-end",
  nameless: "nameless-call",
};

/** One message's parser. Push what comes as it comes, then `end` once. */
export class ChatParser {
  readonly #options: ParserOptions;
  readonly #scanner: Scanner;
  #out: ChatEvent[] = [];
  #state: State = "text";
  /** Text so far of each kind: what is shown, the id or arguments of the call, what is set aside. */
  #written = { text: "", reasoning: "", id: "", arguments: "", aside: "" };
  /** A marker stood between the last text and the next. */
  #seam = false;
  #calls = 0;
  readonly #ids = new Set<string>();

  constructor(options: ParserOptions = {}) {
    this.#options = options;
    this.#scanner = new Scanner(options.tokenizer, options.think ?? true);
  }

  /** The events of what has come. Throws `chat.stream` for text instead of ids, or ids instead of text. */
  push(input: string | Iterable<number>): ChatEvent[] {
    return this.#take(this.#scanner.push(input));
  }

  /** The last events, `finish` the very last. `reason` is what the engine says; an end marker knows better, and without
   *  either a message that stops inside of something was cut ("length"). */
  end(reason?: FinishReason): ChatEvent[] {
    this.#out = this.#take(this.#scanner.end());
    const ended = this.#state === "end";
    const cut = !ended && this.#state !== "text" && this.#state !== "after";
    this.#close();
    const normal = this.#calls ? "tool_calls" : "stop";
    const said = reason === "length" ? "length" : reason && normal;
    addEvent(this.#out, { type: "finish", reason: ended ? normal : (said ?? (cut ? "length" : normal)) });
    return this.#out;
  }

  #take(pieces: Iterable<{ text?: string; marker?: Marker; name?: string }>): ChatEvent[] {
    this.#out = [];
    for (const { text, marker, name } of pieces) {
      if (marker) this.#marker(marker, name!);
      else if (text) this.#text(text);
    }
    return this.#out;
  }

  #problem(code: ProblemCode, text = ""): void {
    addEvent(this.#out, { type: "problem", code, text });
  }

  #text(text: string): void {
    const state = this.#state;
    const kind = asideCode[state] ? "aside" : (state as "text" | "reasoning" | "id" | "arguments");
    // Two halves of a spelled marker around a dropped one would make a whole: a blank parts them.
    if (this.#seam && partialMarker(this.#written[kind], this.#scanner.names)) text = ` ${text}`;
    this.#seam = false;
    this.#written[kind] += text;
    if (kind === "arguments") addEvent(this.#out, { type: "tool-call-delta", index: this.#calls - 1, arguments: text });
    else if (kind === "text" || kind === "reasoning") addEvent(this.#out, { type: kind, text });
  }

  #marker(marker: Marker, name: string): void {
    this.#seam = true;
    if (!accepts[marker].includes(this.#state)) {
      this.#problem("stray-marker", name.replace(/[<>|[\]]/g, ""));
      return;
    }
    switch (marker) {
      case "think":
        this.#state = "reasoning";
        return;
      case "thinkEnd":
        this.#state = "text";
        return;
      case "sectionBegin":
        if (this.#state === "after") {
          this.#setAside();
          this.#problem("section-repeated");
        }
        this.#state = "section";
        return;
      case "sectionEnd":
        this.#closeCall("call-unclosed");
        this.#setAside();
        this.#state = "after";
        return;
      case "callBegin":
        if (this.#state === "text" || this.#state === "reasoning" || this.#state === "after") {
          this.#setAside();
          this.#problem("section-missing");
        }
        this.#closeCall("call-unclosed");
        this.#setAside();
        this.#state = "id";
        return;
      case "argumentBegin":
        this.#beginCall();
        return;
      case "callEnd":
        this.#closeCall();
        this.#state = "section";
        return;
      case "turn":
        this.#close();
        this.#problem("turn-unclosed");
        return;
      case "end":
        if (this.#state !== "end") this.#close();
    }
  }

  /** Whether what was written names a function. */
  #beginCall(): boolean {
    const written = this.#written.id;
    const { tools = [], callCount = 0 } = this.#options;
    const call = readCallId(written, { taken: this.#ids, next: callCount + this.#calls, tools });
    Object.assign(this.#written, { id: "", arguments: "" });
    if (!call) {
      this.#written.aside = written;
      this.#state = "nameless";
      return false;
    }
    if (call.problem) this.#problem(call.problem, written);
    this.#ids.add(call.id);
    addEvent(this.#out, { type: "tool-call-begin", index: this.#calls++, id: call.id, name: call.name });
    this.#state = "arguments";
    return true;
  }

  /** Ends the open call, if one is; `unclosed` where its end marker is missing. */
  #closeCall(unclosed?: "call-unclosed"): void {
    if (this.#state === "id") {
      if (unclosed) {
        this.#problem(unclosed, this.#written.id);
        this.#written.id = "";
        this.#state = "section";
        return;
      }
      if (this.#beginCall()) this.#problem("arguments-missing");
    }
    if (asideCode[this.#state] === "nameless-call") this.#setAside();
    if ((this.#state as State) !== "arguments") return;
    if (unclosed) this.#problem(unclosed);
    else if (!this.#written.arguments.trim()) this.#text("{}");
    else if (!isJsonObject(this.#written.arguments)) this.#problem("arguments-invalid");
    addEvent(this.#out, { type: "tool-call-end", index: this.#calls - 1 });
    this.#state = "section";
  }

  /** Reports text that is shown nowhere; white space between markers is nothing. */
  #setAside(): void {
    const code = asideCode[this.#state];
    if (code && (this.#written.aside.trim() || this.#state === "nameless")) this.#problem(code, this.#written.aside);
    this.#written.aside = "";
    if (this.#state === "nameless") this.#state = "section";
  }

  #close(): void {
    this.#closeCall("call-unclosed");
    this.#setAside();
    if (this.#state === "section") this.#problem("section-unclosed");
    this.#state = "end";
  }
}

function isJsonObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

/** The events of a whole message at once, adjacent deltas merged. */
export function parse(
  input: string | Iterable<number>,
  options: ParserOptions = {},
  reason?: FinishReason,
): ChatEvent[] {
  const parser = new ChatParser(options);
  const events = parser.push(input);
  for (const event of parser.end(reason)) addEvent(events, event);
  return events;
}
