/**
 * One person playing the user of one world: the agent's one loop runs in the background, and what happens in it is a list of
 * events that only grows, so that a page can leave and come back. What the verifier thinks is told at the end, to the person.
 */
import type { Message } from "../../chat/index.ts";
import { MassifError } from "../../common/index.ts";
import type { ChatRequest, LanguageModel, ModelEvent, Sampling } from "../../llm/index.ts";
import { type Brief, type Check, PersonEnvironment, type World } from "../../worlds/index.ts";
import { ApiError } from "../errors.ts";
import { logprobsBody, usageBody } from "../openai/chat-chunks.ts";

export type PlayEvent =
  /** What the person said. */
  | { type: "said"; text: string }
  /** The model begins a message. */
  | { type: "turn" }
  /** A piece of it, as `/v1/chat/completions` streams it. */
  | { type: "chunk"; chunk: Record<string, unknown> }
  | { type: "results"; results: { id: string; content: string }[] }
  /** It is the person's turn. */
  | { type: "wait" }
  | { type: "end"; ended: string; success: boolean; checks: Check[] }
  | { type: "failed"; message: string };

interface PlayOptions {
  world: World;
  seed: number;
  model: LanguageModel;
  sampling: Sampling & { maxTokens: number };
  /** Of the likeliest tokens at each place; undefined where none are asked for. */
  logprobs?: number;
  /** Most messages of the model. */
  maxSteps: number;
}

export class Play {
  readonly events: PlayEvent[] = [];
  readonly #gone = new AbortController();
  #brief: Brief | undefined;
  #env: PersonEnvironment | undefined;
  #reply: ((said: string | null) => void) | undefined;
  #woken: (() => void)[] = [];
  #over = false;
  /** What they know who play the user; there once the world has begun. */
  readonly brief: Promise<Brief>;

  constructor(options: PlayOptions) {
    let begun: (brief: Brief) => void;
    let broken: (error: unknown) => void;
    this.brief = new Promise((resolve, reject) => {
      [begun, broken] = [resolve, reject];
    });
    void this.#run(options, (brief) => begun(brief)).catch((error) => {
      broken(error);
      const told = error instanceof MassifError ? firstLine(error) : "the server failed";
      this.#push({ type: "failed", message: this.#gone.signal.aborted ? "the conversation was left" : told });
      this.#over = true;
    });
  }

  get over(): boolean {
    return this.#over;
  }

  async #run({ world, seed, model, maxSteps, sampling, logprobs }: PlayOptions, begun: (brief: Brief) => void) {
    // On demand: the agent's door loads torch, and a gateway that plays no world needs none.
    const { runEpisode } = await import("../../agent/index.ts");
    const env = new PersonEnvironment(world, {
      open: async (brief) => {
        this.#env = env;
        this.#brief = brief;
        begun(brief);
        return (await this.#hear()) ?? brief.goal;
      },
      answer: () => this.#hear(),
    });
    const asking: LanguageModel = {
      name: model.name,
      stream: (request: ChatRequest) => model.stream({ ...request, ...(logprobs !== undefined && { logprobs }) }),
    };
    const { signal } = this.#gone;
    const abandoned = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    const episode = runEpisode(asking, env, seed, {
      ...{ maxSteps, sampling, signal },
      onEvent: (event) => {
        if (event.type === "model") {
          if (!["turn", "chunk"].includes(this.events.at(-1)?.type ?? "")) this.#push({ type: "turn" });
          const chunk = chunkOf(event.event);
          if (chunk) this.#push({ type: "chunk", chunk });
        } else if (event.type === "observations") this.#results(event.messages);
        else if (event.type === "end") {
          const { success, checks } = event.verdict;
          this.#push({ type: "end", ended: event.ended, success, checks });
          this.#over = true;
        }
      },
    });
    await Promise.race([episode, abandoned]);
  }

  #results(messages: readonly Message[]): void {
    const results = messages.flatMap((message) =>
      message.role === "tool" ? [{ id: message.tool_call_id ?? "", content: String(message.content) }] : [],
    );
    if (results.length) this.#push({ type: "results", results });
  }

  /** What the person says next; null: the conversation is over. */
  #hear(): Promise<string | null> {
    this.#push({ type: "wait" });
    return new Promise((resolve) => {
      this.#reply = resolve;
    });
  }

  /** Says something, or with null ends the conversation. Throws 409 where it is not the person's turn. */
  say(text: string | null): void {
    const reply = this.#turn();
    if (text === null && !this.events.some(({ type }) => type === "said"))
      throw new ApiError(409, "nothing was said yet", { code: "not_your_turn" });
    if (text !== null) this.#push({ type: "said", text });
    this.#reply = undefined;
    reply(text);
  }

  /** Does one of the brief's acts; returns what the user would say of it. Throws 409. */
  act(index: number): string {
    this.#turn();
    try {
      return this.#env!.act(index);
    } catch (cause) {
      throw new ApiError(409, `act: ${firstLine(cause as Error)}`, { param: "act", cause });
    }
  }

  #turn(): (said: string | null) => void {
    if (this.#over) throw new ApiError(409, "the conversation is over", { code: "over" });
    if (!this.#reply || !this.#brief)
      throw new ApiError(409, "the assistant is not done yet", { code: "not_your_turn" });
    return this.#reply;
  }

  /** Ends it for good. */
  leave(): void {
    this.#gone.abort(new MassifError("play.left", { found: "the conversation was left" }));
  }

  #push(event: PlayEvent): void {
    this.events.push(event);
    for (const wake of this.#woken.splice(0)) wake();
  }

  /** Events from an index on, as they come; to the end of the conversation or the signal. */
  async *follow(from: number, signal: AbortSignal): AsyncGenerator<{ index: number; event: PlayEvent }, void> {
    for (let index = from; !signal.aborted; ) {
      for (; index < this.events.length; index++) yield { index, event: this.events[index]! };
      if (this.#over) return;
      await new Promise<void>((resolve) => {
        this.#woken.push(resolve);
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
    }
  }
}

const firstLine = ({ message }: Error): string => message.split("\n", 1)[0]!;

/** As a chunk of `/v1/chat/completions`: the page reads both alike. */
function chunkOf(event: ModelEvent): Record<string, unknown> | undefined {
  const delta = (delta: object, more: object = {}) => ({ choices: [{ index: 0, delta, ...more }] });
  switch (event.type) {
    case "reasoning":
      return delta({ reasoning_content: event.text });
    case "text":
      return delta({ content: event.text });
    case "tool-call-begin": {
      const { index, id, name } = event;
      return delta({ tool_calls: [{ index, id, type: "function", function: { name, arguments: "" } }] });
    }
    case "tool-call-delta":
      return delta({ tool_calls: [{ index: event.index, function: { arguments: event.arguments } }] });
    case "tokens":
      return event.tokens.some(({ logprob }) => logprob !== undefined)
        ? delta({}, { logprobs: logprobsBody(event.tokens) })
        : undefined;
    case "usage":
      return { choices: [], usage: usageBody(event.usage) };
    case "finish":
      return delta({}, { finish_reason: event.reason });
    default:
      return undefined;
  }
}
