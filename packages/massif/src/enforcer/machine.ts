/** A pushdown machine over bytes and control symbols, made deterministic as it runs.
 *
 *  A `Frame` is one thing under way (an object after its third key, a number after its minus sign). A `Config` is a
 *  stack of frames, a `State` the set of stacks that the bytes so far allow. All three are interned, so equal states
 *  are one object and carry their own transitions and masks. Every frame can be completed: no state is a dead end. */

import { MassifError } from "../common/index.ts";

/** 0–255 are bytes; 256 + k is the grammar's k-th control token. */
export type Sym = number;
export const CONTROL = 256;

/** What may follow a symbol: the frames that replace the one that read it, bottom first; [] when it is complete. */
export type Next = readonly Frame[];

export interface Frame {
  readonly id: number;
  /** Symbols of the shortest completion, and its first symbol (−1 when there is none to read). */
  readonly cost: number;
  readonly toward: Sym;
  /** May end here, leaving the next symbol to the frame below. */
  readonly nullable?: boolean;
  /** Free text: it may be cut anywhere, so no end token is kept back for it. */
  readonly free?: boolean;
  step(sym: Sym): Next[];
  /** The only bytes it can read, where they are few: others need not be tried. */
  readonly reads?: readonly Sym[];
  /** Names this frame across grammars, where its masks depend on the vocabulary alone. */
  readonly shared?: string;
  variant?(): Variant;
  /** The frame with the same masks for words of at most `longest` symbols, when only the far future differs. */
  alike?(longest: number): Frame;
}

/** A frame that acts as `base` and then the frames `after`, except for words that are `apart`: they complete it at once,
 *  and lead to their own `next` or nowhere. Its masks follow from the base's. */
export interface Variant {
  readonly base: Frame;
  readonly after: Next;
  readonly apart: readonly { word: Uint8Array; next(): Next | undefined }[];
  /** Symbols by which its shortest completion can exceed that of `base` and `after`. */
  readonly slack: number;
}

export interface Config {
  readonly id: number;
  readonly frame: Frame | undefined;
  readonly below: Config | undefined;
  readonly cost: number;
}

export class State {
  readonly configs: readonly Config[];
  /** The whole text may end here. */
  readonly ends: boolean;
  readonly free: boolean;
  /** Symbols of the shortest completion. */
  readonly cost: number;
  readonly next: (State | null | undefined)[];

  constructor(configs: readonly Config[]) {
    this.configs = configs;
    this.ends = configs.some((config) => !config.frame);
    this.free = configs.some(({ frame }) => frame?.free);
    let cost = Infinity;
    for (const config of configs) cost = Math.min(cost, config.cost);
    this.cost = cost;
    this.next = [];
    if (configs.every(({ frame }) => !frame || frame.reads)) {
      this.next = new Array(CONTROL).fill(null);
      for (const { frame } of configs) for (const sym of frame?.reads ?? []) this.next[sym] = undefined;
    }
  }
}

const MAX_STATES = 50_000;
/** Stacks alive at once: alternatives that stay alike level after level double them each time. */
const MAX_CONFIGS = 4096;

export class Machine {
  /** The empty stack: the text is complete. */
  readonly bottom: Config = { id: 0, frame: undefined, below: undefined, cost: 0 };
  #frames = new Map<string, Frame>();
  #configs = new Map<number, Config>();
  #states = new Map<string, State>();
  #nextFrame = 0;
  #nextConfig = 1;

  /** The one frame of this key. */
  frame(key: string, make: () => Omit<Frame, "id">): Frame {
    const known = this.#frames.get(key);
    if (known) return known;
    const frame = { id: this.#nextFrame++, ...make() };
    this.#frames.set(key, frame);
    return frame;
  }

  config(frame: Frame, below: Config): Config {
    const key = frame.id * 0x4000000 + below.id;
    let config = this.#configs.get(key);
    if (!config) {
      config = { id: this.#nextConfig++, frame, below, cost: frame.cost + below.cost };
      this.#configs.set(key, config);
    }
    return config;
  }

  /** These frames, bottom first, on `below`. */
  stack(frames: Next, below: Config): Config {
    let config = below;
    for (const frame of frames) config = this.config(frame, config);
    return config;
  }

  /** The state of these frames, bottom first, on `below`. */
  start(frames: Next, below: Config = this.bottom): State {
    const configs = new Map<number, Config>();
    this.#push(frames, below, configs);
    return this.#intern(configs);
  }

  /** `frame` alone: where it could end at once, that is not among the configurations. */
  only(frame: Frame): State {
    const config = this.config(frame, this.bottom);
    return this.#intern(new Map([[config.id, config]]));
  }

  /** The state in which the frames above `config` are complete. */
  resume(config: Config): State {
    return this.start([], config);
  }

  step(state: State, sym: Sym): State | null {
    const known = state.next[sym];
    if (known !== undefined) return known;
    const configs = new Map<number, Config>();
    for (const { frame, below } of state.configs) {
      if (frame) for (const next of frame.step(sym)) this.#push(next, below!, configs);
    }
    const to = configs.size ? this.#intern(configs) : null;
    state.next[sym] = to;
    return to;
  }

  #push(frames: Next, below: Config, into: Map<number, Config>): void {
    let config = this.stack(frames, below);
    for (;;) {
      into.set(config.id, config);
      if (!config.frame?.nullable) return;
      config = config.below!;
    }
  }

  #intern(configs: Map<number, Config>): State {
    if (configs.size > MAX_CONFIGS) {
      throw new MassifError("schema.ambiguous", {
        found: `${configs.size} ways to read the same text`,
        expected: `at most ${MAX_CONFIGS}`,
        fix: "give the branches of anyOf something that tells them apart",
      });
    }
    const ids = [...configs.keys()].sort((a, b) => a - b);
    const key = ids.join();
    let state = this.#states.get(key);
    if (!state) {
      // A long-lived grammar forgets old states rather than grow; matchers keep the ones they hold.
      if (this.#states.size >= MAX_STATES) {
        this.#states.clear();
        this.#configs.clear();
        this.#frames.clear();
      }
      state = new State(ids.map((id) => configs.get(id)!));
      this.#states.set(key, state);
    }
    return state;
  }
}

/** The symbols of a shortest completion, at most `limit` of them. */
export function completion(state: State, limit: number): Sym[] | undefined {
  const best = state.configs.reduce((a, b) => (b.cost < a.cost ? b : a));
  if (best.cost > limit) return undefined;
  const out: Sym[] = [];
  for (let stack = best; stack.frame; ) {
    const { frame, below }: { frame: Frame; below: Config | undefined } = stack as { frame: Frame; below: Config };
    if (frame.toward < 0) {
      stack = below!;
      continue;
    }
    out.push(frame.toward);
    // Costs fall by one along the way, so the successor whose cost did is on it.
    const total = (next: Next) => next.reduce((sum, f) => sum + f.cost, 0);
    const nexts = frame.step(frame.toward);
    const chosen = nexts.find((next) => total(next) === frame.cost - 1)!;
    let top: Config = below!;
    for (const f of chosen) top = { id: -1, frame: f, below: top, cost: f.cost + top.cost };
    stack = top;
  }
  return out;
}
