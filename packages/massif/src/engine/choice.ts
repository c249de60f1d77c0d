/** One continuation under way: its random numbers, what it said, and when it ends. */
import { MassifError, Random } from "../common/index.ts";
import type { Matcher } from "../enforcer/index.ts";
import { StopScanner } from "../llm/index.ts";
import { adjust, adjusts, argmax, type Choice as Drawn, draw, type History, weigh } from "../model/index.ts";
import type { StreamDecoder, Tokenizer } from "../tokenizer/index.ts";
import type { Finish, GenerateRequest } from "./request.ts";

/** The enforcer's work for a choice. */
export interface MaskCounts {
  /** Masks asked for, those of them that had to be worked out, and those that left a single token. */
  asked: number;
  computed: number;
  forced: number;
  milliseconds: number;
}

export class Choice {
  readonly index: number;
  readonly request: GenerateRequest;
  readonly masks: MaskCounts = { asked: 0, computed: 0, forced: 0, milliseconds: 0 };
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
  readonly #allowed: Uint32Array | undefined;
  readonly #bad: readonly (readonly number[])[];
  readonly #said: number[] = [];
  /** Tokens of reasoning so far; undefined outside of it. */
  #thought: number | undefined;

  /** Throws `schema.budget` where no answer of the grammar fits. */
  constructor(
    request: GenerateRequest,
    index: number,
    seed: number,
    tokenizer: Tokenizer | undefined,
    vocabSize: number,
  ) {
    this.index = index;
    this.request = request;
    this.#random = Random.of(seed, index);
    this.#decoder = tokenizer?.decoder({ skipSpecial: request.skipSpecial ?? true });
    this.#stops = new StopScanner(request.stop ?? []);
    this.#matcher = request.grammar?.start({ maxTokens: request.maxTokens });
    this.#mask = this.#nextMask();
    this.#penalizes = adjusts(request);
    this.#prompt = new Set(request.repetitionPenalty ? Array.from(request.prompt) : []);
    this.#allowed = request.allowedIds && bitsOf(request.allowedIds, vocabSize);
    this.#bad = (request.badWords ?? []).flatMap((word) => spellings(word, tokenizer!));
    this.#thought = request.thinking?.open ? 0 : undefined;
  }

  get temperature(): number {
    return this.request.temperature ?? 1;
  }

  get greedy(): boolean {
    return this.temperature === 0;
  }

  /** Of its grammar, for the next token. */
  get mask(): Uint32Array | undefined {
    return this.#mask;
  }

  /** Whether its next token depends on more than its mask and the model's distribution at its temperature. */
  get adjusted(): boolean {
    return (
      this.#penalizes || this.#allowed !== undefined || this.#bad.length > 0 || this.#holdsStops || this.#thoughtEnough
    );
  }

  /** Whether it draws from the whole of a distribution. */
  get plain(): boolean {
    const { topK, topP = 1, minP } = this.request;
    return this.greedy || (topK === undefined && topP >= 1 && !minP);
  }

  /** Its next random number, in [0, 1). */
  uniform(): number {
    return this.#random.float();
  }

