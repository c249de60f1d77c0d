/** What `explain` tells with an answer: the prompt as the model got it, and what became of the request. */
import type { Trace } from "../llm/index.ts";
import { ApiError } from "./errors.ts";
import type { App } from "./http.ts";
import type { Call } from "./service.ts";

export interface Explanation {
  model: string;
  prompt?: string;
  prompt_ids?: number[];
  request: unknown;
  queue_ms: number;
  first_event_ms?: number;
  total_ms?: number;
  cached_tokens?: number;
  weight_version?: number;
  /** Of each answer, from our own engine: its queue (milliseconds since it came there), cache and masks. */
  engine?: Record<string, unknown>[];
  problems: { choice: number; code: string; text: string }[];
}

/** The beginning of it, where a call asks for it; the rest is filled in on the way. Throws 400 on a server that was not
 *  started with --debug. */
export function explanationOf(call: Call, { debug, service }: App): Explanation | undefined {
  if (!call.explain) return undefined;
  if (!debug) throw new ApiError(400, "explain: only on a server that was started with --debug", { param: "explain" });
  const backend = service.backend(call.model);
  const { signal: _, messages: __, tools: ___, ...request } = call.chat;
  const prompt = backend.prompt?.(call.chat);
  return {
    model: backend.model.name,
    ...(prompt && { prompt: prompt.rendered, prompt_ids: prompt.ids }),
    request,
    queue_ms: 0,
    ...(backend.control && { weight_version: backend.control.version }),
    problems: [],
  };
}

/** What our own engine tells of an answer. */
export function traced(choice: number, trace: Trace): Record<string, unknown> {
  const { admitted, firstToken, finished, preemptions, blocksFound, masks } = trace;
  const { asked, computed, forced, milliseconds } = masks;
  return {
    choice,
    queue: { arrived_ms: 0, admitted_ms: admitted, first_token_ms: firstToken, finished_ms: finished, preemptions },
    cache_blocks_hit: blocksFound,
    masks: { asked, computed, cached: Math.max(0, asked - computed), forced_tokens: forced, ms: milliseconds },
  };
}
