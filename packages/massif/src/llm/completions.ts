/** K2 over a raw completions endpoint: the prompt is rendered here and the answer parsed here, so that an upstream needs
 *  neither chat template nor tool parser. With the tokenizer, ids go out, and come back where the upstream tells them
 *  (vLLM); otherwise text. */
import {
  ChatParser,
  type ChatTokenizer,
  callCount,
  encodeSegments,
  render,
  renderedText,
  type Segment,
  type TemplateName,
  type ToolStyle,
  thinks,
} from "../chat/index.ts";
import { readAnswer } from "./answer.ts";
import { LlmError } from "./errors.ts";
import { Http, type HttpOptions } from "./http.ts";
import type { Finish, LanguageModel, ModelEvent, Usage } from "./model.ts";
import { type ChunkReader, readFinish, readMessage, startOf } from "./openai.ts";
import { readTokens } from "./raw.ts";
import type { ChatRequest } from "./request.ts";
import { CompletionChunk, readUsage, writeQueue, writeSampling } from "./wire.ts";

export interface K2CompletionsOptions extends HttpOptions {
  model: string;
  /** Default: `MODEL@HOST/TEMPLATE`. */
  name?: string;
  template: TemplateName;
  toolStyle?: ToolStyle;
  /** The upstream model's own. Without it the prompt is text, whose control tokens the upstream must read. */
  tokenizer?: ChatTokenizer;
}

const END = "<|im_end|>";

/** `/completions` of an upstream as a chat model in K2's format. Throws `llm.unsupported` for what needs the upstream to
 *  constrain its tokens: a tool choice of required or a name, single calls, response formats. */
export class K2CompletionsModel implements LanguageModel, Disposable {
  readonly name: string;
  readonly #options: K2CompletionsOptions;
  readonly #http: Http;

  constructor(options: K2CompletionsOptions) {
    this.#options = options;
    this.#http = new Http(options);
    this.name = options.name ?? `${options.model}@${this.#http.host}/${options.template}`;
  }

  [Symbol.dispose](): void {
    this.#http[Symbol.dispose]();
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { model, template, toolStyle, tokenizer } = this.#options;
    refuseUnsupported(request, this.name);
    const tools = request.toolChoice === "none" ? [] : (request.tools ?? []);
    const segments = render({
      template,
      tools,
      messages: request.messages,
      addGenerationPrompt: true,
      ...(toolStyle && { toolStyle }),
      ...(request.reasoning?.keep && { keepReasoning: true }),
    });
    const ids = tokenizer && (request.promptIds ?? encodeSegments(segments, tokenizer).ids);
    const end = tokenizer?.special.get(END);
    const sampling = writeSampling(request.sampling);
    const body = {
      model,
      prompt: ids ?? renderedText(segments.map(unspelled)),
      ...sampling,
      // The default of this endpoint is 16: a message needs a limit of its own, and an engine cuts it to its context.
      max_tokens: request.sampling?.maxTokens ?? 32_768,
      stop: [...(request.sampling?.stop ?? []), ...(end === undefined ? [END] : [])],
      ...(end !== undefined && {
        stop_token_ids: [...(request.sampling?.stopIds ?? []), ...(request.sampling?.ignoreEnd ? [] : [end])],
        return_token_ids: true,
      }),
      logprobs: request.logprobs,
      ...writeQueue(request),
      // The markers of calls must come through as text.
      skip_special_tokens: false,
      spaces_between_special_tokens: false,
      add_special_tokens: false,
      stream: true,
      stream_options: { include_usage: true },
      ...request.extra,
    };
    const answer = await this.#http.post("completions", body, request.signal);
    const names = tools.flatMap((tool) => tool.function?.name ?? []);
    const reader = new K2Reader({
      model: this.name,
      // Ids would tell the stop string that the text leaves out.
      tokenizer: request.sampling?.stop?.length ? undefined : tokenizer,
      think: thinks(template),
      tools: names,
      callCount: callCount(request.messages),
      weights: answer.weights,
    });
    yield* readMessage(this.#http, readAnswer(this.#http, answer, CompletionChunk), reader);
  }
}

function refuseUnsupported(request: ChatRequest, name: string): void {
  const { toolChoice, parallelToolCalls, responseFormat, reasoning } = request;
  const field =
    toolChoice === "required" || typeof toolChoice === "object"
      ? "toolChoice"
      : parallelToolCalls === false
        ? "parallelToolCalls"
        : responseFormat && responseFormat.type !== "text"
          ? "responseFormat"
          : reasoning?.budget !== undefined
            ? "reasoning.budget"
            : request.promptLogprobs !== undefined
              ? "promptLogprobs"
              : undefined;
  if (!field) return;
  throw new LlmError("llm.unsupported", {
    found: `${field} asked of ${name}, which is a raw completions endpoint`,
    expected: "a model that can constrain its tokens",
    fix: `leave ${field} out, or use the upstream's chat endpoint or the engine`,
  });
}

/** Without ids nothing but its spelling makes a control token, so text that spells one is broken by a word joiner, which
 *  nobody sees. */
function unspelled(segment: Segment): Segment {
  if (segment.control) return segment;
  return { ...segment, text: segment.text.replace(/<(?=\|[^|<>]+\|>|\/?think>)|\[(?=[A-Z]{3}\])/g, "$&\u2060") };
}

interface K2ReaderOptions {
  model: string;
  tokenizer: ChatTokenizer | undefined;
  think: boolean;
  tools: readonly string[];
  callCount: number;
  weights: string | undefined;
}

/** Pieces of a raw completion to events, by chat's one parser. */
class K2Reader implements ChunkReader<CompletionChunk> {
  finished = false;
  readonly #options: K2ReaderOptions;
  #started = false;
  #parser: ChatParser | undefined;
  #byId: boolean | undefined;
  #reason: Finish | undefined;
  #stop: string | undefined;
  #usage: Usage | undefined;

