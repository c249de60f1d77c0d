/** The little that is used of node-llama-cpp (3.22), behind one interface: the library is no dependency, so its types are
 *  stated here. */

import type { TokenInfo } from "./model.ts";
import type { Sampling } from "./request.ts";

export type Token = number;
export type Generation = AsyncGenerator<TokenInfo & { id: Token }, void, undefined>;

export interface LlamaHost {
  /** With `special`, text that spells a control token becomes one. */
  tokenize: (text: string, special: boolean) => Token[];
  /** The text that the last of these tokens adds; a character that is cut comes with its last token. */
  text(tokens: readonly Token[], last: Token): string;
  generate(
    prompt: readonly Token[],
    options: { sampling: Sampling; schema: object | undefined; logprobs: number | undefined },
  ): Promise<Generation>;
  dispose(): Promise<void>;
}

interface Sequence {
  readonly nextTokenIndex: number;
  adaptStateToTokens(tokens: readonly Token[], allowShift: boolean): Promise<void>;
  evaluateWithMetadata(
    tokens: readonly Token[],
    metadata: { confidence?: boolean; probabilities?: boolean },
    options: object,
  ): AsyncGenerator<{ token: Token; confidence?: number; probabilities?: Map<Token, number> }>;
}
interface Model {
  tokenize(text: string, special: boolean, options?: "trimLeadingSpace"): Token[];
  detokenize(tokens: readonly Token[], special: boolean): string;
  createContext(options: object): Promise<{ getSequence(): Sequence }>;
}
interface Library {
  getLlama(options: object): Promise<{
    loadModel(options: object): Promise<Model>;
    createGrammarForJsonSchema(schema: object): Promise<object>;
    dispose(): Promise<void>;
  }>;
  LlamaGrammarEvaluationState: new (options: { model: Model; grammar: object }) => object;
  TokenBias: new (model: Model) => { set(token: Token, bias: { logit: number }): unknown };
}

/** `library` is the URL of node-llama-cpp's entry, `weights` the path of a .gguf. */
export async function loadLlama(
  library: string,
  weights: string,
  contextSize: number,
  threads: number,
): Promise<LlamaHost> {
  const { getLlama, LlamaGrammarEvaluationState, TokenBias } = (await import(library)) as Library;
  const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: "error" });
  const model = await llama.loadModel({ modelPath: weights });
  const context = await model.createContext({ contextSize, threads });
  const sequence = context.getSequence();
  return {
    tokenize: (text, special) => model.tokenize(text, special, "trimLeadingSpace"),
    text(tokens, last) {
      // The few tokens before may hold the first bytes of a character: only whole characters are let out.
      const before = model.detokenize(tokens.slice(-8, -1), false).replace(/\ufffd+$/, "");
      const after = model.detokenize([...tokens.slice(-8, -1), last], false).replace(/\ufffd+$/, "");
      return after.slice(before.length);
    },
    async generate(prompt, { sampling, schema, logprobs }) {
      const grammar = schema && (await llama.createGrammarForJsonSchema(schema));
      const bias = new TokenBias(model);
      for (const [id, logit] of Object.entries(sampling.logitBias ?? {})) bias.set(Number(id), { logit });
      const { repetitionPenalty, presencePenalty, frequencyPenalty } = sampling;
      /** Penalties weigh the last 64 tokens of the answer, as llama.cpp's do. */
      const written: Token[] = [];
      const penal = repetitionPenalty ?? presencePenalty ?? frequencyPenalty;
      // The prefix that the last request left in the cache is used again; the last token must be evaluated anew.
      await sequence.adaptStateToTokens(prompt.slice(0, -1), false);
      const metadata = { confidence: logprobs !== undefined, probabilities: Boolean(logprobs) };
      const evaluated = sequence.evaluateWithMetadata(prompt.slice(sequence.nextTokenIndex), metadata, {
        temperature: sampling.temperature ?? 0,
        topP: sampling.topP,
        topK: sampling.topK,
        minP: sampling.minP,
        seed: sampling.seed ?? 0,
        ...(grammar && { grammarEvaluationState: new LlamaGrammarEvaluationState({ model, grammar }) }),
        ...(sampling.logitBias && { tokenBias: bias }),
        ...(penal !== undefined && {
          repeatPenalty: {
            punishTokens: () => written.slice(-64),
            penalty: repetitionPenalty ?? 1,
            presencePenalty,
            frequencyPenalty,
          },
        }),
      });
      return (async function* () {
        for await (const { token, confidence, probabilities } of evaluated) {
          written.push(token);
          const top = [...(probabilities ?? [])].slice(0, logprobs).map(([id, p]) => ({
            id,
            text: model.detokenize([id], true),
            logprob: Math.log(p),
          }));
          yield {
            id: token,
            text: model.detokenize([token], true),
            ...(confidence !== undefined && { logprob: Math.log(confidence) }),
            ...(top.length && { top }),
          };
        }
      })();
    },
    dispose: () => llama.dispose(),
  };
}
