/** Regular languages over bytes: expressions, and the deterministic automata they compile to.
 *
 *  Everything regular in JSON (numbers, enums, patterns) ends here. A compiled automaton has no dead ends: from every
 *  state some word is accepted, so a prefix that is alive can always be completed. */

/** A regular expression over bytes. */
export type Re =
  | { op: "range"; lo: number; hi: number }
  | { op: "cat"; of: Re[] }
  | { op: "alt"; of: Re[] }
  | { op: "repeat"; of: Re; min: number; max: number };

export const range = (lo: number, hi = lo): Re => ({ op: "range", lo, hi });
export const cat = (...of: Re[]): Re => ({ op: "cat", of });
export const alt = (...of: Re[]): Re => (of.length === 1 ? of[0]! : { op: "alt", of });
export const repeat = (of: Re, min: number, max = Infinity): Re => ({ op: "repeat", of, min, max });
export const optional = (of: Re): Re => repeat(of, 0, 1);
export const empty: Re = cat();
export const nothing: Re = { op: "alt", of: [] };
/** The UTF-8 bytes of `text`, as they stand. */
export const literal = (text: string): Re => cat(...[...new TextEncoder().encode(text)].map((b) => range(b)));

/** A deterministic automaton; state 0 is the start (absent when the language is empty). */
export interface Dfa {
  /** Names the automata that every grammar shares. */
  readonly name?: string;
  readonly size: number;
  /** Byte → column of `next`. */
  readonly classOf: Uint8Array;
  readonly classes: number;
  /** `next[state * classes + class]`: the next state, −1 where there is none. */
  readonly next: Int32Array;
  readonly accepts: Uint8Array;
  /** Bytes of the shortest word from each state to acceptance. */
  readonly distance: Int32Array;
  /** The first byte of that word; −1 at distance 0. */
  readonly toward: Int16Array;
}

/** Thrown when an automaton would outgrow its limits; the front end turns it into an error with a path. */
export class TooLarge extends Error {}

const MAX_NFA = 20_000;
const MAX_DFA = 40_000;
/** Above this, minimizing costs more than it saves. */
const MAX_MINIMIZED = 2_000;
/** Total size of the subsets built: bounds the time of a hostile pattern to well under a second. */
const MAX_WORK = 2_000_000;

export const move = (dfa: Dfa, state: number, byte: number): number =>
  dfa.next[state * dfa.classes + dfa.classOf[byte]!]!;

/** Subset construction over Thompson's automaton. Throws `TooLarge`. */
export function compile(re: Re): Dfa {
  const eps: number[][] = [];
  const edges: { lo: number; hi: number; to: number }[][] = [];
  const fresh = () => {
    if (eps.length >= MAX_NFA) throw new TooLarge(`more than ${MAX_NFA} positions`);
    edges.push([]);
    return eps.push([]) - 1;
  };
  const build = (e: Re, from: number): number => {
    if (e.op === "range") {
      const to = fresh();
      edges[from]!.push({ lo: e.lo, hi: e.hi, to });
      return to;
    }
    if (e.op === "cat") return e.of.reduce((at, part) => build(part, at), from);
    const end = fresh();
    if (e.op === "alt") {
      for (const part of e.of) {
        const start = fresh();
        eps[from]!.push(start);
        eps[build(part, start)]!.push(end);
      }
      return end;
    }
    let at = from;
    for (let i = 0; i < e.min; i++) at = build(e.of, at);
    if (e.max === Infinity) {
      const loop = fresh();
      eps[at]!.push(loop);
      eps[build(e.of, loop)]!.push(loop);
      eps[loop]!.push(end);
      return end;
    }
    for (let i = e.min; i < e.max; i++) {
      eps[at]!.push(end);
      const start = fresh();
      eps[at]!.push(start);
      at = build(e.of, start);
    }
    eps[at]!.push(end);
    return end;
  };
  const start = fresh();
  const final = build(re, start);

  const cuts = new Set([0]);
  for (const list of edges) for (const { lo, hi } of list) cuts.add(lo).add(hi + 1);
  const { classOf, firsts } = classesOf(cuts);

  let work = 0;
  const closure = (seeds: Iterable<number>): number[] => {
    const seen = new Set(seeds);
    for (const s of seen) for (const t of eps[s]!) seen.add(t);
    work += seen.size;
    if (work > MAX_WORK) throw new TooLarge("too many combinations of alternatives");
    return [...seen].filter((s) => edges[s]!.length || s === final).sort((a, b) => a - b);
  };
  const subsets = explore(classOf, firsts, closure([start]), (s) => s.join(), {
    step(s, byte) {
      const to = new Set<number>();
      for (const q of s) for (const e of edges[q]!) if (e.lo <= byte && byte <= e.hi) to.add(e.to);
      return to.size ? closure(to) : undefined;
    },
    accepts: (s) => s.includes(final),
  });
  return subsets.size <= MAX_MINIMIZED ? minimize(subsets) : subsets;
}

