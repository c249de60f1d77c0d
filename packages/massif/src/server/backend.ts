/** What a server serves: a `LanguageModel`, and what is known of it beside. */
import { encodeSegments, render, renderedText, type TemplateName, type ToolStyle } from "../chat/index.ts";
import type { Pin } from "../engine/index.ts";
import type { ChatRequest, LanguageModel, RawEvent, RawRequest } from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Embedded, EmbeddingInputs, EmbedOptions } from "./openai/embeddings.ts";
import type { Control } from "./weights/control.ts";

/** The K2 format of a model whose prompts are made here. */
export interface Format {
  tokenizer: Tokenizer;
  template: TemplateName;
  toolStyle?: ToolStyle;
}

/** What vLLM's metrics tell of an engine. */
export interface Gauges {
  running: number;
  waiting: number;
  /** Share of the cache's blocks that are held, 0 to 1. */
  cacheUsage: number;
  prefixQueries: number;
  prefixHits: number;
  preemptions: number;
  /** Of an engine that guesses: steps with guesses, tokens guessed, and those that were right. */
  drafts?: number;
  draftTokens?: number;
  acceptedTokens?: number;
}

export interface Backend {
  /** What clients call it; `*` stands for every name. The first is shown. */
  readonly names: readonly string[];
  readonly model: LanguageModel;
  readonly format?: Format;
  /** Most tokens of prompt and answer. */
  readonly contextLength?: number;
  /** Fields that only an upstream understands are passed on to it; without, they are refused. */
  readonly passesFields?: boolean;
  /** What cannot be asked of it, by field, with the reason. */
  readonly cannot?: Readonly<Record<string, string>>;
  raw?(request: RawRequest): AsyncIterable<RawEvent>;
  /** Its `raw` takes prompts as they are given, and knows its own end. */
  readonly rawUpstream?: boolean;
  /** The prompt as the model gets it, where it is made here. */
  prompt?(request: ChatRequest): Prompt;
  readonly control?: Control;
  /** Computes a conversation's beginning, and keeps it in the cache until the pin is disposed of. */
  pin?(request: ChatRequest): Promise<Pin>;
  /** Vectors of texts or ids; as many components as are asked for, where it can choose. */
  embed?(inputs: EmbeddingInputs, options: EmbedOptions): Promise<Embedded>;
  gauges?(): Gauges;
}

export interface Prompt {
  rendered: string;
  ids: number[];
}

/** The prompt of a request in the K2 format. */
export function renderPrompt(format: Format, request: ChatRequest, addGenerationPrompt = true): Prompt {
  const { template, toolStyle, tokenizer } = format;
  const segments = render({
    template,
    messages: request.messages,
    tools: request.tools ?? [],
    addGenerationPrompt,
    ...(toolStyle && { toolStyle }),
    ...(request.reasoning?.keep && { keepReasoning: true }),
  });
  return { rendered: renderedText(segments), ids: encodeSegments(segments, tokenizer).ids };
}
