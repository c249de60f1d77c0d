/** The engine as a `LanguageModel`: renders K2's format, holds the answer to its grammar, reads it as it comes. */
import { readTemplateName, renderedText, type TemplateName, type ToolStyle, thinks } from "../../chat/index.ts";
import { MassifError } from "../../common/index.ts";
import { vocabularyOf } from "../../enforcer/index.ts";
import { aborted, type ChatRequest, type LanguageModel, type ModelEvent, type Sampling } from "../../llm/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { Engine } from "../engine.ts";
import { askedOf, refuseUnsupported } from "./asked.ts";
import { Grammars, isEnforced } from "./grammars.ts";
import { type Prompt, promptOf } from "./prompt.ts";
import { AnswerReader } from "./reader.ts";
import { promptLogprobs, traceOf } from "./told.ts";

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
  readonly #grammars: Grammars;

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
    this.#grammars = new Grammars(vocabularyOf(engine.tokenizer, engine.model.config.vocabSize));
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

  /** What the engine is given for a request. */
  prompt(request: ChatRequest): { rendered: string; ids: number[] } {
    const { segments, ids } = this.#prompt(request);
    return { rendered: renderedText(segments), ids };
  }

  async *#stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    refuseUnsupported(request, this.name);
    const tokenizer = this.#tokenizer;
    const { contextLength } = this.#engine;
    const prompt = this.#prompt(request);
    const asked = askedOf(request, prompt, { ...this.#options, tokenizer, contextLength });
    const grammar = this.#enforces(request) ? await this.#grammars.of(request, prompt.reasoning) : undefined;
    request.signal?.throwIfAborted();
    const generation = this.#engine.generate({ ...asked, ...(grammar && { grammar }) });
    const start = (weights: number): ModelEvent => ({
      type: "start",
      model: this.name,
      weights,
      ...(request.tokenIds && { promptIds: prompt.ids }),
      ...(generation.promptTokensSeen && { promptLogprobs: promptLogprobs(tokenizer, generation.promptTokensSeen) }),
    });

    const reader = new AnswerReader(request, prompt, tokenizer, thinks(this.#options.template));
    let started = false;
    const pace = request.sampling?.stop?.length ? 0 : this.#options.pace;
    for await (const tokens of generation.batches(pace)) {
      if (!started) yield start(tokens[0]!.version);
      started = true;
      yield* reader.read(tokens);
      if (reader.stopped) break;
    }
    if (!started) yield start(this.#engine.version);
    request.onTrace?.(traceOf(generation.trace));
    const { events, finish } = reader.end();
    yield* events;
    const { promptTokens, cachedTokens } = generation;
    yield { type: "usage", usage: { promptTokens, ...reader.usage, cachedTokens } };
    yield finish;
  }

  #prompt(request: ChatRequest): Prompt {
    const { template, toolStyle } = this.#options;
    return promptOf(request, {
      ...{ template, ...(toolStyle && { toolStyle }) },
      ...{ tokenizer: this.#tokenizer, contextLength: this.#engine.contextLength },
      enforced: this.#enforces(request),
    });
  }

  #enforces(request: ChatRequest): boolean {
    return isEnforced(request, this.#options.enforce ?? true);
  }
}