  get #holdsStops(): boolean {
    return this.count < (this.request.minTokens ?? 0);
  }

  get #thoughtEnough(): boolean {
    return this.#thought !== undefined && this.#thought >= this.request.thinking!.budget;
  }

  /** A token by weights that are softmax(logits / temperature), up to a factor. */
  drawFrom(weights: Float32Array): Drawn {
    return draw(weights, this.request, this.#random);
  }

  /** A token from logits, which it changes. Throws `engine.nothing-allowed` where the request forbids them all. */
  pick(logits: Float32Array): Drawn {
    const { request } = this;
    if (this.#thoughtEnough) return { id: request.thinking!.end, logprob: 0 };
    const history: History = { prompt: this.#prompt, output: this.#output };
    adjust(logits, request, history, this.#mask);
    this.#forbid(logits);
    return this.greedy ? { id: argmax(logits), logprob: 0 } : this.drawFrom(weigh(logits, this.temperature));
  }

  /** Tokens that the request bars, whatever the model and the grammar say. */
  #forbid(logits: Float32Array): void {
    const { stopIds = [] } = this.request;
    if (this.#allowed) adjust(logits, {}, { prompt: this.#prompt, output: this.#output }, this.#allowed);
    for (const ids of this.#bad) {
      const before = ids.length - 1;
      const follows = ids.every((id, i) => i === before || this.#said[this.#said.length - before + i] === id);
      if (follows) logits[ids[before]!] = -Infinity;
    }
    if (this.#holdsStops) {
      const held = stopIds.map((id) => [id, logits[id]!] as const);
      for (const [id] of held) logits[id] = -Infinity;
      // A grammar whose text is complete may end.
      if (this.#matcher && logits[argmax(logits)] === -Infinity) for (const [id, logit] of held) logits[id] = logit;
    }
    if ((this.#allowed || this.#bad.length) && logits[argmax(logits)] === -Infinity)
      throw new MassifError("engine.nothing-allowed", {
        found: `no token is left after ${this.count} of the answer`,
        expected: "allowed tokens and bad words that leave one at every place",
      });
  }

  /** Tokens that must come next, at most so many: its grammar leaves no choice. */
  forced(most: number): number[] {
    return this.#matcher && single(this.#mask!) ? this.#matcher.forced(most) : [];
  }

  /** Takes a token up: the text that is certain with it, and whether the choice ends. */
  say(id: number): { text: string; finish?: Finish } {
    const { maxTokens, stopIds, includeStop } = this.request;
    const heard = !this.#holdsStops;
    this.count++;
    if (this.#penalizes) this.#output.set(id, (this.#output.get(id) ?? 0) + 1);
    if (this.#bad.length) this.#said.push(id);
    this.#think(id);
    if (this.#matcher) {
      this.#matcher.accept(id);
      this.#mask = this.#nextMask();
    }
    const ended = (text: string): { text: string; finish: Finish } => {
      const { stop } = this.#stops;
      return { text: includeStop ? text + stop : text, finish: { reason: "stop", stop: stop! } };
    };
    if (stopIds?.includes(id)) {
      const last = includeStop ? (this.#decoder?.push(id) ?? "") : "";
      return { text: this.#rest(last), finish: { reason: "stop", stop: id } };
    }
    const piece = this.#decoder?.push(id) ?? "";
    const text = heard ? this.#stops.push(piece) : piece;
    if (this.#stops.stop !== undefined) return ended(text);
    const complete = this.#matcher?.canEnd && this.#mask!.every((bits) => bits === 0);
    if (!complete && this.count < maxTokens) return { text };
    const whole = text + this.#rest();
    if (this.#stops.stop !== undefined) return ended(whole);
    return { text: whole, finish: { reason: complete ? "stop" : "length" } };
  }

  #think(id: number): void {
    const { thinking } = this.request;
    if (id === thinking?.begin) this.#thought = 0;
    else if (id === thinking?.end) this.#thought = undefined;
    else if (this.#thought !== undefined) this.#thought++;
  }

  /** Timed, because it runs while every other answer waits. */
  #nextMask(): Uint32Array | undefined {
    if (!this.#matcher) return undefined;
    const { counts } = this.request.grammar!.masks;
    const [before, start] = [counts.computed, performance.now()];
    const mask = this.#matcher.mask();
    this.masks.asked++;
    this.masks.computed += counts.computed - before;
    this.masks.milliseconds += performance.now() - start;
    if (single(mask)) this.masks.forced++;
    return mask;
  }

  /** What is held back. */
  #rest(last = ""): string {
    return this.#stops.push(last + (this.#decoder?.end() ?? "")) + this.#stops.end();
  }
}

function bitsOf(ids: readonly number[], vocabSize: number): Uint32Array {
  const bits = new Uint32Array(Math.ceil(vocabSize / 32));
  for (const id of ids) bits[id >>> 5]! |= 1 << (id & 31);
  return bits;
}

/** A word at the beginning of a text and, where another token begins it, behind a blank. */
function spellings(word: string, tokenizer: Tokenizer): number[][] {
  const bare = Array.from(tokenizer.encode(word.trimStart()));
  const behind = Array.from(tokenizer.encode(` ${word.trimStart()}`));
  const own = behind.length === bare.length && behind[0] !== bare[0];
  return [bare, ...(own ? [behind] : [])].filter((ids) => ids.length);
}

/** Whether exactly one bit is set. */
function single(mask: Uint32Array): boolean {
  let found = false;
  for (let w = 0; w < mask.length; w++) {
    const word = mask[w]!;
    if (!word) continue;
    if (found || word & (word - 1)) return false;
    found = true;
  }
  return found;
}
