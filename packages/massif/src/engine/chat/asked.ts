/** A conversation's request as the engine's, in tokens: how it samples, where it ends, how long it may reason. */
import { controls, type TemplateName, thinks } from "../../chat/index.ts";
import { type ChatRequest, LlmError, type Sampling } from "../../llm/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import type { GenerateRequest } from "../request.ts";
import type { Prompt } from "./prompt.ts";
import { withoutUndefined } from "./told.ts";

export interface AskedOptions {
  template: TemplateName;
  tokenizer: Tokenizer;
  /** What a request leaves out. Default: Moonshot's temperatures, 0.6 for Instruct and 1 for Thinking. */
  sampling?: Sampling;
  experts?: boolean;
  contextLength: number;
}

/** Shares of an answer's tokens that an effort may take for reasoning, as OpenRouter has them; what is not here is none
 *  or no bound. */
const EFFORTS: Readonly<Record<string, number>> = { minimal: 0.1, low: 0.2, medium: 0.5, high: 0.8, xhigh: 0.95 };

/** Throws `llm.context` for a prompt that leaves no room. */
export function askedOf(request: ChatRequest, { ids, reasoning }: Prompt, options: AskedOptions): GenerateRequest {
  const { logprobs, promptLogprobs, metadata, priority, salt, signal } = request;
  const { ignoreEnd, stopIds = [] } = request.sampling ?? {};
  const sampling = samplingOf(request, ids.length, options);
  return {
    ...sampling,
    prompt: ids,
    stopIds: ignoreEnd ? stopIds : [options.tokenizer.idOf(controls.end), ...stopIds],
    ...(logprobs && { topLogprobs: logprobs }),
    ...(options.experts && { experts: true }),
    ...(promptLogprobs !== undefined && { promptLogprobs: true, topPromptLogprobs: promptLogprobs }),
    ...(metadata?.user !== undefined && { client: metadata.user }),
    ...(priority !== undefined && { priority }),
    ...(salt !== undefined && { salt }),
    ...(signal && { signal }),
    ...thinkingOf(request, reasoning, sampling.maxTokens, options),
  };
}

/** Throws `llm.unsupported` for what the engine cannot honour. */
export function refuseUnsupported({ extra, messages, responseFormat, toolChoice }: ChatRequest, name: string): void {
  const last = messages.at(-1);
  const partial = last?.role === "assistant" && last.partial === true;
  const forced = toolChoice === "required" || typeof toolChoice === "object";
  const field =
    extra && Object.keys(extra).length
      ? `extra.${Object.keys(extra)[0]}`
      : partial && (forced || (responseFormat && responseFormat.type !== "text"))
        ? "partial with an enforced answer"
        : undefined;
  if (field) throw new LlmError("llm.unsupported", { found: `${field} asked of ${name}`, fix: "leave it out" });
}

function samplingOf(
  request: ChatRequest,
  promptTokens: number,
  { template, sampling, contextLength }: AskedOptions,
): Omit<GenerateRequest, "prompt"> {
  const defaults = sampling ?? { temperature: thinks(template) ? 1 : 0.6 };
  const given = { ...defaults, ...withoutUndefined(request.sampling ?? {}) };
  // Stops are looked for in the message that is read, and not in the tokens.
  const { stop: _, stopIds: __, ignoreEnd: ___, includeStop: ____, logitBias, maxTokens, ...rest } = given;
  const room = contextLength - promptTokens;
  if (room < 1)
    throw new LlmError("llm.context", {
      found: `a prompt of ${promptTokens} tokens`,
      expected: `fewer than ${contextLength}`,
      fix: "shorten the conversation",
    });
  return {
    ...rest,
    maxTokens: Math.min(maxTokens ?? room, room),
    ...(logitBias && { logitBias: new Map(Object.entries(logitBias).map(([id, bias]) => [Number(id), bias])) }),
  };
}

/** The bound of reasoning: its budget, or the share of the answer that its effort may take. */
function thinkingOf(
  { reasoning }: ChatRequest,
  open: boolean,
  maxTokens: number,
  { tokenizer, template }: AskedOptions,
): Pick<GenerateRequest, "thinking"> {
  const [begin, end] = [controls.think, controls.thinkEnd].map((name) => tokenizer.special.get(name));
  const share = EFFORTS[reasoning?.effort ?? ""];
  const budget = reasoning?.budget ?? (share === undefined ? undefined : Math.floor(share * maxTokens));
  if (budget === undefined || begin === undefined || end === undefined || !thinks(template)) return {};
  return { thinking: { budget, begin, end, open } };
}
