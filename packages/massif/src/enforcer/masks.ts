/** Which tokens a state allows: the vocabulary's trie walked against the machine.
 *
 *  Most of a mask depends on the top frame alone (a token inside a string stays inside it), and is computed once a
 *  frame. Only tokens that complete the frame are continued in the frames below, from where they leave it. */
import { CONTROL, type Config, type Frame, type Machine, type State, type Variant } from "./machine.ts";
import { find, type Trie, tails } from "./trie.ts";

/** A set of tokens: a list while it is short, bits when it is long. */
export interface TokenSet {
  readonly list?: Int32Array;
  readonly bits?: Uint32Array;
}

export interface Mask extends TokenSet {
  /** The most symbols that a legal end can need after any of these tokens. */
  readonly worst: number;
}

interface Local extends Mask {
  /** What tokens have behind the place where they complete the frame. */
  readonly tails: Trie | undefined;
}

const SHORT = 1024;
const MAX_MASKS = 256;
const MAX_LOCALS = 512;
const MAX_GROUPS = 64;

const sharedLocals = new WeakMap<Trie, Map<string, Local>>();

export class Masks {
  readonly trie: Trie;
  readonly #machine: Machine;
  /** Token ids of the control symbols. */
  readonly #controls: readonly number[];
  readonly #masks = new Map<State, Mask>();
  readonly #locals = new Map<Frame, Local>();
  readonly #shared: Map<string, Local>;
  readonly #groups = new Map<State, ReadonlyMap<State, TokenSet>>();
  readonly #path: State[] = [];
  /** Masks and groups that were not remembered. */
  readonly counts = { computed: 0 };

  constructor(machine: Machine, trie: Trie, controls: readonly number[]) {
    this.#machine = machine;
    this.trie = trie;
    this.#controls = controls;
    this.#shared = sharedLocals.get(trie) ?? new Map();
    sharedLocals.set(trie, this.#shared);
  }

  /** Tokens after which the text can still be completed. */
  of(state: State): Mask {
    const known = this.#masks.get(state);
    if (known) return known;
    this.counts.computed++;
    const set = new Collector(this.trie.vocabSize);
    for (const { frame, below } of state.configs) if (frame) this.#through(frame, below!, set);
    this.#controls.forEach((id, k) => {
      const to = this.#machine.step(state, CONTROL + k);
      if (to) set.add(id, to.cost);
    });
    const mask = { ...set.done(), worst: set.worst };
    remember(this.#masks, state, mask, MAX_MASKS);
    return mask;
  }

  /** Works out ahead what the masks of these frames have in common. */
  prepare(frames: readonly Frame[]): void {
    for (const frame of frames) this.#local(frame);
  }

