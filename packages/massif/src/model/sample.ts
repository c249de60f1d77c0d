/**
 * Choosing the next token from logits: penalties, bias and mask, temperature, then top-k, top-p and min-p, then one draw.
 * No sorting: what top-k and top-p keep lies above a cut, found by a histogram over the leading bits of the weights.
 */
import { MassifError, type Random } from "../common/index.ts";

export interface SamplingOptions {
  /** 0 takes the likeliest token. Default 1. */
  temperature?: number;
  /** Only the k likeliest. */
  topK?: number;
  /** Only the likeliest that together reach this probability, of what top-k leaves. */
  topP?: number;
  /** Only tokens at least this share as likely as the likeliest. */
  minP?: number;
  /** Divides positive logits of tokens of prompt and output, multiplies negative ones (Keskar et al., 1909.05858 §4.1). */
  repetitionPenalty?: number;
  /** Taken off the logit of every token of the output, once. */
  presencePenalty?: number;
  /** Taken off the logit of a token for each time it stands in the output. */
  frequencyPenalty?: number;
  /** Added to logits. */
  logitBias?: ReadonlyMap<number, number>;
}

/** What a sequence holds so far. */
export interface History {
  /** Tokens of the prompt. */
  prompt: ReadonlySet<number>;
  /** Tokens of the output, and how often each stands there. */
  output: ReadonlyMap<number, number>;
}

export interface Choice {
  id: number;
  /** Natural logarithm of its probability among what the filters left, at the temperature. */
  logprob: number;
}

/** The index of the largest; of equals the first. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  let most = values[0]!;
  for (let i = 1, n = values.length; i < n; i++) {
    const value = values[i]!;
    if (value > most) {
      most = value;
      best = i;
    }
  }
  return best;
}

/** Whether these options change logits (and not only what is drawn from them). */
export const adjusts = (o: SamplingOptions): boolean =>
  (o.repetitionPenalty ?? 1) !== 1 || !!o.presencePenalty || !!o.frequencyPenalty || !!o.logitBias?.size;

/** Applies penalties, bias and mask (bit `id & 31` of word `id >>> 5`: the token may come) in place. */
export function adjust(logits: Float32Array, options: SamplingOptions, history: History, mask?: Uint32Array): void {
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, logitBias } = options;
  if (repetitionPenalty !== 1) {
    const weaken = (id: number) => {
      logits[id]! *= logits[id]! > 0 ? 1 / repetitionPenalty : repetitionPenalty;
    };
    for (const id of history.prompt) weaken(id);
    for (const id of history.output.keys()) if (!history.prompt.has(id)) weaken(id);
  }
  if (presencePenalty || frequencyPenalty)
    for (const [id, times] of history.output) logits[id]! -= presencePenalty + frequencyPenalty * times;
  for (const [id, bias] of logitBias ?? []) logits[id]! += bias;
  if (!mask) return;
  for (let word = 0, id = 0; id < logits.length; word++) {
    const bits = mask[word]!;
    const end = Math.min(id + 32, logits.length);
    if (bits === 0) logits.fill(-Infinity, id, end);
    else if (bits !== 0xffffffff) for (let i = id; i < end; i++) if (!((bits >>> (i & 31)) & 1)) logits[i] = -Infinity;
    id = end;
  }
}

/** exp((logit − largest) / temperature): probabilities but for their sum. */
export function weigh(logits: Float32Array, temperature: number, out = new Float32Array(logits.length)): Float32Array {
  const top = logits[argmax(logits)]!;
  for (let i = 0; i < logits.length; i++) out[i] = Math.exp((logits[i]! - top) / temperature);
  return out;
}

