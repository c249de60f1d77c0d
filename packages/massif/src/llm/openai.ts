/** Any OpenAI-compatible chat endpoint as a `LanguageModel`. Our own small client: OpenAI's SDK drops what engines add
 *  (reasoning, token ids, stop reasons), and its retries and time-outs know neither our clock nor the first byte. */
import { callCount, nativeId } from "../chat/index.ts";
import { cut, readAnswer } from "./answer.ts";
import { LlmError } from "./errors.ts";
import { Http, type HttpOptions } from "./http.ts";
import type { Finish, LanguageModel, ModelEvent, TokenInfo, Usage } from "./model.ts";
import type { ChatRequest } from "./request.ts";
import { type CallShape, ChatChunk, type DeltaShape, type Likely, readUsage, writeChat } from "./wire.ts";

export interface OpenAiOptions extends HttpOptions {
  /** The model's name at the upstream. */
  model: string;
  /** Our name for it. Default: `MODEL@HOST`. */
  name?: string;
  /** false asks for the answer as a whole. Default true. */
  stream?: boolean;
  /** What the limit of tokens is called; OpenAI's own reasoning models know the second only. Default the first. */
  maxTokensKey?: "max_tokens" | "max_completion_tokens";
}

/** `/chat/completions` of an upstream. Its errors: see errors.ts. */
export class OpenAiModel implements LanguageModel, Disposable {
  readonly name: string;
  readonly #options: OpenAiOptions;
  readonly #http: Http;

  constructor(options: OpenAiOptions) {
    this.#options = options;
    this.#http = new Http(options);
    this.name = options.name ?? `${options.model}@${this.#http.host}`;
  }

  [Symbol.dispose](): void {
    this.#http[Symbol.dispose]();
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { model, stream = true, maxTokensKey } = this.#options;
    // Engines tell those of the prompt only with a whole answer.
    const streaming =
      stream && request.promptLogprobs === undefined ? { stream, stream_options: { include_usage: true } } : {};
    const body = { model, ...writeChat(request, maxTokensKey), ...streaming, ...request.extra };
    const answer = await this.#http.post("chat/completions", body, request.signal);
    const reader = new ChatReader(request, this.name);
    yield* readMessage(this.#http, readAnswer(this.#http, answer, ChatChunk), reader);
  }
}

/** Chunks of an answer to the events of one message, `finish` last. */
export interface ChunkReader<T> {
  /** Whether the upstream has said that the message is finished. */
  readonly finished: boolean;
  push(chunk: T): Iterable<ModelEvent>;
  end(): Iterable<ModelEvent>;
}

/** The events of chunks. What happens to the connection after the message is finished is no error. */
export async function* readMessage<T>(
  http: Http,
  chunks: AsyncGenerator<T, boolean, undefined>,
  reader: ChunkReader<T>,
): AsyncGenerator<ModelEvent, void, undefined> {
  let complete = false;
  try {
    for (let next = await chunks.next(); ; next = await chunks.next()) {
      if (next.done) {
        complete = next.value;
        break;
      }
      yield* reader.push(next.value);
    }
  } catch (error) {
    const harmless = error instanceof LlmError && (error.code === "llm.cut" || error.code === "llm.timeout");
    if (!harmless || !reader.finished) throw error;
  } finally {
    await chunks.return(false);
  }
  if (!complete && !reader.finished) throw cut(http);
  yield* reader.end();
}

/** Deltas to events: reasoning under either name, calls with or without index, id and end, usage wherever it stands. */
export class ChatReader implements ChunkReader<ChatChunk> {
  finished = false;
  readonly #model: string;
  /** Calls of the conversation before this message: where ids that the upstream leaves out count on from. */
  readonly #callsBefore: number;
  #started = false;
  #reason: Finish | undefined;
  #stop: string | number | undefined;
  #usage: Usage | undefined;
  #calls = 0;
  #open: { key: number | undefined; id: string | undefined; name: string; args: string; begun: boolean } | undefined;

  constructor(request: Pick<ChatRequest, "messages">, model: string) {
    this.#model = model;
    this.#callsBefore = callCount(request.messages);
  }

  *push(chunk: ChatChunk): Generator<ModelEvent> {
    const choice = chunk.choices?.find(({ index }) => !index);
    if (!this.#started) {
      this.#started = true;
      yield startOf(chunk, choice?.prompt_token_ids);
    }
    this.#usage = readUsage(chunk.usage) ?? readUsage(choice?.usage) ?? this.#usage;
    if (!choice) return;
    const tokens = readTokens(choice.logprobs?.content, choice.token_ids);
    if (tokens.length) yield { type: "tokens", tokens };
    yield* this.#delta(choice.delta ?? choice.message);
    if (choice.finish_reason) {
      this.#reason = readFinish(choice.finish_reason, this.#model);
      this.finished = true;
    }
    this.#stop = choice.stop_reason ?? this.#stop;
  }

