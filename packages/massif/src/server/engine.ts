/** Our own engine as a backend: conversations, bare continuations, weights, gauges. */
import { readTemplateName, type TemplateName, type ToolStyle } from "../chat/index.ts";
import type { Engine } from "../engine/index.ts";
import type { RawEvent, RawRequest, Sampling, TokenInfo } from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { type Backend, type Format, renderPrompt } from "./backend.ts";
import { embedHere } from "./openai/embeddings.ts";

export interface EngineBackendOptions {
  names: readonly string[];
  template: TemplateName | "instruct";
  toolStyle?: ToolStyle;
  /** What requests leave out. */
  sampling?: Sampling;
  /** Milliseconds between two looks at an answer under way: what has come meanwhile goes out as one chunk, since telling
   *  costs as much as computing does where a model is small. The first token goes at once. Default 40; 0 tells each alone. */
  pace?: number;
}

/** Throws `engine.tokenizer` for an engine without one, and `chat.template`. */
export async function engineBackend(engine: Engine, options: EngineBackendOptions): Promise<Backend> {
  // On demand: a gateway has no engine, and loads no torch.
  const { EngineControl } = await import("./weights/control.ts");
  const { names, toolStyle, sampling, pace = 40 } = options;
  const template = readTemplateName(options.template);
  const style = toolStyle && { toolStyle };
  const model = engine.chat({ template, name: names[0]!, pace, ...style, ...(sampling && { sampling }) });
  const tokenizer = engine.tokenizer!;
  const format: Format = { tokenizer, template, ...style };
  return {
    names,
    model,
    format,
    contextLength: engine.contextLength,
    prompt: (request) => model.prompt(request),
    raw: (request) => continueRaw(engine, tokenizer, request, pace),
    pin: (request) => engine.pin(renderPrompt(format, request, false).ids),
    embed: (inputs, options) => embedHere(engine, inputs, options),
    control: new EngineControl(engine),
    gauges() {
      const { running, waiting, blocks, promptTokens, cachedTokens, preemptions, ...metrics } = engine.metrics();
      const usage = { cacheUsage: blocks.held / blocks.total, prefixQueries: promptTokens, prefixHits: cachedTokens };
      const { drafts, draftTokens, acceptedTokens } = metrics;
      return { running, waiting, preemptions, ...usage, drafts, draftTokens, acceptedTokens };
    },
  };
}

async function* continueRaw(
  engine: Engine,
  tokenizer: Tokenizer,
  request: RawRequest,
  pace: number,
): AsyncGenerator<RawEvent, void, undefined> {
  const { sampling, logprobs, promptLogprobs, truncatePrompt: cut, priority, salt, signal, onWeights } = request;
  const { logitBias, stop, ignoreEnd, stopIds = [], ...rest } = sampling;
  const whole = typeof request.prompt === "string" ? Array.from(tokenizer.encode(request.prompt)) : request.prompt;
  const prompt = cut === undefined ? whole : whole.slice(-(cut < 0 ? engine.contextLength - sampling.maxTokens : cut));
  const end = ignoreEnd ? undefined : tokenizer.special.get("[EOS]");
  const ends = [...stopIds, ...(end === undefined ? [] : [end])];
  const bias = logitBias && new Map(Object.entries(logitBias).map(([id, by]) => [Number(id), by]));
  const generation = engine.generate({
    ...rest,
    prompt,
    temperature: sampling.temperature ?? 1,
    ...(bias && { logitBias: bias }),
    ...(stop && { stop }),
    ...(ends.length && { stopIds: ends }),
    ...(priority !== undefined && { priority }),
    ...(salt !== undefined && { salt }),
    ...(logprobs && { topLogprobs: logprobs }),
    ...(promptLogprobs && { promptLogprobs }),
    ...(signal && { signal }),
  });
  const info = (id: number, logprob?: number): TokenInfo => {
    const bytes = tokenizer.has(id) ? tokenizer.tokenBytes(id) : new Uint8Array();
    const text = new TextDecoder().decode(bytes);
    return {
      id,
      bytes: [...bytes],
      ...(!text.includes("\uFFFD") && { text }),
      ...(logprob !== undefined && { logprob }),
    };
  };
  let told = !promptLogprobs;
  const tellPrompt = (): RawEvent => {
    told = true;
    const logprobs = generation.promptLogprobs!;
    return { type: "prompt", tokens: prompt.map((id, i) => info(id, i ? logprobs[i]! : undefined)) };
  };
  let finish: RawEvent = { type: "finish", reason: "length" };
  for await (const tokens of generation.batches(pace)) {
    onWeights?.(tokens[0]!.version);
    if (!told) yield tellPrompt();
    const infos = tokens.map(({ id, logprob, top }): TokenInfo => {
      if (logprobs === undefined) return { id };
      const likely = top?.map((other) => info(other.id, other.logprob));
      return { ...info(id, logprob), ...(likely && { top: likely }) };
    });
    yield { type: "tokens", tokens: infos };
    const text = tokens.map(({ text }) => text).join("");
    if (text) yield { type: "text", text };
    const last = tokens.at(-1)!.finish;
    if (last) {
      const { reason, stop } = last;
      finish = { type: "finish", reason, ...(stop !== undefined && { stop }) };
    }
  }
  if (!told) yield tellPrompt();
  const { promptTokens, completionTokens, cachedTokens } = generation;
  yield { type: "usage", usage: { promptTokens, completionTokens, cachedTokens } };
  yield finish;
}
