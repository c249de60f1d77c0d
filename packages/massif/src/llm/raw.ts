/** `/completions` of an upstream as it is: bare text or ids in, text and tokens out. For what has no messages: base models,
 *  scoring, learners that keep their own tokens. */
import type { z } from "zod";
import { readAnswer } from "./answer.ts";
import { LlmError } from "./errors.ts";
import { Http, type HttpOptions } from "./http.ts";
import type { ModelEvent, TokenInfo } from "./model.ts";
import { readFinish, readMessage } from "./openai.ts";
import type { ChatRequest, Sampling } from "./request.ts";
import { CompletionChunk, readUsage, writeQueue, writeSampling } from "./wire.ts";

/** A continuation of bare text or ids. */
export interface RawRequest extends Pick<ChatRequest, "priority" | "salt" | "truncatePrompt" | "extra"> {
  prompt: string | readonly number[];
  /** `maxTokens` 0 computes the prompt only. */
  sampling: Sampling & { maxTokens: number };
  /** Asks for log-probabilities, and for so many of the likeliest. */
  logprobs?: number;
  /** Asks for those of the prompt too: one `prompt` event, first; its first token has none. */
  promptLogprobs?: boolean;
  /** The text begins with the prompt's. */
  echo?: boolean;
  tokenIds?: boolean;
  signal?: AbortSignal;
  /** Told the version of the weights that answer. */
  onWeights?(version: number): void;
}
export type RawEvent =
  | Extract<ModelEvent, { type: "text" | "tokens" | "usage" | "finish" }>
  | { type: "prompt"; tokens: TokenInfo[] };

export class RawUpstream implements Disposable {
  readonly name: string;
  readonly #model: string;
  readonly #http: Http;

  constructor(options: HttpOptions & { model: string }) {
    this.#model = options.model;
    this.#http = new Http(options);
    this.name = `${options.model}@${this.#http.host}`;
  }

  [Symbol.dispose](): void {
    this.#http[Symbol.dispose]();
  }

  /** Throws as every upstream does (errors.ts), and `llm.protocol` where the prompt's tokens cannot be told apart. */
  async *stream(request: RawRequest): AsyncGenerator<RawEvent, void, undefined> {
    const { prompt, sampling, logprobs, promptLogprobs, echo, tokenIds, signal, extra } = request;
    const streaming = promptLogprobs ? {} : { stream: true, stream_options: { include_usage: true } };
    const body = {
      ...{ model: this.#model, prompt, ...writeSampling(sampling), logprobs },
      ...writeQueue(request),
      echo: echo || promptLogprobs || undefined,
      return_token_ids: tokenIds || undefined,
      ...streaming,
      ...extra,
    };
    const answer = await this.#http.post("completions", body, signal);
    const chunks = readAnswer(this.#http, answer, CompletionChunk);
    if (!promptLogprobs) {
      yield* readMessage(this.#http, chunks, new RawReader(this.name)) as AsyncGenerator<RawEvent, void>;
      return;
    }
    const { value } = await chunks.next();
    await chunks.return(true);
    yield* this.#scored(value as z.output<typeof CompletionChunk>);
  }

  /** A whole answer whose tokens begin with the prompt's. */
  *#scored(answer: z.output<typeof CompletionChunk>): Generator<RawEvent> {
    const usage = readUsage(answer.usage);
    const choice = answer.choices?.[0];
    const tokens = readTokens(choice?.logprobs, undefined);
    const offsets = choice?.logprobs?.text_offset ?? [];
    if (!usage || !choice || tokens.length < usage.promptTokens)
      throw new LlmError("llm.protocol", { found: `${this.name} told no log-probabilities of the prompt` });
    const n = usage.promptTokens;
    yield { type: "prompt", tokens: tokens.slice(0, n) };
    if (tokens.length > n) yield { type: "tokens", tokens: tokens.slice(n) };
    const text = tokens.length > n ? (choice.text ?? "").slice((offsets[n] ?? 0) - (offsets[0] ?? 0)) : "";
    if (text) yield { type: "text", text };
    yield { type: "usage", usage };
    const reason = readFinish(choice.finish_reason ?? "length", this.name);
    yield { type: "finish", reason, ...(choice.stop_reason != null && { stop: choice.stop_reason }) };
  }
}

class RawReader {
  finished = false;
  readonly #name: string;
  #end: ModelEvent = { type: "finish", reason: "stop" };
  #usage: ReturnType<typeof readUsage>;

  constructor(name: string) {
    this.#name = name;
  }

  *push(chunk: CompletionChunk): Generator<ModelEvent> {
    const choice = chunk.choices?.find(({ index }) => !index);
    this.#usage = readUsage(chunk.usage) ?? readUsage(choice?.usage) ?? this.#usage;
    if (!choice) return;
    const tokens = readTokens(choice.logprobs, choice.token_ids);
    if (tokens.length) yield { type: "tokens", tokens };
    if (choice.text) yield { type: "text", text: choice.text };
    if (!choice.finish_reason) return;
    this.finished = true;
    const { stop_reason: stop } = choice;
    this.#end = { type: "finish", reason: readFinish(choice.finish_reason, this.#name), ...(stop != null && { stop }) };
  }

  *end(): Generator<ModelEvent> {
    if (this.#usage) yield { type: "usage", usage: this.#usage };
    yield this.#end;
  }
}

type Logprobs = NonNullable<CompletionChunk["choices"]>[number]["logprobs"];

/** The tokens of a chunk of `/completions`. */
export function readTokens(logprobs: Logprobs, ids: number[] | null | undefined): TokenInfo[] {
  const length = logprobs?.tokens?.length ?? ids?.length ?? 0;
  return Array.from({ length }, (_, i) => {
    const [text, logprob, top] = [logprobs?.tokens?.[i], logprobs?.token_logprobs?.[i], logprobs?.top_logprobs?.[i]];
    const likely = Object.entries(top ?? {}).map(([text, logprob]) => ({ text, logprob }));
    return {
      ...(ids?.length === length && { id: ids[i]! }),
      ...(text !== undefined && { text }),
      ...(logprob != null && { logprob }),
      ...(likely.length && { top: likely.sort((a, b) => b.logprob - a.logprob) }),
    };
  });
}
