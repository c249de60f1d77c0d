/** A message's events as chunks of `/v1/chat/completions`, or as one answer (serving-and-agent.md §2.1, §3). */
import { assemble, type ChatEvent, type ToolCall } from "../../chat/index.ts";
import type { ModelEvent, TokenInfo, Usage } from "../../llm/index.ts";
import { totalUsage } from "../answers.ts";
import type { Explanation } from "../explain.ts";
import type { Tagged } from "../service.ts";
import type { ChatCall } from "./chat.ts";
import { InputReader, inputOf } from "./custom-tools.ts";

export interface Head {
  id: string;
  created: number;
  model: string;
  fingerprint: string;
}

export function usageBody(usage: Usage): Record<string, unknown> {
  const { promptTokens, completionTokens, cachedTokens = 0, reasoningTokens = 0 } = usage;
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    cached_tokens: cachedTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    completion_tokens_details: { reasoning_tokens: reasoningTokens },
  };
}

const bytesOf = (token: Omit<TokenInfo, "top">): number[] => token.bytes ?? [...Buffer.from(token.text ?? "")];

const likely = (token: Omit<TokenInfo, "top">, asIds: boolean) => ({
  // A token that is part of a character has no text of its own: its bytes tell it.
  token: asIds ? `token_id:${token.id}` : (token.text ?? Buffer.from(token.bytes ?? []).toString()),
  logprob: token.logprob ?? -9999,
  bytes: bytesOf(token),
});

/** `asIds`: vLLM's `return_tokens_as_token_ids`. */
export const logprobsBody = (tokens: readonly TokenInfo[], asIds = false): Record<string, unknown> => ({
  content: tokens.map((token) => ({
    ...likely(token, asIds),
    top_logprobs: (token.top ?? []).map((other) => likely(other, asIds)),
  })),
  refusal: null,
});

type Choice = Record<string, unknown>;

/** Events to chunks, as they come. */
export class ChatChunks {
  readonly #head: Record<string, unknown>;
  readonly #call: ChatCall;
  readonly #begun = new Set<number>();
  readonly #tokens: TokenInfo[][];
  readonly #usages: (Usage | undefined)[] = [];
  /** Of the open call of each choice, where it is a custom tool's. */
  readonly #inputs: (InputReader | undefined)[] = [];

  constructor({ id, created, model, fingerprint }: Head, call: ChatCall) {
    this.#head = { id, object: "chat.completion.chunk", created, model, system_fingerprint: fingerprint };
    this.#call = call;
    this.#tokens = Array.from({ length: call.n }, () => []);
  }

  *push({ choice, event }: Tagged): Generator<Record<string, unknown>> {
    if (!this.#begun.has(choice)) {
      this.#begun.add(choice);
      const more = this.#call.tellsIds ? promptIds(event) : {};
      yield this.#chunk(choice, { role: "assistant", content: "" }, null, more);
      if (this.#call.echo) yield this.#chunk(choice, { content: this.#call.echo });
    }
    switch (event.type) {
      case "tokens":
        this.#tokens[choice]!.push(...event.tokens);
        break;
      case "reasoning":
        if (this.#call.showsReasoning)
          yield this.#chunk(choice, { reasoning_content: event.text, reasoning: event.text });
        break;
      case "text":
        yield this.#chunk(choice, { content: event.text });
        break;
      case "tool-call-begin": {
        const { index, id, name } = event;
        const custom = this.#call.custom.has(name);
        this.#inputs[choice] = custom ? new InputReader() : undefined;
        if (custom)
          yield this.#chunk(choice, { tool_calls: [{ index, id, type: "custom", custom: { name, input: "" } }] });
        else
          yield this.#chunk(choice, {
            tool_calls: [{ index, id, type: "function", function: { name, arguments: "" } }],
          });
        break;
      }
      case "tool-call-delta": {
        const { index, arguments: args } = event;
        const reader = this.#inputs[choice];
        const input = reader?.push(args);
        if (input) yield this.#chunk(choice, { tool_calls: [{ index, custom: { input } }] });
        if (!reader) yield this.#chunk(choice, { tool_calls: [{ index, function: { arguments: args } }] });
        break;
      }
      case "usage":
        this.#usages[choice] = event.usage;
        break;
      case "finish": {
        const usage = this.#usages[choice];
        // Kimi's clients read the usage here.
        const more = { ...(usage && { usage: usageBody(usage) }), stop_reason: event.stop ?? null };
        yield this.#chunk(choice, {}, event.reason, more);
        break;
      }
    }
  }

