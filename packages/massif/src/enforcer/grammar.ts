/** A compiled grammar over one vocabulary, and the matcher that follows one answer through it. */
import { MassifError } from "../common/index.ts";
import { CONTROL, completion, type Machine, type State } from "./machine.ts";
import { Masks, mark, words } from "./masks.ts";
import { fewestTokens, type Trie, trieOf, type Vocabulary } from "./trie.ts";

/** Beyond this many bytes the bound counts one token a byte. */
const MAX_SPELLED = 4096;
/** States looked at for a shorter way, before a budget is refused. */
const MAX_SEARCHED = 200;

export interface StartOptions {
  /** The answer ends, complete, within this many tokens, the end token among them. Unbounded when left out. */
  maxTokens?: number;
}

export class Grammar {
  readonly vocabulary: Vocabulary;
  readonly masks: Masks;
  readonly machine: Machine;
  readonly trie: Trie;
  /** Token → symbol of the grammar's control tokens. */
  readonly controls: ReadonlyMap<number, number>;
  readonly ends: readonly number[];
  readonly #start: State;
  readonly #bounds = new WeakMap<State, number>();

  /** `controls`: the ids behind symbols 256, 257, …; `ends`: tokens that may follow a complete text and close it. */
  constructor(
    vocabulary: Vocabulary,
    machine: Machine,
    start: State,
    controls: readonly number[],
    ends: readonly number[],
  ) {
    this.vocabulary = vocabulary;
    this.machine = machine;
    this.trie = trieOf(vocabulary);
    this.masks = new Masks(machine, this.trie, controls);
    this.controls = new Map(controls.map((id, k) => [id, CONTROL + k]));
    this.ends = ends;
    this.#start = start;
  }

  /** Tokens kept back to close a complete text. */
  get closing(): number {
    return this.ends.length ? 1 : 0;
  }

  /** Tokens that surely suffice from here to a legal end, without the end token.
   *
   *  It spells the shortest completion in as few tokens as it can; some longer text may need fewer. Whatever it says,
   *  one allowed token leads to a state for which it says at least one less, so a budget kept once is kept to the end. */
  bound(state: State): number {
    const known = this.#bounds.get(state);
    if (known !== undefined) return known;
    const path = completion(state, MAX_SPELLED);
    let bound = state.cost;
    if (path) {
      bound = 0;
      for (let i = 0; i < path.length; ) {
        let j = i;
        while (j < path.length && path[j]! < CONTROL) j++;
        bound += j > i ? fewestTokens(this.trie, path.slice(i, j))[0]! : 1;
        i = j > i ? j : i + 1;
      }
    }
    this.#bounds.set(state, bound);
    return bound;
  }