/** Merges states that accept the same words (Moore's partition refinement): fewer states, fewer masks. */
function minimize(dfa: Dfa): Dfa {
  const { size, classes, next, accepts } = dfa;
  let block = Int32Array.from({ length: size }, (_, i) => accepts[i]!);
  for (let count = 0; ; ) {
    const names = new Map<string, number>();
    const refined = block.map((b, i) => {
      let name = `${b}`;
      for (let c = 0; c < classes; c++) {
        const to = next[i * classes + c]!;
        name += `,${to < 0 ? -1 : block[to]}`;
      }
      if (!names.has(name)) names.set(name, names.size);
      return names.get(name)!;
    });
    block = refined;
    if (names.size === count) break;
    count = names.size;
  }
  const members = Int32Array.from({ length: size ? Math.max(...block) + 1 : 0 }, (_, b) => block.indexOf(b));
  return {
    ...dfa,
    size: members.length,
    next: Int32Array.from({ length: members.length * classes }, (_, i) => {
      const to = next[members[Math.floor(i / classes)]! * classes + (i % classes)]!;
      return to < 0 ? -1 : block[to]!;
    }),
    accepts: Uint8Array.from(members, (i) => accepts[i]!),
    distance: Int32Array.from(members, (i) => dfa.distance[i]!),
    toward: Int16Array.from(members, (i) => dfa.toward[i]!),
  };
}

/** Words in both languages. Throws `TooLarge`. */
export function intersect(a: Dfa, b: Dfa): Dfa {
  const cuts = new Set([0]);
  for (let byte = 1; byte < 256; byte++) {
    if (a.classOf[byte] !== a.classOf[byte - 1] || b.classOf[byte] !== b.classOf[byte - 1]) cuts.add(byte);
  }
  const { classOf, firsts } = classesOf(cuts);
  const start: readonly [number, number] | undefined = a.size && b.size ? [0, 0] : undefined;
  return explore(classOf, firsts, start, (s) => s.join(), {
    step(s, byte) {
      const [p, q] = [move(a, s[0], byte), move(b, s[1], byte)];
      return p < 0 || q < 0 ? undefined : ([p, q] as const);
    },
    accepts: (s) => !!(a.accepts[s[0]] && b.accepts[s[1]]),
  });
}

/** The quoted words of `word` whose inside is `min` to `max` words of `unit`, an automaton that accepts in state 0 only.
 *  Throws `TooLarge`. */
export function counted(word: Dfa, unit: Dfa, min: number, max: number): Dfa {
  const quote = 0x22;
  const cuts = new Set([0, quote, quote + 1]);
  for (let byte = 1; byte < 256; byte++) {
    if (word.classOf[byte] !== word.classOf[byte - 1] || unit.classOf[byte] !== unit.classOf[byte - 1]) cuts.add(byte);
  }
  const { classOf, firsts } = classesOf(cuts);
  /** The state in `word`, the state in `unit` (−1 outside the quotes), and how many units are complete. */
  type S = readonly [number, number, number];
  return explore<S>(classOf, firsts, word.size ? [0, -1, 0] : undefined, (s) => s.join(), {
    step([w, u, n], byte) {
      const to = move(word, w, byte);
      if (to < 0) return undefined;
      if (byte === quote && u <= 0) return u < 0 ? [to, 0, 0] : n >= min ? [to, -1, n] : undefined;
      const next = u < 0 || n >= max ? -1 : move(unit, u, byte);
      // Past the lower bound, and with no upper one, counting on would tell nothing apart.
      return next < 0 ? undefined : [to, next, next ? n : max === Infinity ? Math.min(n + 1, min) : n + 1];
    },
    accepts: ([w]) => word.accepts[w] === 1,
  });
}

