/** One continuation under way: its random numbers, what it said, and when it ends. */
import { Random } from "../common/index.ts";
import { StopScanner } from "../llm/index.ts";
import { adjust, adjusts, argmax, type Choice as Drawn, draw, type History, weigh } from "../model/index.ts";
import type { StreamDecoder, Tokenizer } from "../tokenizer/index.ts";
import type { Matcher } from "./enforcer/index.ts";
import type { Finish, GenerateRequest } from "./request.ts";

export class Choice {
  readonly index: number;
  readonly request: GenerateRequest;
  /** Tokens said. */
  count = 0;
  readonly #random: Random;
  readonly #decoder: StreamDecoder | undefined;
  readonly #stops: StopScanner;
  readonly #matcher: Matcher | undefined;
  /** Of the matcher, for the next token. */
  #mask: Uint32Array | undefined;
  readonly #penalizes: boolean;
  readonly #prompt: ReadonlySet<number>;
  readonly #output = new Map<number, number>();

  /** Throws `schema.budget` where no answer of the grammar fits. */
  constructor(request: GenerateRequest, index: number, seed: number, tokenizer: Tokenizer | undefined) {
    this.index = index;
    this.request = request;
    this.#random = Random.of(seed, index);
    this.#decoder = tokenizer?.decoder({ skipSpecial: request.skipSpecial ?? true });
    this.#stops = new StopScanner(request.stop ?? []);
    this.#matcher = request.grammar?.start({ maxTokens: request.maxTokens });
    this.#mask = this.#matcher?.mask();
    this.#penalizes = adjusts(request);
    this.#prompt = new Set(request.repetitionPenalty ? Array.from(request.prompt) : []);
  }

  get temperature(): number {
    return this.request.temperature ?? 1;
  }

  get greedy(): boolean {
    return this.temperature === 0;
  }

  /** Whether its next token depends on more than the model's distribution at its temperature. */
  get adjusted(): boolean {
    return this.#penalizes || this.#mask !== undefined || this.#holdsStops;
  }

  get #holdsStops(): boolean {
    return this.count < (this.request.minTokens ?? 0);
  }

  /** A token by weights that are softmax(logits / temperature), up to a factor. */
  drawFrom(weights: Float32Array): Drawn {
    return draw(weights, this.request, this.#random);
  }

  /** A token from logits, which it changes. */
  pick(logits: Float32Array): Drawn {
    const { request } = this;
    if (this.#holdsStops) for (const id of request.stopIds ?? []) logits[id] = -Infinity;
    const history: History = { prompt: this.#prompt, output: this.#output };
    adjust(logits, request, history, this.#mask);
    return this.greedy ? { id: argmax(logits), logprob: 0 } : this.drawFrom(weigh(logits, this.temperature));
  }

  /** Takes a token up: the text that is certain with it, and whether the choice ends. */
  say(id: number): { text: string; finish?: Finish } {
    const { maxTokens, stopIds } = this.request;
    const heard = !this.#holdsStops;
    this.count++;
    if (this.#penalizes) this.#output.set(id, (this.#output.get(id) ?? 0) + 1);
    if (this.#matcher) {
      this.#matcher.accept(id);
      this.#mask = this.#matcher.mask();
    }
    if (stopIds?.includes(id)) return { text: this.#rest(), finish: { reason: "stop", stop: id } };
    const piece = this.#decoder?.push(id) ?? "";
    let text = heard ? this.#stops.push(piece) : piece;
    if (this.#stops.stop !== undefined) return { text, finish: { reason: "stop", stop: this.#stops.stop } };
    const complete = this.#matcher?.canEnd && this.#mask!.every((bits) => bits === 0);
    if (!complete && this.count < maxTokens) return { text };
    text += this.#rest();
    if (this.#stops.stop !== undefined) return { text, finish: { reason: "stop", stop: this.#stops.stop } };
    return { text, finish: { reason: complete ? "stop" : "length" } };
  }

  /** What is held back. */
  #rest(): string {
    return this.#stops.push(this.#decoder?.end() ?? "") + this.#stops.end();
  }
}