  /** Takes note of a shorter way that was found: from each of these states, one token fewer than from the one before. */
  #note(path: readonly State[]): void {
    path.forEach((state, i) => {
      this.#bounds.set(state, Math.min(this.bound(state), path.length - 1 - i));
    });
  }

  /** Throws `schema.budget` when no legal answer fits `maxTokens`, naming a number that does. */
  start({ maxTokens = Infinity }: StartOptions = {}): Matcher {
    const closing = this.#start.free ? 0 : this.closing;
    if (this.bound(this.#start) + closing > maxTokens) this.#search(maxTokens - closing);
    const least = this.bound(this.#start) + closing;
    if (least > maxTokens) {
      throw new MassifError("schema.budget", {
        found: `no complete answer was found within ${maxTokens} tokens`,
        expected: `at least ${least} tokens`,
        fix: "raise max_tokens",
      });
    }
    return new Matcher(this, this.#start, maxTokens);
  }

  /** Best-first, by tokens taken plus bound: looks for an answer of at most `budget` tokens. */
  #search(budget: number): void {
    const from = new Map<State, { depth: number; before: State | undefined }>([
      [this.#start, { depth: 0, before: undefined }],
    ]);
    const open = new Map<State, number>([[this.#start, this.bound(this.#start)]]);
    for (let looked = 0; looked < MAX_SEARCHED && open.size; looked++) {
      const [state] = [...open].reduce((a, b) => (b[1] < a[1] ? b : a));
      open.delete(state);
      const { depth } = from.get(state)!;
      for (const to of this.masks.groups(state).keys()) {
        const old = from.get(to);
        if (depth + 1 > budget || (old && old.depth <= depth + 1)) continue;
        from.set(to, { depth: depth + 1, before: state });
        const total = depth + 1 + this.bound(to);
        if (total <= budget) {
          this.#note(this.#way(from, to));
          return;
        }
        open.set(to, total);
      }
    }
  }

  /** From the start to `to`, then along the bound to an end. */
  #way(from: ReadonlyMap<State, { before: State | undefined }>, to: State): State[] {
    const path: State[] = [];
    for (let at: State | undefined = to; at; at = from.get(at)?.before) path.unshift(at);
    for (let at = to; this.bound(at) > 0; path.push(at)) {
      at = [...this.masks.groups(at).keys()].find((next) => this.bound(next) < this.bound(at))!;
    }
    return path;
  }
}

/** One answer under way. */
export class Matcher {
  readonly #grammar: Grammar;
  #states: State[];
  #finished = false;
  readonly #maxTokens: number;
  readonly #bits: Uint32Array;

  constructor(grammar: Grammar, start: State, maxTokens: number) {
    this.#grammar = grammar;
    this.#states = [start];
    this.#maxTokens = maxTokens;
    this.#bits = new Uint32Array(words(grammar.vocabulary.vocabSize));
  }

  get #state(): State {
    return this.#states.at(-1)!;
  }

  /** Tokens left after one more. */
  get #left(): number {
    return this.#maxTokens - this.tokens - 1;
  }

  /** Tokens accepted so far. */
  get tokens(): number {
    return this.#states.length - 1 + (this.#finished ? 1 : 0);
  }

  /** The text so far is a complete, valid answer. */
  get canEnd(): boolean {
    return this.#finished || this.#state.ends;
  }

  /** The end token was accepted. */
  get finished(): boolean {
    return this.#finished;
  }

  /** A bit for every token that may come next (bit `id & 31` of word `id >>> 5`). The array is reused by the next call. */
  mask(): Uint32Array {
    const { masks, ends } = this.#grammar;
    const bits = this.#bits;
    const state = this.#state;
    const left = this.#left;
    if (this.#finished || left < 0) return bits.fill(0);
    const mask = masks.of(state);
    bits.fill(0);
    if (mask.worst + this.#grammar.closing <= left) mark(mask, bits);
    else for (const [to, set] of masks.groups(state)) if (this.#fits(to, left)) mark(set, bits);
    if (state.ends) for (const id of ends) bits[id >>> 5]! |= 1 << (id & 31);
    return bits;
  }

  #fits(to: State, left: number): boolean {
    const spare = left - (to.free ? 0 : this.#grammar.closing);
    return to.cost <= spare || this.#grammar.bound(to) <= spare;
  }

  /** The tokens that must come next, as long as there is no choice: they need no step of the model. */
  forced(most = Infinity): number[] {
    const ahead = this.fork();
    const ids: number[] = [];
    for (;;) {
      const id = ids.length < most ? only(ahead.mask()) : -1;
      if (id < 0) return ids;
      ids.push(id);
      ahead.accept(id);
    }
  }

  /** Takes a token. Throws `schema.token` for one that `mask()` forbids. */
  accept(id: number): void {
    const open = !this.#finished && this.#left >= 0;
    if (open && this.#state.ends && this.#grammar.ends.includes(id)) {
      this.#finished = true;
      return;
    }
    const to = open ? this.#after(id) : null;
    if (!to || !this.#fits(to, this.#left)) {
      throw new MassifError("schema.token", {
        found: `token ${id} is not allowed here`,
        expected: "one that mask() allows",
      });
    }
    this.#states.push(to);
  }

  #after(id: number): State | null {
    const { machine, vocabulary, controls } = this.#grammar;
    const control = controls.get(id);
    if (control !== undefined) return machine.step(this.#state, control);
    const bytes = isControl(vocabulary, id) ? undefined : vocabulary.tokenBytes(id);
    if (!bytes?.length) return null;
    let state: State | null = this.#state;
    for (let i = 0; state && i < bytes.length; i++) state = machine.step(state, bytes[i]!);
    return state;
  }

  /** An independent matcher at the same place. */
  fork(): Matcher {
    const copy = new Matcher(this.#grammar, this.#state, this.#maxTokens);
    copy.#states = [...this.#states];
    copy.#finished = this.#finished;
    return copy;
  }

  /** Takes back the last `n` tokens. */
  rollback(n: number): void {
    if (n > this.tokens || n < 0) throw new RangeError(`rollback of ${n} tokens, ${this.tokens} were accepted`);
    if (n > 0 && this.#finished) {
      this.#finished = false;
      n--;
    }
    this.#states.length -= n;
  }
}

const controlIds = new WeakMap<Vocabulary, Set<number>>();

function isControl(vocabulary: Vocabulary, id: number): boolean {
  let ids = controlIds.get(vocabulary);
  if (!ids) {
    ids = new Set(vocabulary.special?.values());
    controlIds.set(vocabulary, ids);
  }
  return ids.has(id);
}

/** The one token whose bit is set; −1 where there are none or several. */
function only(mask: Uint32Array): number {
  let found = -1;
  for (let w = 0; w < mask.length; w++) {
    const word = mask[w]!;
    if (!word) continue;
    if (found >= 0 || word & (word - 1)) return -1;
    found = w * 32 + 31 - Math.clz32(word);
  }
  return found;
}