/** A token drawn by weights (not negative), from what top-k, top-p and min-p leave. Throws `sample.nothing`. */
export function draw(weights: Float32Array, { topK, topP, minP }: SamplingOptions, random: Random): Choice {
  let cut: Cut = { least: Number.MIN_VALUE, equals: Infinity };
  if ((topK !== undefined && topK < weights.length) || (topP !== undefined && topP < 1)) {
    const table = new Histogram(weights);
    let total = table.total;
    if (topK !== undefined && topK < weights.length) {
      cut = table.cut(Math.max(1, topK), Infinity);
      total = cut.total!;
    }
    if (topP !== undefined && topP < 1) cut = table.cut(topK ?? Infinity, topP * total);
  }
  if (minP) {
    const least = minP * weights[argmax(weights)]!;
    if (least > cut.least) cut = { least, equals: Infinity };
  }
  let kept = 0;
  let equals = cut.equals;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i]!;
    if (weight > cut.least || (weight === cut.least && equals-- > 0)) kept += weight;
  }
  if (!(kept > 0))
    throw new MassifError("sample.nothing", {
      found: "no token with a probability above zero",
      expected: "logits that are numbers, and at least one token that may come",
    });
  let rest = random.float() * kept;
  let last = -1;
  equals = cut.equals;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i]!;
    if (weight === 0 || !(weight > cut.least || (weight === cut.least && equals-- > 0))) continue;
    last = i;
    if ((rest -= weight) < 0) break;
  }
  return { id: last, logprob: Math.log(weights[last]! / kept) };
}

/** A token drawn from softmax(logits / temperature) over what the filters leave. */
export function sample(logits: Float32Array, options: SamplingOptions, random: Random): number {
  const { temperature = 1 } = options;
  return temperature === 0 ? argmax(logits) : draw(weigh(logits, temperature), options, random).id;
}

/** Keeps what is larger than `least`, and of what equals it the first `equals`. */
interface Cut {
  least: number;
  equals: number;
  /** The sum of what is kept. */
  total?: number;
}

/** Non-negative float32 order as their bits do, and the upper ones make the buckets: each 1/128 of its weights wide, or
 *  1/8 where there are few. */
class Histogram {
  readonly #weights: Float32Array;
  readonly #bits: Uint32Array;
  readonly #shift: number;
  readonly #counts: Int32Array;
  readonly #sums: Float64Array;
  readonly total: number;

  constructor(weights: Float32Array) {
    this.#weights = weights;
    this.#shift = weights.length < 1 << 14 ? 20 : 16;
    this.#counts = new Int32Array(1 << (31 - this.#shift));
    this.#sums = new Float64Array(this.#counts.length);
    this.#bits = new Uint32Array(weights.buffer, weights.byteOffset, weights.length);
    for (let i = 0; i < weights.length; i++) {
      const bucket = this.#bits[i]! >>> this.#shift;
      this.#counts[bucket]!++;
      this.#sums[bucket]! += weights[i]!;
    }
    this.total = this.#sums.reduce((a, b) => a + b, 0);
  }

  /** The fewest of the largest weights that are `count` or together reach `share`, at least one. */
  cut(count: number, share: number): Cut {
    let [n, total] = [0, 0];
    let bucket = this.#counts.length - 1;
    for (; bucket > 0; bucket--) {
      if (!this.#counts[bucket]) continue;
      if (n + this.#counts[bucket]! >= count || total + this.#sums[bucket]! >= share) break;
      n += this.#counts[bucket]!;
      total += this.#sums[bucket]!;
    }
    const inside = new Float32Array(this.#counts[bucket]!);
    for (let i = 0, at = 0; i < this.#bits.length; i++)
      if (this.#bits[i]! >>> this.#shift === bucket) inside[at++] = this.#weights[i]!;
    inside.sort();
    let least = Infinity;
    let equals = 0;
    for (let i = inside.length - 1; i >= 0 && (n === 0 || (n < count && total < share)); i--, n++) {
      const weight = inside[i]!;
      equals = weight === least ? equals + 1 : 1;
      least = weight;
      total += weight;
    }
    return { least, equals, total };
  }
}
