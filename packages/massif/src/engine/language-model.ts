/** The engine as a `LanguageModel`: renders K2's format, holds the answer to its grammar, parses it as it comes. */
import {
  addEvent,
  type ChatEvent,
  ChatParser,
  callCount,
  controls,
  declaredTools,
  encodeSegments,
  type FinishReason,
  readTemplateName,
  render,
  renderedText,
  type Segment,
  type TemplateName,
  type ToolStyle,
  thinks,
} from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import {
  compileAside,
  type Grammar,
  type Json,
  type TurnOptions,
  type Vocabulary,
  vocabularyOf,
} from "../enforcer/index.ts";
import {
  aborted,
  type ChatRequest,
  type LanguageModel,
  LlmError,
  type ModelEvent,
  type PromptLogprobs,
  type Sampling,
  StopScanner,
  type TokenInfo,
  type Trace,
} from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Engine } from "./engine.ts";
import type { Generation } from "./generation.ts";
import type { GeneratedToken, GenerateRequest, PromptToken } from "./request.ts";

export interface EngineModelOptions {
  template: TemplateName | "instruct";
  toolStyle?: ToolStyle;
  /** Default "massif". */
  name?: string;
  /** What a request leaves out. Default: Moonshot's temperatures, 0.6 for Instruct and 1 for Thinking. */
  sampling?: Sampling;
  /** Holds what is written where the model may call tools to their schemas, also where it need not call. Default true;
   *  false samples from the model alone, as learning from its own samples needs. */
  enforce?: boolean;
  /** Milliseconds between two looks at what has come: tokens that came meanwhile are one event. Default 0. Where stop
   *  strings may end an answer it looks at every token. */
  pace?: number;
  /** Tells the experts of every token, as learning checks them. */
  experts?: boolean;
}

/** Compiled grammars remembered. */
const GRAMMARS = 64;

/** Shares of an answer's tokens that an effort may take for reasoning, as OpenRouter has them; what is not here is none
 *  or no bound. */
const efforts: Readonly<Record<string, number>> = { minimal: 0.1, low: 0.2, medium: 0.5, high: 0.8, xhigh: 0.95 };

/** The engine as a model that also tells the prompt that it would make of a request. */
export interface EngineChat extends LanguageModel {
  prompt(request: ChatRequest): { rendered: string; ids: number[] };
}

/** Throws `engine.tokenizer` for an engine without one, and `chat.template`. */
export function engineModel(engine: Engine, options: EngineModelOptions): EngineChat {
  return new EngineModel(engine, options);
}

class EngineModel implements EngineChat {
  readonly #engine: Engine;
  readonly #options: EngineModelOptions & { template: TemplateName };
  readonly #tokenizer: Tokenizer;
  readonly #vocabulary: Vocabulary;
  readonly #grammars = new Map<string, Grammar>();

  constructor(engine: Engine, options: EngineModelOptions) {
    if (!engine.tokenizer)
      throw new MassifError("engine.tokenizer", {
        found: "an engine without a tokenizer",
        expected: "one to render and parse messages with",
        fix: "openEngine({ model, tokenizer })",
      });
    this.#engine = engine;
    this.#options = { ...options, template: readTemplateName(options.template) };
    this.#tokenizer = engine.tokenizer;
    this.#vocabulary = vocabularyOf(engine.tokenizer, engine.model.config.vocabSize);
  }

  /** Other weights answer differently. */
  get name(): string {
    const { name = "massif" } = this.#options;
    return this.#engine.version ? `${name}#${this.#engine.version}` : name;
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { signal } = request;
    if (signal?.aborted) throw aborted(signal);
    try {
      yield* this.#stream(request);
    } catch (error) {
      throw signal?.aborted ? aborted(signal) : error;
    }
  }

