/** `LanguageModel`: a chat request in, a stream of typed events out. The engine, any OpenAI-compatible endpoint, a
 *  script and every wrapper are one of these, and who calls one need not know which. */
import { type Assembled, assemble, type ChatEvent, type FinishReason, mergeEvents } from "../chat/index.ts";
import { LlmError } from "./errors.ts";
import type { ChatRequest } from "./request.ts";
import type { PromptLogprobs } from "./wire.ts";

export interface Usage {
  promptTokens: number;
  /** Reasoning included. */
  completionTokens: number;
  /** Of the prompt's tokens, those that needed no prefill. */
  cachedTokens?: number;
  /** Of the completion's tokens, those of reasoning. */
  reasoningTokens?: number;
}

/** What a message is made of, without its end. */
type PartEvent = Exclude<ChatEvent, { type: "finish" }>;

/** A token as it was chosen. What a model does not tell is left out. */
export interface TokenInfo {
  id?: number;
  text?: string;
  /** A token can be part of a character: then `text` cannot say it. */
  bytes?: number[];
  /** Natural log-probability. */
  logprob?: number;
  /** The likeliest at this place, likeliest first. */
  top?: Omit<TokenInfo, "top">[];
  /** Of each layer with experts, those that the token before this one went through. */
  experts?: number[][];
}

/** Why a message ended: `content_filter` is an upstream that refused to go on. */
export type Finish = FinishReason | "content_filter";

/**
 * A message is: at most one `start` first; text, reasoning, calls and problems as in `chat`, `tokens` just before the
 * events that they made; at most one `usage`; one `finish` last. A stream that ends without `finish` threw.
 */
export type ModelEvent =
  | PartEvent
  /** What answers: the upstream's ids of response and model, the version of the weights, the prompt as ids. */
  | {
      type: "start";
      id?: string;
      model?: string;
      weights?: string | number;
      promptIds?: number[];
      promptLogprobs?: PromptLogprobs;
    }
  | { type: "tokens"; tokens: TokenInfo[] }
  | { type: "usage"; usage: Usage }
  /** `stop` is the stop string, or the id of the stop token, that ended the message, where the model tells. */
  | { type: "finish"; reason: Finish; stop?: string | number };

export interface LanguageModel {
  /** What answers, for provenance and cache keys: two models that may answer differently have different names. */
  readonly name: string;
  /** One message, as it comes. Nothing is asked before the first event is awaited; leaving the loop ends the request.
   *  Throws `MassifError` with codes `llm.…`; `llm.aborted` once `request.signal` fires. */
  stream(request: ChatRequest): AsyncIterable<ModelEvent>;
}

export interface Completion extends Omit<Assembled, "finish"> {
  finish: Finish;
  stop?: string | number;
  usage?: Usage;
  /** Empty where the model tells no tokens. */
  tokens: TokenInfo[];
  start?: Extract<ModelEvent, { type: "start" }>;
}

/** The message that events make, and all that was told about it; `finish` is undefined where they stop early. */
export function assembleCompletion(events: Iterable<ModelEvent>): Omit<Completion, "finish"> & { finish?: Finish } {
  const completion: Omit<Completion, keyof Assembled> & { finish?: Finish } = { tokens: [] };
  const chat: PartEvent[] = [];
  for (const event of events) {
    if (event.type === "start") completion.start = event;
    else if (event.type === "tokens") completion.tokens.push(...event.tokens);
    else if (event.type === "usage") completion.usage = event.usage;
    else if (event.type === "finish") {
      completion.finish = event.reason;
      if (event.stop !== undefined) completion.stop = event.stop;
    } else if (isChatEvent(event)) chat.push(event);
  }
  const { message, problems } = assemble(chat);
  return { message, problems, ...completion };
}

/** The whole answer to a request. Throws what the stream throws, and `llm.cut` where it ends without `finish`. */
export async function complete(model: LanguageModel, request: ChatRequest): Promise<Completion> {
  const { finish, ...rest } = assembleCompletion(await Array.fromAsync(model.stream(request)));
  if (!finish) throw new LlmError("llm.cut", { found: `${model.name} ended its message without a finish` });
  return { ...rest, finish };
}

/** The same message in few events: adjacent deltas joined, all tokens in one event before them. It is the same for every
 *  way of cutting a stream. */
export function mergeModelEvents(events: Iterable<ModelEvent>): ModelEvent[] {
  const all = [...events];
  const tokens = all.flatMap((event) => (event.type === "tokens" ? event.tokens : []));
  return [
    ...all.filter(({ type }) => type === "start"),
    ...(tokens.length ? [{ type: "tokens" as const, tokens }] : []),
    ...mergeEvents(all.filter(isChatEvent)),
    ...all.filter(({ type }) => type === "usage" || type === "finish"),
  ];
}

const isChatEvent = (event: ModelEvent): event is PartEvent =>
  event.type !== "start" && event.type !== "tokens" && event.type !== "usage" && event.type !== "finish";
