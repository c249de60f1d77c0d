/** What the engine is asked, in tokens, and what it gives back. */
import { MassifError } from "../common/index.ts";
import type { Grammar } from "../enforcer/index.ts";
import type { ModelConfig, SamplingOptions } from "../model/index.ts";

export interface GenerateRequest extends SamplingOptions {
  /** Ids, at least one. */
  prompt: ArrayLike<number>;
  /** Most tokens of each choice; 0 computes the prompt only. */
  maxTokens: number;
  /** No stop id comes and no stop string counts before so many tokens. */
  minTokens?: number;
  /** Continuations of the prompt, which is computed once. Default 1. */
  n?: number;
  /** The same seed and request give the same tokens, whatever else the engine does (bit for bit where it is exact).
   *  Without one the engine draws it. */
  seed?: number;
  /** Texts that end a choice and are not part of it; they need a tokenizer. */
  stop?: readonly string[];
  /** Tokens that end a choice; they are its last token, without text. */
  stopIds?: readonly number[];
  /** The stop string is a part of the text that it ends. */
  includeStop?: boolean;
  /** Only these tokens come. */
  allowedIds?: readonly number[];
  /** Texts that no choice says, as the tokens that spell them (vLLM's rule: a text spelled otherwise is not found). */
  badWords?: readonly string[];
  /** Bounds reasoning: after so many tokens of it comes its end token. */
  thinking?: Thinking;
  /** Every choice is an answer of this grammar, complete within `maxTokens`. */
  grammar?: Grammar;
  /** Tells this many of the likeliest at each place. */
  topLogprobs?: number;
  /** Tells the log-probability of every token of the prompt. It then finds no prefix: all of it is computed. */
  promptLogprobs?: boolean;
  /** Beside it, this many of the likeliest at each place of the prompt. */
  topPromptLogprobs?: number;
  /** Tells the experts of every layer. */
  experts?: boolean;
  /** Leaves out of texts what `skipSpecial` of the decoder leaves out. Default true. */
  skipSpecial?: boolean;
  /** Whose it is: clients take turns. */
  client?: string;
  /** Prefixes are found only by requests with the same salt. */
  salt?: string;
  /** Lower goes first, whoever asks. Default 0. */
  priority?: number;
  signal?: AbortSignal;
}

/** Reasoning stands between two tokens. */
export interface Thinking {
  /** Tokens between them. */
  budget: number;
  begin: number;
  end: number;
  /** The prompt ends inside of it. */
  open: boolean;
}

export interface Likely {
  id: number;
  /** Natural, of the model's own distribution: temperature 1, nothing masked, biased or penalized. */
  logprob: number;
}

/** A token of the prompt as the model saw it coming. */
export interface PromptToken extends Likely {
  /** Its place among all tokens, from 1. */
  rank: number;
  top: Likely[];
}

/** One token of a choice, as it comes. */
export interface GeneratedToken extends Likely {
  /** Which of the `n`. */
  choice: number;
  /** The text that is certain now: what may become a stop string, or is a part of a character, comes with a later token. */
  text: string;
  /** Of the distribution it was drawn from; 0 where the likeliest was taken. */
  sampledLogprob: number;
  top?: Likely[];
  /** Of each layer with experts, those that the token before this one went through. */
  experts?: number[][];
  /** Of the weights. */
  version: number;
  /** With the last token of a choice. */
  finish?: Finish;
}

export interface Finish {
  reason: "stop" | "length";
  /** The stop string or stop id. */
  stop?: string | number;
}

/** Throws `engine.request` for what cannot be, and `engine.too-long`. */
export function checkRequest(request: GenerateRequest, config: ModelConfig, hasTokenizer: boolean): void {
  const { prompt, maxTokens, stop, grammar, n = 1 } = request;
  const refuse = (found: string, expected: string) => new MassifError("engine.request", { found, expected });
  const whole = (name: string, value: number, least: number) => {
    if (!Number.isSafeInteger(value) || value < least)
      throw refuse(`${name} is ${value}`, `a whole number from ${least}`);
  };
  const between = (name: string, value: number | undefined, least: number, most: number) => {
    if (value !== undefined && !(value >= least && value <= most))
      throw refuse(`${name} is ${value}`, `a number from ${least} to ${most}`);
  };
  whole("maxTokens", maxTokens, 0);
  whole("n", n, 1);
  whole("minTokens", request.minTokens ?? 0, 0);
  whole("topK", request.topK ?? 1, 1);
  whole("topLogprobs", request.topLogprobs ?? 0, 0);
  between("topLogprobs", request.topLogprobs, 0, config.vocabSize);
  between("topPromptLogprobs", request.topPromptLogprobs, 0, config.vocabSize);
  whole("thinking.budget", request.thinking?.budget ?? 0, 0);
  if (!Number.isSafeInteger(request.priority ?? 0)) throw refuse(`priority is ${request.priority}`, "a whole number");
  between("temperature", request.temperature, 0, 1e6);
  between("topP", request.topP, 0, 1);
  between("minP", request.minP, 0, 1);
  between("repetitionPenalty", request.repetitionPenalty, 1e-6, 1e6);
  between("presencePenalty", request.presencePenalty, -1e6, 1e6);
  between("frequencyPenalty", request.frequencyPenalty, -1e6, 1e6);
  if (prompt.length === 0) throw refuse("an empty prompt", "at least one token");
  const inside = (id: number) => Number.isInteger(id) && id >= 0 && id < config.vocabSize;
  const bad = Array.from(prompt).find((id) => !inside(id));
  if (bad !== undefined) throw refuse(`token ${bad} in the prompt`, `ids from 0 to ${config.vocabSize - 1}`);
  for (const [id, bias] of request.logitBias ?? [])
    if (!inside(id) || Number.isNaN(bias)) throw refuse(`logitBias of ${bias} for token ${id}`, "a number for a token");
  const strange = [...(request.stopIds ?? []), ...(request.allowedIds ?? [])].find((id) => !inside(id));
  if (strange !== undefined)
    throw refuse(`token ${strange} in stopIds or allowedIds`, `ids from 0 to ${config.vocabSize - 1}`);
  if (request.allowedIds && !request.allowedIds.length) throw refuse("no allowed token", "at least one in allowedIds");
  if (request.badWords?.length && !hasTokenizer) throw refuse("bad words", "an engine with a tokenizer");
  if (stop?.length && !hasTokenizer) throw refuse("stop strings", "an engine with a tokenizer");
  if (stop?.includes("")) throw refuse("an empty stop string", "texts");
  if (grammar && grammar.vocabulary.vocabSize !== config.vocabSize)
    throw refuse(
      `a grammar over ${grammar.vocabulary.vocabSize} tokens`,
      `one compiled for the model's ${config.vocabSize} (vocabularyOf(tokenizer, vocabSize))`,
    );
  if (prompt.length + maxTokens > config.maxPositionEmbeddings)
    throw new MassifError("engine.too-long", {
      found: `a prompt of ${prompt.length} tokens and up to ${maxTokens} new ones`,
      expected: `at most ${config.maxPositionEmbeddings} together (max_position_embeddings)`,
      fix: "shorten the prompt or lower the number of new tokens",
    });
}