  async *#stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    this.#refuse(request);
    const tokenizer = this.#tokenizer;
    const { prompt, said, reasoning } = this.#prompt(request);
    const tools = declaredTools(request);
    const end = tokenizer.idOf(controls.end);
    const { ignoreEnd = false, includeStop = false, minTokens = 0, stopIds = [] } = request.sampling ?? {};
    const sampling = this.#sampling(request, prompt.length);
    const asked: GenerateRequest = {
      ...sampling,
      prompt,
      stopIds: ignoreEnd ? stopIds : [end, ...stopIds],
      ...(request.logprobs && { topLogprobs: request.logprobs }),
      ...(this.#options.experts && { experts: true }),
      ...(request.promptLogprobs !== undefined && { promptLogprobs: true, topPromptLogprobs: request.promptLogprobs }),
      ...(request.metadata?.user !== undefined && { client: request.metadata.user }),
      ...(request.priority !== undefined && { priority: request.priority }),
      ...(request.salt !== undefined && { salt: request.salt }),
      ...(request.signal && { signal: request.signal }),
      ...this.#thinking(request, reasoning, sampling.maxTokens),
    };
    const grammar = await this.#grammar(request, reasoning);
    request.signal?.throwIfAborted();
    const generation = this.#engine.generate({ ...asked, ...(grammar && { grammar }) });
    const parser = new ChatParser({
      tokenizer,
      think: thinks(this.#options.template),
      tools: tools.flatMap((tool) => tool.function?.name ?? []),
      callCount: callCount(request.messages),
    });
    // The turn goes on from these; they make no events but the state.
    parser.push(said);
    const stops = new StopScanner(request.sampling?.stop ?? []);
    const tells = request.logprobs !== undefined || request.tokenIds === true;
    const start = (weights: number): ModelEvent => ({
      type: "start",
      model: this.name,
      weights,
      ...(request.tokenIds && { promptIds: prompt }),
      ...(generation.promptTokensSeen && { promptLogprobs: this.#seen(generation.promptTokensSeen) }),
    });

    let started = false;
    let thinking = reasoning;
    let reasoningTokens = 0;
    let reason: FinishReason = "length";
    let stopId: number | undefined;
    let completionTokens = 0;
    const think = tokenizer.special.get(controls.think);
    const closes = new Set(
      [controls.thinkEnd, controls.sectionBegin, controls.callBegin].map((name) => tokenizer.special.get(name)),
    );
    const pace = request.sampling?.stop?.length ? 0 : this.#options.pace;
    for await (const tokens of generation.batches(pace)) {
      if (!started) yield start(tokens[0]!.version);
      started = true;
      const said: ModelEvent[] = [];
      for (const token of tokens) {
        completionTokens++;
        const ended = token.id === end;
        const stopped = stopIds.includes(token.id);
        if (tells && (!ended || request.tokenIds)) said.push({ type: "tokens", tokens: [this.#info(token, request)] });
        // A stop token is no part of the message, and an end that ends nothing is no end.
        const silent = (stopped && !includeStop) || (ended && ignoreEnd);
        const events = silent ? [] : parser.push([token.id]);
        const before = thinking;
        for (const { type } of events) if (type !== "problem") thinking = type === "reasoning";
        if (think === token.id) thinking = true;
        if (closes.has(token.id)) thinking = false;
        if (thinking && (before || think === undefined) && !ended) reasoningTokens++;
        const heard = completionTokens > minTokens ? stops : unstopped;
        for (const event of stopAt(events, heard, includeStop)) addEvent(said as ChatEvent[], event);
        if (stops.stop !== undefined) break;
        if (token.finish) reason = token.finish.reason;
        if (stopped && token.finish?.reason === "stop") stopId = token.id;
      }
      yield* said;
      if (stops.stop !== undefined) break;
    }
    if (!started) yield start(this.#engine.version);
    const usage: ModelEvent = {
      type: "usage",
      usage: {
        promptTokens: generation.promptTokens,
        completionTokens,
        cachedTokens: generation.cachedTokens,
        ...(reasoningTokens > 0 && { reasoningTokens }),
      },
    };
    request.onTrace?.(traceOf(generation.trace));
    if (stops.stop !== undefined) {
      yield usage;
      yield { type: "finish", reason: "stop", stop: stops.stop };
      return;
    }
    for (const event of parser.end(reason)) {
      if (event.type !== "finish") yield* stopAt([event], stops, includeStop);
      else {
        const rest = stops.stop === undefined ? stops.end() : "";
        if (rest) yield { type: "text", text: rest };
        yield usage;
        const stop = stops.stop ?? stopId;
        yield { type: "finish", reason: event.reason, ...(stop !== undefined && { stop }) };
      }
    }
  }

  /** Throws `llm.unsupported` for what this model cannot honour. */
  #refuse({ extra, messages, responseFormat, toolChoice }: ChatRequest): void {
    const last = messages.at(-1);
    const partial = last?.role === "assistant" && last.partial === true;
    const forced = toolChoice === "required" || typeof toolChoice === "object";
    const field =
      extra && Object.keys(extra).length
        ? `extra.${Object.keys(extra)[0]}`
        : partial && (forced || (responseFormat && responseFormat.type !== "text"))
          ? "partial with an enforced answer"
          : undefined;
    if (field) throw new LlmError("llm.unsupported", { found: `${field} asked of ${this.name}`, fix: "leave it out" });
  }

  /** Whether the answer may reason. A model that never does keeps to any wish about it. */
  #mayThink({ reasoning }: ChatRequest): boolean {
    return (reasoning?.enabled ?? true) && reasoning?.effort !== "none" && reasoning?.budget !== 0;
  }

  /** The bound of reasoning: its budget, or the share of the answer that its effort may take. */
  #thinking({ reasoning }: ChatRequest, open: boolean, maxTokens: number): Pick<GenerateRequest, "thinking"> {
    const [begin, end] = [controls.think, controls.thinkEnd].map((name) => this.#tokenizer.special.get(name));
    const share = efforts[reasoning?.effort ?? ""];
    const budget = reasoning?.budget ?? (share === undefined ? undefined : Math.floor(share * maxTokens));
    if (budget === undefined || begin === undefined || end === undefined || !thinks(this.#options.template)) return {};
    return { thinking: { budget, begin, end, open } };
  }

  /** What the engine is given for a request. */
  prompt(request: ChatRequest): { rendered: string; ids: number[] } {
    const { prompt, segments } = this.#prompt(request);
    return { rendered: renderedText(segments), ids: prompt };
  }

  /** The ids of the prompt; those of its end that the answer goes on from as its own; whether that is reasoning. */
  #prompt(request: ChatRequest): { prompt: number[]; segments: Segment[]; said: number[]; reasoning: boolean } {
    const { template, toolStyle } = this.#options;
    const tokenizer = this.#tokenizer;
    const segments = render({
      template,
      // Only the header is looked at where the rest is given as ids.
      ...(request.promptIds ? { messages: [] } : { messages: request.messages, tools: request.tools ?? [] }),
      addGenerationPrompt: true,
      ...(toolStyle && { toolStyle }),
      ...(request.reasoning?.keep && { keepReasoning: true }),
    });
    const open = segments.findLastIndex(({ control }) => control === "middle");
    const inThink = segments.slice(open).findLast(({ control }) => control === "think" || control === "thinkEnd");
    const pair = thinks(template) && tokenizer.special.has(controls.think) && tokenizer.special.has(controls.thinkEnd);
    let reasoning = inThink?.control === "think";
    const more: Segment[] = [];
    const add = (control: "think" | "thinkEnd") =>
      more.push({ source: "template", message: request.messages.length, control });
    // Nothing begun: an answer without reasoning has an empty pair; one that a grammar holds must say where it begins.
    if (!inThink && pair && open === segments.length - 1) {
      const wanted = this.#mayThink(request);
      if (!wanted || this.#enforces(request)) {
        add("think");
        if (wanted) reasoning = true;
        else add("thinkEnd");
      }
    }
    const said = more.length
      ? more
      : inThink
        ? segments.slice(open + 1).filter((s) => s.control === "think" || s.control === "thinkEnd")
        : [];
    const whole = request.promptIds
      ? [...request.promptIds, ...encodeSegments(more, tokenizer).ids]
      : encodeSegments([...segments, ...more], tokenizer).ids;
    return {
      prompt: this.#truncated(whole, request),
      segments: [...segments, ...more],
      said: said.flatMap(({ control }) => tokenizer.special.get(controls[control!]) ?? []),
      reasoning,
    };
  }

  /** The end of a prompt, where only so much of it is wanted. */
  #truncated(ids: number[], { truncatePrompt, sampling }: ChatRequest): number[] {
    if (truncatePrompt === undefined) return ids;
    const room = Math.max(1, this.#engine.contextLength - (sampling?.maxTokens ?? 1));
    return ids.slice(-(truncatePrompt < 0 ? room : truncatePrompt));
  }

  #seen(tokens: readonly PromptToken[]): PromptLogprobs {
    const decoder = new TextDecoder();
    const row = (id: number, logprob: number, rank: number) =>
      [String(id), { logprob, rank, decoded_token: decoder.decode(this.#bytes(id)) }] as const;
    return Array.from(tokens, (token) => {
      if (!token) return null;
      const { id, logprob, rank, top } = token;
      return Object.fromEntries([row(id, logprob, rank), ...top.map((t, i) => row(t.id, t.logprob, i + 1))]);
    });
  }

  #sampling(request: ChatRequest, promptTokens: number): Omit<GenerateRequest, "prompt"> {
    const { template, sampling } = this.#options;
    const defaults = sampling ?? { temperature: thinks(template) ? 1 : 0.6 };
    const {
      stop: _,
      stopIds: __,
      ignoreEnd: ___,
      includeStop: ____,
      logitBias,
      maxTokens,
      ...rest
    } = { ...defaults, ...withoutUndefined(request.sampling ?? {}) };
    const room = this.#engine.contextLength - promptTokens;
    if (room < 1)
      throw new LlmError("llm.context", {
        found: `a prompt of ${promptTokens} tokens`,
        expected: `fewer than ${this.#engine.contextLength}`,
        fix: "shorten the conversation",
      });
    return {
      ...rest,
      maxTokens: Math.min(maxTokens ?? room, room),
      ...(logitBias && { logitBias: new Map(Object.entries(logitBias).map(([id, bias]) => [Number(id), bias])) }),
    };
  }

  async #grammar(request: ChatRequest, reasoning: boolean): Promise<Grammar | undefined> {
    if (!this.#enforces(request)) return undefined;
    const { toolChoice, parallelToolCalls = true, responseFormat, messages, sampling } = request;
    const tools = declaredTools(request);
    const options: TurnOptions = {
      tools: tools.flatMap(({ function: fn }) =>
        fn ? [{ name: fn.name, ...(fn.parameters != null && { parameters: fn.parameters as Json }) }] : [],
      ),
      ...(toolChoice !== undefined && { toolChoice }),
      parallel: parallelToolCalls,
      firstIndex: callCount(messages),
      reasoning,
      format: formatOf(responseFormat),
      end: sampling?.ignoreEnd ? [] : [controls.end],
    };
    const key = JSON.stringify(options);
    const grammar = this.#grammars.get(key) ?? (await compileAside(this.#vocabulary, options));
    // The latest used stand last, so the first is the one to forget.
    this.#grammars.delete(key);
    this.#grammars.set(key, grammar);
    if (this.#grammars.size > GRAMMARS) this.#grammars.delete(this.#grammars.keys().next().value!);
    return grammar;
  }

  /** Whether a grammar holds the answer. */
  #enforces(request: ChatRequest): boolean {
    const { toolChoice = "auto", responseFormat } = request;
    const some = declaredTools(request).length > 0;
    if (responseFormat && responseFormat.type !== "text") return true;
    if (toolChoice === "auto") return some && (this.#options.enforce ?? true);
    return some || toolChoice !== "none";
  }

  #info({ id, logprob, top, experts }: GeneratedToken, { logprobs, tokenIds }: ChatRequest): TokenInfo {
    const of = (id: number, logprob: number): TokenInfo => {
      const bytes = this.#bytes(id);
      return {
        ...(tokenIds && { id }),
        text: new TextDecoder().decode(bytes),
        bytes: Array.from(bytes),
        ...(logprobs !== undefined && { logprob }),
      };
    };
    return {
      ...of(id, logprob),
      ...(top && { top: top.map((other) => of(other.id, other.logprob)) }),
      ...(experts && { experts }),
    };
  }

  /** None for the rows that a model's vocabulary has beyond its tokenizer's. */
  #bytes(id: number): Uint8Array {
    return id < this.#tokenizer.vocabSize ? this.#tokenizer.tokenBytes(id) : new Uint8Array();
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
const unstopped = new StopScanner([]);

function formatOf(format: ChatRequest["responseFormat"]): NonNullable<TurnOptions["format"]> {
  switch (format?.type) {
    case "json_schema":
      return { schema: format.schema as Json };
    case "regex":
      return { regex: format.pattern };
    case "choice":
      return { choice: format.choices };
    case "grammar":
      return { grammar: format.grammar };
    default:
      return format?.type ?? "text";
  }
}

/** Times since it arrived, and the sums of its choices. */
function traceOf({ arrived, masks, ...trace }: Generation["trace"]): Trace {
  const after = (at: number | undefined) => (at === undefined ? undefined : at - arrived);
  const total = { asked: 0, computed: 0, forced: 0, milliseconds: 0 };
  for (const one of masks) for (const key of Object.keys(total) as (keyof typeof total)[]) total[key] += one[key];
  const { blocksFound, preemptions } = trace;
  const times = { admitted: after(trace.admitted), firstToken: after(trace.firstToken) };
  return withoutUndefined({ ...times, finished: after(trace.finished), blocksFound, preemptions, masks: total });
}

const withoutUndefined = <T extends object>(given: T): { [K in keyof T]: Exclude<T[K], undefined> } =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as never;
