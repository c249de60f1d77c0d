/** The engine as a `LanguageModel`: renders K2's format, holds the answer to its grammar, parses it as it comes. */
import {
  addEvent,
  type ChatEvent,
  ChatParser,
  callCount,
  controls,
  encodeSegments,
  type FinishReason,
  render,
  type Segment,
  type TemplateName,
  type ToolStyle,
  thinks,
} from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import {
  aborted,
  type ChatRequest,
  type LanguageModel,
  LlmError,
  type ModelEvent,
  type Sampling,
  StopScanner,
  type TokenInfo,
} from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import {
  compileTurn,
  type Grammar,
  type Json,
  type TurnOptions,
  type Vocabulary,
  vocabularyOf,
} from "./enforcer/index.ts";
import type { Engine } from "./engine.ts";
import type { GeneratedToken, GenerateRequest } from "./request.ts";

export interface EngineModelOptions {
  template: TemplateName;
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
}

/** Compiled grammars remembered. */
const GRAMMARS = 64;

/** Throws `engine.tokenizer` for an engine without one. */
export function engineModel(engine: Engine, options: EngineModelOptions): LanguageModel {
  return new EngineModel(engine, options);
}

class EngineModel implements LanguageModel {
  readonly #engine: Engine;
  readonly #options: EngineModelOptions;
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
    this.#options = options;
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
    const tools = request.tools ?? [];
    const end = tokenizer.idOf(controls.end);
    const asked: GenerateRequest = {
      ...this.#sampling(request, prompt.length),
      prompt,
      stopIds: [end],
      ...(request.logprobs && { topLogprobs: request.logprobs }),
      ...(request.metadata?.user !== undefined && { client: request.metadata.user }),
      ...(request.signal && { signal: request.signal }),
    };
    const grammar = this.#grammar(request, reasoning);
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
    });

    let started = false;
    let thinking = reasoning;
    let reasoningTokens = 0;
    let reason: FinishReason = "length";
    let completionTokens = 0;
    const pace = request.sampling?.stop?.length ? 0 : this.#options.pace;
    for await (const tokens of generation.batches(pace)) {
      if (!started) yield start(tokens[0]!.version);
      started = true;
      const said: ModelEvent[] = [];
      for (const token of tokens) {
        completionTokens++;
        const ended = token.id === end;
        if (tells && (!ended || request.tokenIds)) said.push({ type: "tokens", tokens: [this.#info(token, request)] });
        const events = parser.push([token.id]);
        const before = thinking;
        for (const { type } of events) if (type !== "problem") thinking = type === "reasoning";
        if (tokenizer.special.get(controls.think) === token.id) thinking = true;
        if (tokenizer.special.get(controls.thinkEnd) === token.id) thinking = false;
        if (before || thinking) reasoningTokens++;
        for (const event of stopped(events, stops)) addEvent(said as ChatEvent[], event);
        if (stops.stop !== undefined) break;
        if (token.finish) reason = token.finish.reason;
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
    if (stops.stop !== undefined) {
      yield usage;
      yield { type: "finish", reason: "stop", stop: stops.stop };
      return;
    }
    for (const event of parser.end(reason)) {
      if (event.type !== "finish") yield* stopped([event], stops);
      else {
        const rest = stops.stop === undefined ? stops.end() : "";
        if (rest) yield { type: "text", text: rest };
        yield usage;
        yield { type: "finish", reason: event.reason, ...(stops.stop !== undefined && { stop: stops.stop }) };
      }
    }
  }

  /** Throws `llm.unsupported` for what this model cannot honour. */
  #refuse({ reasoning, extra, messages, responseFormat, toolChoice }: ChatRequest): void {
    const last = messages.at(-1);
    const partial = last?.role === "assistant" && last.partial === true;
    const forced = toolChoice === "required" || typeof toolChoice === "object";
    const field =
      reasoning?.budget !== undefined
        ? "reasoning.budget"
        : reasoning?.effort !== undefined
          ? "reasoning.effort"
          : extra && Object.keys(extra).length
            ? `extra.${Object.keys(extra)[0]}`
            : partial && (forced || (responseFormat && responseFormat.type !== "text"))
              ? "partial with an enforced answer"
              : undefined;
    if (field) throw new LlmError("llm.unsupported", { found: `${field} asked of ${this.name}`, fix: "leave it out" });
  }

  /** The ids of the prompt; those of its end that the answer goes on from as its own; whether that is reasoning. */
  #prompt(request: ChatRequest): { prompt: number[]; said: number[]; reasoning: boolean } {
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
      const wanted = request.reasoning?.enabled ?? true;
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
    return {
      prompt: request.promptIds
        ? [...request.promptIds, ...encodeSegments(more, tokenizer).ids]
        : encodeSegments([...segments, ...more], tokenizer).ids,
      said: said.flatMap(({ control }) => tokenizer.special.get(controls[control!]) ?? []),
      reasoning,
    };
  }

  #sampling(request: ChatRequest, promptTokens: number): Omit<GenerateRequest, "prompt"> {
    const { template, sampling } = this.#options;
    const defaults = sampling ?? { temperature: thinks(template) ? 1 : 0.6 };
    const { stop: _, logitBias, maxTokens, ...rest } = { ...defaults, ...withoutUndefined(request.sampling) };
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

  #grammar(request: ChatRequest, reasoning: boolean): Grammar | undefined {
    if (!this.#enforces(request)) return undefined;
    const { tools = [], toolChoice, parallelToolCalls = true, responseFormat, messages } = request;
    const options: TurnOptions = {
      tools: tools.flatMap(({ function: fn }) =>
        fn ? [{ name: fn.name, ...(fn.parameters != null && { parameters: fn.parameters as Json }) }] : [],
      ),
      ...(toolChoice !== undefined && { toolChoice }),
      parallel: parallelToolCalls,
      firstIndex: callCount(messages),
      reasoning,
      format:
        responseFormat?.type === "json_schema"
          ? { schema: responseFormat.schema as Json }
          : (responseFormat?.type ?? "text"),
      end: [controls.end],
    };
    const key = JSON.stringify(options);
    const grammar = this.#grammars.get(key) ?? compileTurn(this.#vocabulary, options);
    // The latest used stand last, so the first is the one to forget.
    this.#grammars.delete(key);
    this.#grammars.set(key, grammar);
    if (this.#grammars.size > GRAMMARS) this.#grammars.delete(this.#grammars.keys().next().value!);
    return grammar;
  }

  /** Whether a grammar holds the answer. */
  #enforces({ tools, toolChoice = "auto", responseFormat }: ChatRequest): boolean {
    if (responseFormat && responseFormat.type !== "text") return true;
    if (toolChoice === "auto") return !!tools?.length && (this.#options.enforce ?? true);
    return !!tools?.length || toolChoice !== "none";
  }

  #info({ id, logprob, top }: GeneratedToken, { logprobs, tokenIds }: ChatRequest): TokenInfo {
    const of = (id: number, logprob: number): TokenInfo => {
      const bytes = this.#bytes(id);
      return {
        ...(tokenIds && { id }),
        text: new TextDecoder().decode(bytes),
        bytes: Array.from(bytes),
        ...(logprobs !== undefined && { logprob }),
      };
    };
    return { ...of(id, logprob), ...(top && { top: top.map((other) => of(other.id, other.logprob)) }) };
  }

  /** None for the rows that a model's vocabulary has beyond its tokenizer's. */
  #bytes(id: number): Uint8Array {
    return id < this.#tokenizer.vocabSize ? this.#tokenizer.tokenBytes(id) : new Uint8Array();
  }
}

/** The events with their text up to a stop string. What comes before other events cannot become one any more. */
function* stopped(events: Iterable<ChatEvent>, stops: StopScanner): Generator<ChatEvent> {
  for (const event of events) {
    if (stops.stop !== undefined) return;
    if (event.type === "text") {
      const text = stops.push(event.text);
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

const withoutUndefined = (sampling: Sampling = {}): Sampling =>
  Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== undefined));
