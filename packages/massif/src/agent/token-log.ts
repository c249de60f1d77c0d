/** The tokens of one conversation as the model saw and wrote them. What the model wrote is never tokenized again: only
 *  what others say is encoded, and appended (agentic-data.md C1; anchors.md §8 tells what else goes wrong). */
import {
  controls,
  encodeSegments,
  type Message,
  render,
  type TemplateName,
  type TokenSource,
  type ToolSpec,
  type ToolStyle,
  type Trajectory,
} from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import type { Completion } from "../llm/index.ts";
import { type Tokenizer, tokenizerDigest } from "../tokenizer/index.ts";

export interface TokenLogOptions {
  /** The model's own. */
  tokenizer: Tokenizer;
  template: TemplateName;
  toolStyle?: ToolStyle;
}

type Tokens = NonNullable<Trajectory["tokens"]>;

export class TokenLog {
  readonly #options: TokenLogOptions;
  readonly #ids: number[] = [];
  readonly #sources: TokenSource[] = [];
  readonly #logprobs: (number | null)[] = [];
  readonly #turns: Tokens["turns"] = [];
  /** Messages that stand in the ids. */
  #messages = 0;

  constructor(options: TokenLogOptions) {
    this.#options = options;
  }

  /** The prompt of the next message: the ids so far, with what was said since and the header of the model's turn. */
  prompt(messages: readonly Message[], tools: readonly ToolSpec[]): number[] {
    const { tokenizer, template, toolStyle } = this.#options;
    const segments = render({
      template,
      messages,
      tools,
      addGenerationPrompt: true,
      keepReasoning: true,
      ...(toolStyle && { toolStyle }),
    });
    const fresh = segments.filter(({ message }) => message >= this.#messages || (!this.#ids.length && message < 0));
    const { ids, sources } = encodeSegments(fresh, tokenizer);
    for (const [i, id] of ids.entries()) this.#push(id, sources[i]!);
    this.#messages = messages.length;
    return [...this.#ids];
  }

  /** Appends what the model wrote to that prompt; an engine may put the beginning of a think block before it. False where it does not tell its ids: then there is no log of them.
   *  Throws `agent.prompt` where it read other ids than it was given. */
  wrote({ start, tokens, finish }: Completion): boolean {
    const said = start?.promptIds;
    if (!said || tokens.some(({ id }) => id === undefined)) return false;
    const at = this.#ids.findIndex((id, i) => said[i] !== id);
    if (at >= 0) {
      throw new MassifError("agent.prompt", {
        found: `the model read token ${said[at] ?? "none"} at place ${at}, the agent's ids have ${this.#ids[at]}`,
        expected: "the ids of the request (promptIds)",
        fix: "give the agent the model's own tokenizer and template, or leave them out: then no ids are kept",
      });
    }
    for (const id of said.slice(this.#ids.length)) this.#push(id, "template");
    const begin = this.#ids.length;
    for (const { id, logprob } of tokens) this.#push(id!, "assistant", logprob);
    this.#turns.push({
      message: this.#messages,
      start: begin,
      end: this.#ids.length,
      finish: finish === "content_filter" ? "stop" : finish,
      ...(start.weights !== undefined && { weights: start.weights }),
    });
    // A message that ended by another sign (a stop string) is closed for it: what follows expects the end.
    const end = this.#options.tokenizer.idOf(controls.end);
    if (finish !== "length" && this.#ids.at(-1) !== end) this.#push(end, "template");
    this.#messages++;
    return true;
  }

  #push(id: number, source: TokenSource, logprob?: number): void {
    this.#ids.push(id);
    this.#sources.push(source);
    this.#logprobs.push(logprob ?? null);
  }

  /** For the record. */
  tokens(): Tokens {
    const { tokenizer, template } = this.#options;
    return {
      tokenizer: tokenizerDigest(tokenizer),
      template,
      ids: this.#ids,
      sources: this.#sources,
      ...(this.#logprobs.some((logprob) => logprob !== null) && { logprobs: this.#logprobs }),
      turns: this.#turns,
    };
  }
}
