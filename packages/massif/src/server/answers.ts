/** Several answers to one request: a stream of the model each, their events as they come, one usage. */
import type { ModelEvent, Trace, Usage } from "../llm/index.ts";
import type { Backend } from "./backend.ts";
import { type Explanation, traced } from "./explain.ts";
import type { Call, Caller } from "./service.ts";

/** `n` answers are `n` requests, each with its own seed. */
export function streams(
  { model }: Backend,
  { chat, n }: Call,
  { key }: Caller,
  signal: AbortSignal,
  explanation: Explanation | undefined,
): AsyncIterable<ModelEvent>[] {
  // The engine lets users take turns.
  const metadata = { ...chat.metadata, ...(key && { user: key.name }) };
  return Array.from({ length: n }, (_, i) => {
    const seed = chat.sampling?.seed;
    const sampling = seed === undefined || !i ? chat.sampling : { ...chat.sampling, seed: seed + i };
    const onTrace = (trace: Trace) => {
      (explanation!.engine ??= []).push(traced(i, trace));
    };
    const more = { metadata, signal, ...(explanation && { onTrace }) };
    return model.stream({ ...chat, ...(sampling && { sampling }), ...more });
  });
}

/** Events of several streams in the order in which they come. */
export async function* merge<E>(
  streams: readonly AsyncIterable<E>[],
): AsyncGenerator<{ choice: number; event: E }, void, undefined> {
  if (streams.length === 1) {
    for await (const event of streams[0]!) yield { choice: 0, event };
    return;
  }
  const iterators = streams.map((stream) => stream[Symbol.asyncIterator]());
  const ask = (choice: number) => iterators[choice]!.next().then((next) => ({ choice, next }));
  const pending = new Map(iterators.map((_, choice) => [choice, ask(choice)]));
  try {
    while (pending.size) {
      const { choice, next } = await Promise.race(pending.values());
      if (next.done) pending.delete(choice);
      else {
        yield { choice, event: next.value };
        pending.set(choice, ask(choice));
      }
    }
  } finally {
    // The caller's signal has fired or fires now; whatever the others still say is nobody's.
    for (const rest of pending.values()) rest.catch(() => undefined);
    for (const choice of pending.keys()) void iterators[choice]!.return?.().catch(() => undefined);
  }
}

/** Of several answers to one prompt: it counts once. */
export function totalUsage(usages: readonly (Usage | undefined)[]): Usage {
  const total: Usage = { promptTokens: 0, completionTokens: 0 };
  for (const usage of usages) {
    if (!usage) continue;
    total.promptTokens = Math.max(total.promptTokens, usage.promptTokens);
    total.completionTokens += usage.completionTokens;
    if (usage.cachedTokens !== undefined) total.cachedTokens = Math.max(total.cachedTokens ?? 0, usage.cachedTokens);
    if (usage.reasoningTokens !== undefined)
      total.reasoningTokens = (total.reasoningTokens ?? 0) + usage.reasoningTokens;
  }
  return total;
}