  constructor(options: K2ReaderOptions) {
    this.#options = options;
  }

  *push(chunk: CompletionChunk): Generator<ModelEvent> {
    const choice = chunk.choices?.find(({ index }) => !index);
    this.#usage = readUsage(chunk.usage) ?? readUsage(choice?.usage) ?? this.#usage;
    if (!choice) return;
    if (!this.#started)
      yield startOf(
        { ...chunk, weight_version: chunk.weight_version ?? this.#options.weights },
        choice.prompt_token_ids,
      );
    this.#started = true;
    const tokens = readTokens(choice.logprobs, choice.token_ids);
    if (tokens.length) yield { type: "tokens", tokens };
    const { tokenizer, model: _, weights: __, ...options } = this.#options;
    const ids = tokenizer && choice.token_ids?.length ? choice.token_ids : undefined;
    if (ids || choice.text) {
      // The first piece decides: an upstream that tells ids tells all of them. Its last chunk may have neither.
      this.#byId ??= ids !== undefined;
      this.#parser ??= new ChatParser({ ...options, ...(this.#byId && tokenizer && { tokenizer }) });
      const piece = this.#byId ? ids : choice.text;
      if (!piece) throw new LlmError("llm.protocol", { found: `${this.#options.model} sent text without its ids` });
      for (const event of this.#parser.push(piece)) if (event.type !== "finish") yield event;
    }
    if (choice.finish_reason) {
      this.#reason = readFinish(choice.finish_reason, this.#options.model);
      this.finished = true;
    }
    if (typeof choice.stop_reason === "string" && choice.stop_reason !== END) this.#stop = choice.stop_reason;
  }

  *end(): Generator<ModelEvent> {
    const parser = this.#parser ?? new ChatParser();
    const events = parser.end(this.#reason === "length" ? "length" : "stop");
    for (const event of events) {
      if (event.type !== "finish") yield event;
      else {
        if (this.#usage) yield { type: "usage", usage: this.#usage };
        const reason = this.#reason === "content_filter" ? this.#reason : event.reason;
        yield { type: "finish", reason, ...(this.#stop !== undefined && { stop: this.#stop }) };
      }
    }
  }
}