  *end(): Generator<ModelEvent> {
    yield* this.#close();
    if (this.#usage) yield { type: "usage", usage: this.#usage };
    const normal = this.#calls ? "tool_calls" : "stop";
    const reason = this.#reason === "length" || this.#reason === "content_filter" ? this.#reason : normal;
    yield { type: "finish", reason, ...(this.#stop !== undefined && { stop: this.#stop }) };
  }

  *#delta(delta: DeltaShape): Generator<ModelEvent> {
    if (!delta) return;
    const reasoning = delta.reasoning_content || delta.reasoning;
    if (reasoning) yield { type: "reasoning", text: reasoning };
    const { content } = delta;
    const text = typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");
    if (text || delta.refusal) yield { type: "text", text: text || delta.refusal! };
    for (const call of delta.tool_calls ?? []) yield* this.#call(call);
    if (delta.function_call) yield* this.#call({ index: 0, function: delta.function_call });
  }

  /** One delta of a call. It belongs to the open call unless its index says otherwise, or it names itself anew: some
   *  upstreams send every call whole under index 0, or without index. */
  *#call({ index, id, function: fn }: CallShape): Generator<ModelEvent> {
    const name = fn?.name ?? "";
    const open = this.#open;
    const another = id && open?.id && id !== open.id && name;
    if (!open || (index != null && open.key !== undefined && index > open.key) || another) {
      yield* this.#close();
      this.#open = { key: index ?? undefined, id: id ?? undefined, name: "", args: "", begun: false };
    } else if (index != null && open.key !== undefined && index < open.key) {
      if (!fn?.arguments) return;
      throw new LlmError("llm.protocol", { found: `${this.#model} went back to tool call ${index} after ${open.key}` });
    }
    const call = this.#open!;
    call.id ??= id ?? undefined;
    const args = typeof fn?.arguments === "string" ? fn.arguments : fn?.arguments ? JSON.stringify(fn.arguments) : "";
    if (!call.begun && (call.name ||= name)) {
      call.begun = true;
      const made = nativeId(call.name, this.#callsBefore + this.#calls);
      yield { type: "tool-call-begin", index: this.#calls, id: call.id || made, name: call.name };
      // What came before the name.
      if (call.args) yield { type: "tool-call-delta", index: this.#calls, arguments: call.args };
    }
    call.args += args;
    if (call.begun && args) yield { type: "tool-call-delta", index: this.#calls, arguments: args };
  }

  *#close(): Generator<ModelEvent> {
    const call = this.#open;
    this.#open = undefined;
    if (!call) return;
    if (!call.begun) {
      yield { type: "problem", code: "nameless-call", text: call.args };
      return;
    }
    const index = this.#calls++;
    if (!call.args.trim()) yield { type: "tool-call-delta", index, arguments: "{}" };
    else if (!isObject(call.args)) yield { type: "problem", code: "arguments-invalid", text: "" };
    yield { type: "tool-call-end", index };
  }
}

type Head = Pick<ChatChunk, "id" | "model" | "prompt_token_ids" | "weight_version" | "prompt_logprobs">;

export function startOf(head: Head, promptIds?: number[] | null): Extract<ModelEvent, { type: "start" }> {
  const ids = promptIds ?? head.prompt_token_ids;
  return {
    type: "start",
    ...(head.id && { id: head.id }),
    ...(head.model && { model: head.model }),
    ...(head.weight_version != null && { weights: head.weight_version }),
    ...(ids && { promptIds: ids }),
    ...(head.prompt_logprobs && { promptLogprobs: head.prompt_logprobs }),
  };
}

/** OpenAI's words, and the older and other ones. Throws `llm.upstream` for a reason that is a failure. */
export function readFinish(reason: string, model: string): Finish {
  if (reason === "length" || reason === "max_tokens" || reason === "model_length") return "length";
  if (reason === "content_filter") return reason;
  if (reason === "abort" || reason === "error") {
    throw new LlmError("llm.upstream", { found: `${model} ended its message with "${reason}"` });
  }
  return reason === "tool_calls" || reason === "function_call" ? "tool_calls" : "stop";
}

function readToken({ id: told, token, logprob, bytes }: Likely): TokenInfo {
  // vLLM, asked for return_tokens_as_token_ids.
  const [, named] = /^token_id:(\d+)$/.exec(token ?? "") ?? [];
  const id = told ?? (named === undefined ? undefined : Number(named));
  return {
    ...(id != null && { id }),
    ...(token != null && named === undefined && { text: token }),
    ...(bytes && { bytes }),
    ...(logprob != null && { logprob }),
  };
}

function readTokens(
  logprobs: (Likely & { top_logprobs?: Likely[] | null })[] | null | undefined,
  ids: number[] | null | undefined,
): TokenInfo[] {
  if (!logprobs?.length) return (ids ?? []).map((id) => ({ id }));
  return logprobs.map((token, i) => ({
    ...readToken(token),
    ...(ids?.length === logprobs.length && { id: ids[i]! }),
    ...(token.top_logprobs?.length && { top: token.top_logprobs.map(readToken) }),
  }));
}

function isObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