  /** The same tokens by the state they lead to. */
  groups(state: State): ReadonlyMap<State, TokenSet> {
    const known = this.#groups.get(state);
    if (known) return known;
    this.counts.computed++;
    const sets = new Map<State, Collector>();
    const { from, tokens } = this.trie;
    const add = (id: number, to: State) => {
      let set = sets.get(to);
      if (!set) sets.set(to, (set = new Collector(this.trie.vocabSize)));
      set.add(id, 0);
    };
    this.#walk(this.trie, 0, state, (node, to) => {
      for (let t = from[node]!; t < from[node + 1]!; t++) add(tokens[t]!, to);
    });
    this.#controls.forEach((id, k) => {
      const to = this.#machine.step(state, CONTROL + k);
      if (to) add(id, to);
    });
    const groups = new Map([...sets].map(([to, set]) => [to, set.done()]));
    remember(this.#groups, state, groups, MAX_GROUPS);
    return groups;
  }

  #through(frame: Frame, below: Config, set: Collector): void {
    if (frame.variant) {
      this.#vary(frame.variant(), below, set);
      return;
    }
    const twin = frame.alike?.(this.trie.longest) ?? frame;
    const local = this.#local(twin);
    set.union(local, local.worst + frame.cost - twin.cost + below.cost);
    if (local.tails) this.#gather(local.tails, 0, this.#machine.resume(below), set);
  }

  /** As the base's mask, but for tokens that spell one of the words apart. */
  #vary({ base, after, apart, slack }: Variant, below: Config, set: Collector): void {
    const { trie } = this;
    const local = this.#local(base);
    const rest = this.#machine.stack(after, below);
    const except = new Set<number>();
    for (const { word, next } of apart) {
      const node = find(trie, word);
      if (node < 0) continue;
      for (let t = trie.from[node]!; t < trie.from[trie.end[node]!]!; t++) except.add(trie.tokens[t]!);
      const frames = next();
      if (!frames) continue;
      const state = this.#machine.start(frames, below);
      for (let t = trie.from[node]!; t < trie.from[node + 1]!; t++) set.add(trie.tokens[t]!, state.cost);
      this.#gather(trie, node, state, set);
    }
    set.union(local, local.worst + slack + rest.cost, except);
    if (local.tails) this.#gather(local.tails, 0, this.#machine.resume(rest), set, except);
  }

  #local(frame: Frame): Local {
    const known = frame.shared ? this.#shared.get(frame.shared) : this.#locals.get(frame);
    if (known) return known;
    const set = new Collector(this.trie.vocabSize);
    const exits: number[] = [];
    const { from, tokens, end } = this.trie;
    this.#walk(this.trie, 0, this.#machine.only(frame), (node, to) => {
      for (let t = from[node]!; t < from[node + 1]!; t++) set.add(tokens[t]!, to.cost);
      if (to.ends && end[node]! > node + 1) exits.push(node);
    });
    const local = { ...set.done(), worst: set.worst, tails: exits.length ? tails(this.trie, exits) : undefined };
    if (frame.shared) remember(this.#shared, frame.shared, local, MAX_LOCALS);
    else remember(this.#locals, frame, local, MAX_LOCALS);
    return local;
  }

  /** Adds every token below `root` that is alive when `root` stands for `state`. */
  #gather(trie: Trie, root: number, state: State, set: Collector, except?: ReadonlySet<number>): void {
    const { from, tokens } = trie;
    this.#walk(trie, root, state, (node, to) => {
      for (let t = from[node]!; t < from[node + 1]!; t++) if (!except?.has(tokens[t]!)) set.add(tokens[t]!, to.cost);
    });
  }

  /** Visits every node below `root` that is alive when `root` stands for `state`. */
  #walk({ byte, depth, end }: Trie, root: number, state: State, visit: (node: number, to: State) => void): void {
    const machine = this.#machine;
    const path = this.#path;
    path[depth[root]!] = state;
    const last = end[root]!;
    for (let node = root + 1; node < last; ) {
      const at = path[depth[node]! - 1]!;
      const symbol = byte[node]!;
      const known = at.next[symbol];
      const to = known === undefined ? machine.step(at, symbol) : known;
      if (!to) {
        node = end[node]!;
        continue;
      }
      path[depth[node]!] = to;
      visit(node, to);
      node++;
    }
  }
}

/** Gathers tokens, and the worst cost behind them. */
class Collector {
  worst = 0;
  readonly #size: number;
  readonly #list: number[] = [];
  #bits: Uint32Array | undefined;

  constructor(vocabSize: number) {
    this.#size = vocabSize;
  }

  add(id: number, cost: number): void {
    if (cost > this.worst) this.worst = cost;
    if (this.#bits) this.#bits[id >>> 5]! |= 1 << (id & 31);
    else if (this.#list.push(id) > SHORT) this.#spill();
  }

  /** Adds a set, but not what is in `except`. */
  union({ list, bits }: TokenSet, worst: number, except?: ReadonlySet<number>): void {
    if (list) for (const id of list) if (!except?.has(id)) this.add(id, 0);
    if (bits) {
      const own = this.#bits ?? this.#spill();
      const absent = [...(except ?? [])].filter((id) => !((own[id >>> 5]! >>> (id & 31)) & 1));
      for (let i = 0; i < bits.length; i++) own[i]! |= bits[i]!;
      for (const id of absent) own[id >>> 5]! &= ~(1 << (id & 31));
    }
    this.worst = Math.max(this.worst, worst);
  }

  #spill(): Uint32Array {
    const bits = new Uint32Array(words(this.#size));
    for (const id of this.#list) bits[id >>> 5]! |= 1 << (id & 31);
    this.#bits = bits;
    return bits;
  }

  done(): TokenSet {
    return this.#bits ? { bits: this.#bits } : { list: Int32Array.from(this.#list) };
  }
}

export const words = (vocabSize: number): number => Math.ceil(vocabSize / 32);

/** Sets the bits of a set in a mask. */
export function mark({ list, bits }: TokenSet, into: Uint32Array): void {
  if (bits) for (let i = 0; i < bits.length; i++) into[i]! |= bits[i]!;
  if (list) for (const id of list) into[id >>> 5]! |= 1 << (id & 31);
}

function remember<K, V>(cache: Map<K, V>, key: K, value: V, limit: number): void {
  // The oldest goes first: a state in use comes back at the cost of one walk.
  if (cache.size >= limit) cache.delete(cache.keys().next().value as K);
  cache.set(key, value);
}