  *end(explain?: Explanation): Generator<Record<string, unknown>> {
    const usage = usageBody(totalUsage(this.#usages));
    if (this.#call.includeUsage || explain)
      yield { ...this.#head, choices: [], ...(this.#call.includeUsage && { usage }), ...(explain && { explain }) };
  }

  #chunk(index: number, delta: Choice, finish_reason: string | null = null, more: Choice = {}): Choice {
    const tokens = this.#tokens[index]!.splice(0);
    const { chat, tellsIds, tokensAsIds } = this.#call;
    return {
      ...this.#head,
      choices: [
        {
          index,
          delta,
          logprobs: chat.logprobs !== undefined && tokens.length ? logprobsBody(tokens, tokensAsIds) : null,
          finish_reason,
          ...(tellsIds && { token_ids: tokens.map(({ id }) => id) }),
          ...more,
        },
      ],
      ...(this.#call.includeUsage && { usage: null }),
    };
  }
}

const promptIds = (event: ModelEvent): Choice =>
  event.type === "start" && event.promptIds ? { prompt_token_ids: event.promptIds } : {};

/** A call as its client knows it. */
function called({ id, function: fn, ...call }: ToolCall, custom: ReadonlySet<string>): Record<string, unknown> {
  if (!custom.has(fn.name)) return { id, ...call, function: fn };
  return { id, type: "custom", custom: { name: fn.name, input: inputOf(String(fn.arguments)) } };
}

/** All events to one answer. */
export function chatAnswer(
  { id, created, model, fingerprint }: Head,
  call: ChatCall,
  events: readonly Tagged[],
  explain?: Explanation,
): Record<string, unknown> {
  const usages: (Usage | undefined)[] = [];
  const { echo = "", tellsIds, tokensAsIds, showsReasoning } = call;
  const seen = events.find(({ event }) => event.type === "start" && event.promptLogprobs)?.event;
  const choices = Array.from({ length: call.n }, (_, index) => {
    const own = events.filter(({ choice }) => choice === index).map(({ event }) => event);
    const { message } = assemble(own.filter((event) => event.type !== "finish") as ChatEvent[]);
    const tokens = own.flatMap((event) => (event.type === "tokens" ? event.tokens : []));
    const finish = own.find((event) => event.type === "finish");
    const prompt = own.flatMap((event) => (event.type === "start" && event.promptIds) || []);
    usages[index] = own.find((event) => event.type === "usage")?.usage;
    const { reasoning_content: reasoning, tool_calls } = message;
    return {
      index,
      message: {
        role: "assistant",
        content: tool_calls && !echo && message.content === "" ? null : echo + message.content,
        refusal: null,
        ...(reasoning !== undefined && showsReasoning && { reasoning_content: reasoning, reasoning }),
        ...(tool_calls && { tool_calls: tool_calls.map((one) => called(one, call.custom)) }),
      },
      logprobs: call.chat.logprobs !== undefined ? logprobsBody(tokens, tokensAsIds) : null,
      finish_reason: finish?.reason ?? "stop",
      stop_reason: finish?.stop ?? null,
      ...(tellsIds && { token_ids: tokens.map(({ id }) => id), prompt_token_ids: prompt }),
    };
  });
  return {
    id,
    object: "chat.completion",
    created,
    model,
    system_fingerprint: fingerprint,
    choices,
    usage: usageBody(totalUsage(usages)),
    ...(seen?.type === "start" && { prompt_logprobs: seen.promptLogprobs }),
    ...(explain && { explain }),
  };
}
