/** A conversation as the page holds it, and how the chunks of a stream make an answer. */
import type { Trouble } from "./wire.ts";

export interface Call {
  id: string;
  name: string;
  /** JSON as the model wrote it. */
  arguments: string;
  /** What the person who plays the tool returned. */
  result?: string;
}

export interface Token {
  text: string;
  logprob: number;
  /** The likeliest at its place, likeliest first. */
  top: { text: string; logprob: number }[];
}

export interface Usage {
  prompt: number;
  cached: number;
  completion: number;
}

export interface Answer {
  role: "assistant";
  /** Counts up with every change: who draws it compares this. */
  version: number;
  state: "running" | "done" | "stopped" | "failed";
  reasoning: string;
  content: string;
  calls: Call[];
  tokens: Token[];
  finish?: string;
  usage?: Usage;
  /** What the server tells about the request when asked to (`explain`). */
  explain?: Record<string, unknown>;
  trouble?: Trouble;
  /** Milliseconds from the request to the first and to the last piece; pieces so far. */
  first?: number;
  last?: number;
  pieces: number;
  /** As it was asked for. */
  request: Record<string, unknown>;
}
export interface Said {
  role: "user";
  content: string;
}
export type Turn = Said | Answer;

export const newAnswer = (request: Record<string, unknown>): Answer => ({
  ...{ role: "assistant", version: 0, state: "running", reasoning: "", content: "" },
  ...{ calls: [], tokens: [], pieces: 0, request },
});

interface LikelyShape {
  token?: string | null;
  logprob?: number | null;
  bytes?: number[] | null;
}
interface Chunk {
  choices?: {
    delta?: {
      content?: string | null;
      reasoning_content?: string | null;
      reasoning?: string | null;
      tool_calls?: { index?: number; id?: string; function?: { name?: string; arguments?: string } }[] | null;
    };
    finish_reason?: string | null;
    logprobs?: { content?: (LikelyShape & { top_logprobs?: LikelyShape[] })[] | null } | null;
  }[];
  usage?: {
    prompt_tokens?: number;
    completion_tokens?: number;
    cached_tokens?: number;
    prompt_tokens_details?: { cached_tokens?: number } | null;
  } | null;
  explain?: Record<string, unknown>;
}

/** Adds a chunk of the stream, `elapsed` milliseconds after the request. */
export function take(answer: Answer, chunk: unknown, elapsed: number): void {
  const { choices, usage, explain } = chunk as Chunk;
  answer.version++;
  if (usage) {
    answer.usage = {
      prompt: usage.prompt_tokens ?? 0,
      completion: usage.completion_tokens ?? 0,
      cached: usage.prompt_tokens_details?.cached_tokens ?? usage.cached_tokens ?? 0,
    };
  }
  if (explain) answer.explain = explain;
  const choice = choices?.[0];
  if (!choice) return;
  const { delta = {}, logprobs, finish_reason } = choice;
  const reasoning = delta.reasoning_content || delta.reasoning || "";
  if (reasoning || delta.content || delta.tool_calls?.length) {
    answer.first ??= elapsed;
    answer.last = elapsed;
    answer.pieces++;
  }
  answer.reasoning += reasoning;
  answer.content += delta.content ?? "";
  for (const { index = 0, id, function: fn } of delta.tool_calls ?? []) {
    const call = (answer.calls[index] ??= { id: "", name: "", arguments: "" });
    call.id ||= id ?? "";
    call.name ||= fn?.name ?? "";
    call.arguments += fn?.arguments ?? "";
  }
  for (const { top_logprobs, ...token } of logprobs?.content ?? [])
    answer.tokens.push({ ...readLikely(token), top: (top_logprobs ?? []).map(readLikely) });
  if (finish_reason) answer.finish = finish_reason;
}

/** A token that is part of a character shows its bytes. */
function readLikely({ token, logprob, bytes }: LikelyShape): { text: string; logprob: number } {
  const broken = !token || token.includes("\ufffd");
  const hex = () => bytes!.map((byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ");
  return { text: broken && bytes?.length ? `⟨${hex()}⟩` : (token ?? ""), logprob: logprob ?? 0 };
}

/** Calls that wait for their result. */
export const open = (turn: Turn | undefined): Call[] =>
  turn?.role === "assistant" && turn.state === "done" ? turn.calls.filter(({ result }) => result === undefined) : [];

/** Milliseconds in which too little comes to tell a rate. */
const TOO_SHORT = 50;

/** Tokens a second after the first, where there was time enough to tell. */
export function rate({ first, last, usage, pieces }: Answer): number | undefined {
  const tokens = (usage?.completion ?? pieces) - 1;
  if (first === undefined || last === undefined || last - first < TOO_SHORT || tokens < 1) return undefined;
  return (tokens * 1000) / (last - first);
}
