/** What an assistant message is, piece by piece: the events of one message, and the message they make. */
import { nativeId } from "./ids.ts";
import type { AssistantMessage, ToolCall } from "./types.ts";

export type FinishReason = "stop" | "tool_calls" | "length";

/** What was amiss in a message, and what became of it. */
export const problemCodes = [
  /** A control token where none may stand; it was dropped. `text` is its name without brackets. */
  "stray-marker",
  /** Text between calls, after the section, or after the end of the message: set aside, as the vendor's reader does. */
  "text-in-section",
  "text-after-section",
  "text-after-end",
  /** A call outside of a section, or a second section; its calls count. */
  "section-missing",
  "section-repeated",
  /** The end came without the section's end marker. */
  "section-unclosed",
  /** A call without its end marker. `text` is what there was of its id if its arguments had not begun (then it is no
   *  call); otherwise the call stands with the arguments so far. */
  "call-unclosed",
  /** An id not of the form `functions.NAME:IDX` (`text`); the call has a repaired one. */
  "bad-id",
  /** An id that an earlier call of the message has; this call has the next free one. */
  "repeated-id",
  /** A call that names no function (`text` is id and arguments): no call. */
  "nameless-call",
  /** No argument marker; the arguments are `{}`. */
  "arguments-missing",
  /** Arguments that are not a JSON object; they stand as written. */
  "arguments-invalid",
  /** Another turn begins before this one has ended; it ends here. */
  "turn-unclosed",
] as const;
export type ProblemCode = (typeof problemCodes)[number];

export type ChatEvent =
  | { type: "reasoning"; text: string }
  | { type: "text"; text: string }
  | { type: "tool-call-begin"; index: number; id: string; name: string }
  | { type: "tool-call-delta"; index: number; arguments: string }
  | { type: "tool-call-end"; index: number }
  | { type: "problem"; code: ProblemCode; text: string }
  | { type: "finish"; reason: FinishReason };

/** Adds an event to a list, into the last one where both are parts of the same text. */
export function addEvent(events: ChatEvent[], event: ChatEvent): void {
  const last = events.at(-1);
  if ((event.type === "text" || event.type === "reasoning") && last?.type === event.type) {
    events[events.length - 1] = { ...last, text: last.text + event.text };
  } else if (event.type === "tool-call-delta" && last?.type === event.type && last.index === event.index) {
    events[events.length - 1] = { ...last, arguments: last.arguments + event.arguments };
  } else events.push(event);
}

/** The same events with adjacent deltas joined: what stays the same for every way of cutting a stream. */
export function mergeEvents(events: Iterable<ChatEvent>): ChatEvent[] {
  const merged: ChatEvent[] = [];
  for (const event of events) addEvent(merged, event);
  return merged;
}

export interface Assembled {
  message: AssistantMessage;
  /** Undefined while the message is not finished. */
  finish: FinishReason | undefined;
  problems: { code: ProblemCode; text: string }[];
}

/** The message that events make: `content` is "" where there is no text; `reasoning_content` and `tool_calls` stand only
 *  where there are some, `arguments` as the model wrote them. */
export function assemble(events: Iterable<ChatEvent>): Assembled {
  let [content, reasoning] = ["", ""];
  let finish: FinishReason | undefined;
  const calls: (ToolCall & { function: { arguments: string } })[] = [];
  const problems: Assembled["problems"] = [];
  for (const event of events) {
    if (event.type === "text") content += event.text;
    else if (event.type === "reasoning") reasoning += event.text;
    else if (event.type === "tool-call-begin")
      calls[event.index] = { id: event.id, type: "function", function: { name: event.name, arguments: "" } };
    else if (event.type === "tool-call-delta") calls[event.index]!.function.arguments += event.arguments;
    else if (event.type === "problem") problems.push({ code: event.code, text: event.text });
    else if (event.type === "finish") finish = event.reason;
  }
  const message: AssistantMessage = { role: "assistant", content };
  if (reasoning) message.reasoning_content = reasoning;
  if (calls.length) message.tool_calls = calls;
  return { message, finish, problems };
}

/** The id and name of a call from what the model wrote, and what was wrong with it; undefined where it names nothing.
 *  `taken` are the ids of the message so far, `next` the index that the next call of the conversation has. */
export function readCallId(
  written: string,
  { taken, next, tools }: { taken: ReadonlySet<string>; next: number; tools: readonly string[] },
): { id: string; name: string; problem?: "bad-id" | "repeated-id" } | undefined {
  const id = written.trim();
  const [, prefix, body, index] = /^(functions\.)?(.*?)(:\d+)?$/s.exec(id)!;
  // Some engines' models write the counter alone: then only a single declared tool can be meant.
  const name = body && !(!prefix && !index && /^\d+$/.test(body)) ? body : tools.length === 1 ? tools[0]! : "";
  if (!name) return undefined;
  const native = prefix && body && index;
  if (native && !taken.has(id)) return { id, name };
  let n = next;
  while (taken.has(nativeId(name, n))) n++;
  return { id: nativeId(name, n), name, problem: native ? "repeated-id" : "bad-id" };
}
