/** Tool-call ids. K2 reads the name of a function from `functions.NAME:IDX` alone, and only there; IDX counts all calls
 *  of a conversation from 0. Ids of other systems in a history provoke malformed calls (K2-Vendor-Verifier). */
import type { Message, ToolCall } from "./types.ts";

/** K2's id of the `index`-th call (from 0) of a conversation. */
export const nativeId = (name: string, index: number): string => `functions.${name}:${index}`;

/** Name and index of a native id. Names may hold dots, dashes and colons: only the first `functions.` and the last
 *  `:N` are taken off. */
export function readNativeId(id: string): { name: string; index: number } | undefined {
  const parts = /^functions\.(.+):(\d+)$/s.exec(id);
  return parts ? { name: parts[1]!, index: Number(parts[2]) } : undefined;
}

/** How many calls a conversation has made: the index of the next. */
export const callCount = (messages: readonly Message[]): number =>
  messages.reduce((n, message) => n + (message.role === "assistant" ? (message.tool_calls?.length ?? 0) : 0), 0);

/**
 * The same conversation with K2's ids throughout. A native id that fits its function stays (the model wrote it, and the
 * prompt must stay what it was); any other becomes `functions.NAME:IDX` with the running index, or the next free one. A
 * result follows its call: that of the latest turn that used the id, in order where one turn used it twice, the next
 * unanswered call where it has no id. A result without a call keeps a native id, else gets one by its own name.
 * What a message becomes depends on the messages before it alone, so prompts grow at their end only.
 */
export function rewriteIds(messages: readonly Message[]): Message[] {
  const taken = new Set<string>();
  const open = new Map<string, string[]>();
  let unanswered: string[] = [];
  let count = 0;

  const rename = (call: ToolCall): ToolCall => {
    const { name } = call.function;
    let id = call.id ?? "";
    if (readNativeId(id)?.name !== name || taken.has(id)) {
      let index = count;
      while (taken.has(nativeId(name, index))) index++;
      id = nativeId(name, index);
    }
    taken.add(id);
    count++;
    return { ...call, id };
  };
  const answer = (old: string | undefined, name: string | undefined): string => {
    const same = old === undefined ? unanswered : (open.get(old) ?? []);
    const id = same.find((id) => unanswered.includes(id)) ?? same.at(-1);
    if (id !== undefined) {
      unanswered = unanswered.filter((other) => other !== id);
      return id;
    }
    return old !== undefined && readNativeId(old) ? old : nativeId(name || "unknown", count);
  };

  return messages.map((message) => {
    if (message.role === "tool") return { ...message, tool_call_id: answer(message.tool_call_id, message.name) };
    if (message.role !== "assistant" || !message.tool_calls) return message;
    const calls = message.tool_calls.map(rename);
    const ids = Map.groupBy(calls, (_, i) => message.tool_calls![i]!.id ?? "");
    for (const [old, renamed] of ids) {
      open.set(
        old,
        renamed.map((call) => call.id!),
      );
    }
    unanswered.push(...calls.map((call) => call.id!));
    return { ...message, tool_calls: calls };
  });
}
