/** An answer as it is read: tokens in, events out, up to the first stop string; and what the answer was in the end. */
import {
  addEvent,
  type ChatEvent,
  ChatParser,
  callCount,
  controls,
  declaredTools,
  type FinishReason,
} from "../../chat/index.ts";
import { type ChatRequest, type ModelEvent, StopScanner, type Usage } from "../../llm/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { GeneratedToken } from "../request.ts";
import type { Prompt } from "./prompt.ts";
import { tokenInfo } from "./told.ts";

export class AnswerReader {
  readonly #tokenizer: Tokenizer;
  readonly #request: ChatRequest;
  readonly #parser: ChatParser;
  readonly #stops: StopScanner;
  readonly #unstopped = new StopScanner([]);
  readonly #end: number;
  readonly #think: number | undefined;
  /** What ends reasoning. */
  readonly #closes: ReadonlySet<number | undefined>;
  #thinking: boolean;
  #tokens = 0;
  #reasoningTokens = 0;
  #reason: FinishReason = "length";
  #stopId: number | undefined;

  /** `think`: whether spelled think tags count, as in `ChatParser`. */
  constructor(request: ChatRequest, { said, reasoning }: Prompt, tokenizer: Tokenizer, think: boolean) {
    this.#tokenizer = tokenizer;
    this.#request = request;
    this.#parser = new ChatParser({
      tokenizer,
      think,
      tools: declaredTools(request).flatMap((tool) => tool.function?.name ?? []),
      callCount: callCount(request.messages),
    });
    // The turn goes on from these; they make no events but the state.
    this.#parser.push(said);
    this.#thinking = reasoning;
    this.#stops = new StopScanner(request.sampling?.stop ?? []);
    this.#end = tokenizer.idOf(controls.end);
    this.#think = tokenizer.special.get(controls.think);
    const closers = [controls.thinkEnd, controls.sectionBegin, controls.callBegin];
    this.#closes = new Set(closers.map((name) => tokenizer.special.get(name)));
  }

  /** Whether a stop string has ended the answer. */
  get stopped(): boolean {
    return this.#stops.stop !== undefined;
  }

  get usage(): Pick<Usage, "completionTokens" | "reasoningTokens"> {
    const reasoningTokens = this.#reasoningTokens;
    return { completionTokens: this.#tokens, ...(reasoningTokens > 0 && { reasoningTokens }) };
  }

  /** The events of tokens; those behind a stop string make none. */
  read(tokens: readonly GeneratedToken[]): ModelEvent[] {
    const { sampling, logprobs, tokenIds } = this.#request;
    const { ignoreEnd = false, includeStop = false, minTokens = 0, stopIds = [] } = sampling ?? {};
    const tells = logprobs !== undefined || tokenIds === true;
    const out: ModelEvent[] = [];
    for (const token of tokens) {
      if (this.stopped) break;
      this.#tokens++;
      const ended = token.id === this.#end;
      const stopped = stopIds.includes(token.id);
      if (tells && (!ended || tokenIds))
        out.push({ type: "tokens", tokens: [tokenInfo(this.#tokenizer, token, this.#request)] });
      // A stop token is no part of the message, and an end that ends nothing is no end.
      const silent = (stopped && !includeStop) || (ended && ignoreEnd);
      const events = silent ? [] : this.#parser.push([token.id]);
      this.#count(token.id, events);
      const heard = this.#tokens > minTokens ? this.#stops : this.#unstopped;
      for (const event of stopAt(events, heard, includeStop)) addEvent(out as ChatEvent[], event);
      if (this.stopped) break;
      if (token.finish) this.#reason = token.finish.reason;
      if (stopped && token.finish?.reason === "stop") this.#stopId = token.id;
    }
    return out;
  }

  /** What was held back, and how it ended. */
  end(): { events: ModelEvent[]; finish: ModelEvent } {
    const stops = this.#stops;
    if (stops.stop !== undefined) return { events: [], finish: { type: "finish", reason: "stop", stop: stops.stop } };
    const last = this.#parser.end(this.#reason);
    const { reason } = last.pop() as ChatEvent & { type: "finish" };
    const events: ModelEvent[] = [...stopAt(last, stops, this.#request.sampling?.includeStop ?? false)];
    const rest = this.stopped ? "" : stops.end();
    if (rest) events.push({ type: "text", text: rest });
    const stop = stops.stop ?? this.#stopId;
    return { events, finish: { type: "finish", reason, ...(stop !== undefined && { stop }) } };
  }

  /** Counts a token of reasoning: what stands between the markers, or, where there are none, what reads as such. */
  #count(id: number, events: readonly ChatEvent[]): void {
    const before = this.#thinking;
    for (const { type } of events) if (type !== "problem") this.#thinking = type === "reasoning";
    if (id === this.#think) this.#thinking = true;
    if (this.#closes.has(id)) this.#thinking = false;
    if (this.#thinking && (before || this.#think === undefined) && id !== this.#end) this.#reasoningTokens++;
  }
}

/** The events with their text up to a stop string. What comes before other events cannot become one any more. */
function* stopAt(events: Iterable<ChatEvent>, stops: StopScanner, include: boolean): Generator<ChatEvent> {
  for (const event of events) {
    if (stops.stop !== undefined) return;
    if (event.type === "text") {
      const certain = stops.push(event.text);
      const text = include && stops.stop !== undefined ? certain + stops.stop : certain;
      if (text) yield { ...event, text };
      continue;
    }
    if (event.type === "tool-call-begin" || event.type === "reasoning") {
      const rest = stops.end();
      if (rest) yield { type: "text", text: rest };
    }
    yield event;
  }
}
