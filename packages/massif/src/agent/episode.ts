/** The one loop: a model and an environment, from reset to verdict. Synthesis, rollouts, evaluation and the product run it. */
import {
  type AssistantMessage,
  type Ended,
  type Message,
  rewriteIds,
  type TemplateName,
  type ToolSpec,
  type ToolStyle,
  type Trajectory,
} from "../chat/index.ts";
import { MassifError, Random } from "../common/index.ts";
import {
  assembleCompletion,
  type ChatRequest,
  type Completion,
  type Finish,
  type LanguageModel,
  LlmError,
  type ModelEvent,
  type Sampling,
} from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { Environment, Verdict } from "../worlds/index.ts";
import { recordOf } from "./record.ts";
import { TokenLog } from "./token-log.ts";

export type EpisodeEvent =
  | { type: "begin"; seed: number; messages: readonly Message[]; tools: readonly ToolSpec[] }
  /** What the model says, as it comes. */
  | { type: "model"; turn: number; event: ModelEvent }
  | { type: "action"; turn: number; message: AssistantMessage; finish: Finish }
  /** What came of it: results of calls, or what the user says. */
  | { type: "observations"; turn: number; messages: readonly Message[] }
  | { type: "end"; ended: Ended; verdict: Verdict };

export interface EpisodeOptions {
  /** `maxTokens` is of each message; from `seed` and the episode's every message has a seed of its own. */
  sampling?: Sampling;
  /** Most messages of the model. Default 32. */
  maxSteps?: number;
  /** Most tokens that the model writes in the whole episode. */
  maxTokens?: number;
  /** The model's own, both: then ids, sources and log-probabilities are kept, where the model tells its ids. */
  tokenizer?: Tokenizer;
  template?: TemplateName;
  toolStyle?: ToolStyle;
  /** What else is asked of the model: tool choice, reasoning. */
  request?: Pick<ChatRequest, "toolChoice" | "parallelToolCalls" | "reasoning" | "extra" | "metadata">;
  signal?: AbortSignal;
  onEvent?: (event: EpisodeEvent) => void;
}

/**
 * One episode. The record has the tokens where the model gives ids, and says how the episode ended; a message that was cut
 * is part of it and never reaches the environment. Throws what model and environment throw, and `agent.prompt`.
 */
export async function runEpisode(
  model: LanguageModel,
  env: Environment,
  seed: number,
  options: EpisodeOptions = {},
): Promise<Trajectory> {
  const { maxSteps = 32, onEvent, sampling } = options;
  const start = await env.reset(seed);
  const { tools } = start;
  const messages = [...start.messages];
  onEvent?.({ type: "begin", seed, messages: start.messages, tools });
  let log = openLog(options);
  let written = 0;
  let ended: Ended | undefined;
  for (let turn = 0; !ended; turn++) {
    const left = (options.maxTokens ?? Number.POSITIVE_INFINITY) - written;
    if (turn >= maxSteps || left <= 0) {
      ended = turn >= maxSteps ? "steps" : "tokens";
      break;
    }
    const own = sampling?.maxTokens ?? Number.POSITIVE_INFINITY;
    const maxTokens = Math.min(own, left);
    const request: ChatRequest = {
      ...options.request,
      messages,
      tools,
      sampling: {
        ...sampling,
        ...(sampling?.seed !== undefined && { seed: Random.of(sampling.seed, "episode", seed, turn).uint32() }),
        ...(Number.isFinite(maxTokens) && { maxTokens }),
      },
      ...(log && { promptIds: log.prompt(messages, tools), tokenIds: true, logprobs: 0 }),
      ...(options.signal && { signal: options.signal }),
    };
    const answer = await ask(model, request, (event) => onEvent?.({ type: "model", turn, event }));
    if (!answer) {
      ended = "context";
      break;
    }
    const { finish, usage, tokens } = answer;
    written += usage?.completionTokens ?? tokens.length;
    if (log && !log.wrote(answer)) log = undefined;
    // Ids of other systems become K2's; what was sampled as ids stays as it was sampled.
    const message = log ? answer.message : (rewriteIds([...messages, answer.message]).at(-1) as AssistantMessage);
    messages.push(message);
    onEvent?.({ type: "action", turn, message, finish });
    if (finish === "length") ended = own <= left ? "length" : "tokens";
    else if (finish === "content_filter") ended = finish;
    else {
      const step = await env.step(message);
      messages.push(...step.observations);
      if (step.observations.length) onEvent?.({ type: "observations", turn, messages: step.observations });
      if (step.done) ended = "done";
    }
  }
  const verdict = await env.score();
  onEvent?.({ type: "end", ended, verdict });
  const made = { messages, tools, verdict, ended, ...(log && { tokens: log.tokens() }) };
  return recordOf(env, made, { agent: { model: model.name, ...(sampling && { sampling }) } });
}

function openLog({ tokenizer, template, toolStyle }: EpisodeOptions): TokenLog | undefined {
  if (!tokenizer !== !template)
    throw new MassifError("agent.options", {
      found: `a ${tokenizer ? "tokenizer without a template" : "template without a tokenizer"}`,
      expected: "both, to keep the ids of the conversation, or neither",
    });
  return tokenizer && template ? new TokenLog({ tokenizer, template, ...(toolStyle && { toolStyle }) }) : undefined;
}

/** The whole answer; undefined where the prompt is too long for the model. */
async function ask(
  model: LanguageModel,
  request: ChatRequest,
  each: (event: ModelEvent) => void,
): Promise<Completion | undefined> {
  const events: ModelEvent[] = [];
  try {
    for await (const event of model.stream(request)) {
      events.push(event);
      each(event);
    }
  } catch (error) {
    if (error instanceof MassifError && error.code === "llm.context") return undefined;
    throw error;
  }
  const { finish, ...rest } = assembleCompletion(events);
  if (!finish) throw new LlmError("llm.cut", { found: `${model.name} ended its message without a finish` });
  return { ...rest, finish };
}