/** The finite language of `words`: a trie, so its size is the words' and no subsets are built. */
export function oneOf(words: readonly Uint8Array[]): Dfa {
  const tries: { ends: boolean; next: Map<number, number> }[] = [{ ends: false, next: new Map() }];
  const cuts = new Set([0]);
  for (const word of words) {
    let at = 0;
    for (const byte of word) {
      cuts.add(byte).add(byte + 1);
      const to = tries[at]!.next.get(byte) ?? tries.push({ ends: false, next: new Map() }) - 1;
      tries[at]!.next.set(byte, to);
      at = to;
    }
    tries[at]!.ends = true;
  }
  const { classOf, firsts } = classesOf(cuts);
  return explore<number>(classOf, firsts, words.length ? 0 : undefined, String, {
    step: (s, byte) => tries[s]!.next.get(byte),
    accepts: (s) => tries[s]!.ends,
  });
}

/** Bytes that no edge tells apart share a column. */
function classesOf(cuts: Set<number>): { classOf: Uint8Array; firsts: number[] } {
  const classOf = new Uint8Array(256);
  const firsts: number[] = [];
  for (let byte = 0; byte < 256; byte++) {
    if (cuts.has(byte)) firsts.push(byte);
    classOf[byte] = firsts.length - 1;
  }
  return { classOf, firsts };
}

/** All states reachable from `start`, then only those from which acceptance is reachable. */
function explore<S>(
  classOf: Uint8Array,
  firsts: number[],
  start: S | undefined,
  key: (s: S) => string,
  machine: { step(s: S, byte: number): S | undefined; accepts(s: S): boolean },
): Dfa {
  const classes = firsts.length;
  const ids = new Map<string, number>();
  const states: S[] = [];
  const id = (s: S): number => {
    const k = key(s);
    const known = ids.get(k);
    if (known !== undefined) return known;
    if (states.length >= MAX_DFA) throw new TooLarge(`more than ${MAX_DFA} states`);
    ids.set(k, states.length);
    return states.push(s) - 1;
  };
  if (start !== undefined) id(start);
  const rows: number[][] = [];
  for (let i = 0; i < states.length; i++) {
    rows.push(
      firsts.map((byte) => {
        const to = machine.step(states[i]!, byte);
        return to === undefined ? -1 : id(to);
      }),
    );
  }

  const distance = new Int32Array(states.length).fill(-1);
  const toward = new Int16Array(states.length).fill(-1);
  const into: [number, number][][] = states.map(() => []);
  rows.forEach((row, from) => {
    row.forEach((to, column) => {
      if (to >= 0) into[to]!.push([from, column]);
    });
  });
  const queue = [...states.keys()].filter((i) => machine.accepts(states[i]!));
  for (const i of queue) distance[i] = 0;
  for (const i of queue) {
    for (const [from, column] of into[i]!) {
      if (distance[from] !== -1) continue;
      distance[from] = distance[i]! + 1;
      toward[from] = firsts[column]!;
      queue.push(from);
    }
  }

  const keep = [...states.keys()].filter((i) => distance[i] !== -1);
  const renamed = new Map(keep.map((old, now) => [old, now]));
  const size = renamed.has(0) ? keep.length : 0;
  const next = new Int32Array(size * classes);
  for (let i = 0; i < size; i++) {
    rows[keep[i]!]!.forEach((to, column) => {
      next[i * classes + column] = renamed.get(to) ?? -1;
    });
  }
  return {
    size,
    classOf,
    classes,
    next,
    accepts: Uint8Array.from(keep, (i) => +machine.accepts(states[i]!)),
    distance: Int32Array.from(keep, (i) => distance[i]!),
    toward: Int16Array.from(keep, (i) => toward[i]!),
  };
}

/** Whether the automaton accepts exactly these bytes. */
export function matches(dfa: Dfa, bytes: Iterable<number>): boolean {
  let state = dfa.size ? 0 : -1;
  for (const byte of bytes) {
    if (state < 0) return false;
    state = move(dfa, state, byte);
  }
  return state >= 0 && dfa.accepts[state] === 1;
}
