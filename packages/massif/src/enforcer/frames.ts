/** The frames of JSON: one function for each kind of value under way. */
import { type Dfa, move } from "./dfa.ts";
import type { Frame, Machine, Next, Sym } from "./machine.ts";
import { alternatives, type Costs, itemsCost, type List, memberCost, type Node, type Struct } from "./node.ts";
import { unboundedInteger, unboundedNumber } from "./numbers.ts";
import { anyText, plainText } from "./text.ts";

const [QUOTE, COMMA, COLON, OPEN, CLOSE, LEFT, RIGHT] = [0x22, 0x2c, 0x3a, 0x7b, 0x7d, 0x5b, 0x5d];
const SPACES = [0x20, 0x09, 0x0a, 0x0d];
const sum = (frames: Next) => frames.reduce((total, frame) => total + frame.cost, 0);

/** The frames of one grammar. */
export class Frames {
  readonly machine: Machine;
  readonly #costs: Costs;
  readonly #whitespace: number;
  readonly #ids = new Map<object, number>();
  readonly #firsts = new Map<Node, readonly Sym[]>();
  readonly #kinds = new Map<Node, ReturnType<typeof alternatives>>();

  /** `whitespace`: bytes of white space allowed between two tokens of JSON. */
  constructor(machine: Machine, costs: Costs, whitespace: number) {
    this.machine = machine;
    this.#costs = costs;
    this.#whitespace = whitespace;
  }

  /** Before a value. */
  value(node: Node, spaces = 0): Frame {
    return this.machine.frame(`v${this.#id(node)}.${spaces}`, () => ({
      cost: this.#costs.get(node)!,
      toward: this.#first(node),
      reads: this.#reads(this.#starts(node)),
      step: (sym) => (this.#space(sym, spaces) ? [[this.value(node, spaces + 1)]] : this.#begin(node, sym)),
    }));
  }

  /** Within a word of a regular language; no frame where nothing can follow. */
  word(dfa: Dfa, state: number): Next {
    let open = !dfa.accepts[state];
    for (let c = 0; !open && c < dfa.classes; c++) open = dfa.next[state * dfa.classes + c]! >= 0;
    if (!open) return [];
    return [
      this.machine.frame(`w${this.#id(dfa)}.${state}`, () => ({
        cost: dfa.distance[state]!,
        toward: dfa.toward[state]!,
        nullable: dfa.accepts[state] === 1,
        reads: bytesFrom(dfa, state),
        shared: dfa.name && `${dfa.name} ${state}`,
        step: (sym) => {
          const to = sym < 256 ? move(dfa, state, sym) : -1;
          return to < 0 ? [] : [this.word(dfa, to)];
        },
      })),
    ];
  }

  /** Inside a string that still needs `need` characters and has room for `room`. */
  #inside(dfa: Dfa, state: number, need: number, room: number): Frame {
    const shared = `${dfa === anyText ? "text" : "name"} ${state}.${need}.${room}`;
    return this.machine.frame(shared, () => ({
      shared,
      // A character under way counts as one of those needed.
      cost: dfa.distance[state]! + Math.max(0, need - (state ? 1 : 0)) + 1,
      toward: state ? dfa.toward[state]! : need ? FILLER : QUOTE,
      step: (sym) => {
        if (sym === QUOTE && state === 0) return need ? [] : [[]];
        const to = sym < 256 && room > 0 ? move(dfa, state, sym) : -1;
        if (to < 0) return [];
        return [[to ? this.#inside(dfa, to, need, room) : this.#inside(dfa, 0, Math.max(0, need - 1), room - 1)]];
      },
      alike: (longest) => this.#inside(dfa, state, Math.min(need, longest + 1), room > longest + 1 ? Infinity : room),
    }));
  }

  #list(node: List, count: number, phase: "open" | "next" | "after", spaces = 0): Frame {
    // Beyond the bounds and the prefix, counting on would tell apart states that are alike.
    const n = node.max === Infinity ? Math.min(count, Math.max(node.min, node.prefix.length)) : count;
    return this.machine.frame(`l${this.#id(node)}.${n}.${phase}.${spaces}`, () => {
      const item = node.prefix[n] ?? node.items;
      const room = n < node.max && this.#costs.get(item)! < Infinity;
      const rest = itemsCost(node, n, this.#costs) + 1;
      const enough = n >= node.min;
      const cost =
        phase === "next"
          ? this.#costs.get(item)! + itemsCost(node, n + 1, this.#costs) + 1
          : phase === "open" && !enough
            ? rest - 1
            : rest;
      const toward = phase === "next" || !enough ? (phase === "after" ? COMMA : this.#first(item)) : RIGHT;
      return {
        cost,
        toward: toward!,
        reads: this.#reads(phase === "after" ? [COMMA!, RIGHT!] : [RIGHT!, ...this.#starts(item)]),
        step: (sym) => {
          if (this.#space(sym, spaces)) return [[this.#list(node, n, phase, spaces + 1)]];
          if (sym === RIGHT && phase !== "next") return enough ? [[]] : [];
          if (!room) return [];
          if (phase === "after") return sym === COMMA ? [[this.#list(node, n, "next")]] : [];
          return this.#begin(item, sym).map((next) => [this.#list(node, n + 1, "after"), ...next]);
        },
      };
    });
  }

  /** In an object, between its tokens; `seen` has a bit for every listed key that was written. */
  #struct(node: Struct, seen: bigint, phase: "open" | "next" | "after", spaces = 0): Frame {
    return this.machine.frame(`s${this.#id(node)}.${seen.toString(36)}.${phase}.${spaces}`, () => {
      const missing = node.required.some((k) => !has(seen, k));
      const name = this.#name(node, seen, 0);
      const room = name.cost < Infinity;
      const rest = this.#rest(node, seen);
      const ends = !missing && phase !== "next";
      return {
        cost: ends ? 1 : phase === "after" ? rest : name.cost + 1,
        toward: ends ? CLOSE! : phase === "after" ? COMMA! : QUOTE!,
        reads: this.#reads([CLOSE!, COMMA!, QUOTE!]),
        step: (sym) => {
          if (this.#space(sym, spaces)) return [[this.#struct(node, seen, phase, spaces + 1)]];
          if (sym === CLOSE) return ends ? [[]] : [];
          if (!room) return [];
          if (phase === "after") return sym === COMMA ? [[this.#struct(node, seen, "next")]] : [];
          return sym === QUOTE ? [[name]] : [];
        },
      };
    });
  }

  /** In a key that so far is a prefix of listed ones. */
  #name(node: Struct, seen: bigint, at: number): Frame {
    return this.machine.frame(`n${this.#id(node)}.${seen.toString(36)}.${at}`, () => {
      const name = node.names[at]!;
      const rest = this.#rest(node, seen);
      const extra = this.#costs.get(node.additional)!;
      let cost = name.leave + 1 + extra + rest;
      let toward = name.toward;
      for (const k of name.below) {
        if (has(seen, k)) continue;
        const key = node.keys[k]!;
        const member = memberCost(node, k, this.#costs);
        const total = member - 1 - name.depth + rest - (key.required ? member + 1 : 0);
        if (total < cost) [cost, toward] = [total, key.bytes[name.depth] ?? QUOTE!];
      }
      const inside = plainAt(node, at);
      const listed = (k: number) => {
        const open = !has(seen, k) && this.#costs.get(node.keys[k]!.value)! < Infinity;
        return open ? [this.#colon(node, seen | bit(k), k)] : undefined;
      };
      return {
        cost,
        toward,
        reads: extra === Infinity ? [QUOTE!, ...name.next.keys()] : undefined,
        // Made when asked for: every seen key would make frames for all sets of keys that may follow.
        variant:
          extra === Infinity
            ? undefined
            : () => ({
                base: this.#inside(plainText, inside, 0, Infinity),
                after: [this.#colon(node, seen, -1)],
                apart: name.below.map((k) => ({
                  word: Uint8Array.of(...node.keys[k]!.bytes.subarray(name.depth), QUOTE!),
                  next: () => listed(k),
                })),
                slack: node.slack,
              }),
        step: (sym): Next[] => {
          if (sym >= 256) return [];
          if (sym === QUOTE && inside === 0) {
            const next = name.key < 0 ? [this.#colon(node, seen, -1)] : listed(name.key);
            return next && (name.key >= 0 || extra < Infinity) ? [next] : [];
          }
          const child = name.next.get(sym);
          if (child !== undefined) {
            const frame = this.#name(node, seen, child);
            return frame.cost < Infinity ? [[frame]] : [];
          }
          const to = extra < Infinity ? move(plainText, inside, sym) : -1;
          return to < 0 ? [] : [[this.#colon(node, seen, -1), this.#inside(plainText, to, 0, Infinity)]];
        },
      };
    });
  }

  /** After a key: `k` is the listed one, −1 any other. */
  #colon(node: Struct, seen: bigint, k: number, spaces = 0): Frame {
    return this.machine.frame(`c${this.#id(node)}.${seen.toString(36)}.${k}.${spaces}`, () => {
      const value = k < 0 ? node.additional : node.keys[k]!.value;
      const next = [this.#struct(node, seen, "after"), this.value(value)];
      return {
        cost: 1 + sum(next),
        toward: COLON!,
        reads: this.#reads([COLON!]),
        step: (sym) => {
          if (this.#space(sym, spaces)) return [[this.#colon(node, seen, k, spaces + 1)]];
          return sym === COLON ? [next] : [];
        },
      };
    });
  }

  /** Bytes from behind a value to the end of its object. */
  #rest(node: Struct, seen: bigint): number {
    let rest = 1;
    for (const k of node.required) if (!has(seen, k)) rest += 1 + memberCost(node, k, this.#costs);
    return rest;
  }

  /** What a value's first byte leads to. */
  #begin(node: Node, sym: Sym): Next[] {
    return this.#alternatives(node).flatMap((one): Next[] => {
      if (one.kind === "regular") {
        const to = sym < 256 ? move(one.dfa, 0, sym) : -1;
        return to < 0 ? [] : [this.word(one.dfa, to)];
      }
      if (one.kind === "text") return sym === QUOTE ? [[this.#inside(anyText, 0, one.min, one.max)]] : [];
      if (one.kind === "list") return sym === LEFT ? [[this.#list(one, 0, "open")]] : [];
      return sym === OPEN ? [[this.#struct(one, 0n, "open")]] : [];
    });
  }

  #alternatives(node: Node): ReturnType<typeof alternatives> {
    const known = this.#kinds.get(node) ?? alternatives(node, this.#costs);
    this.#kinds.set(node, known);
    return known;
  }

  /** The first byte of a node's shortest instance; −1 where there is none. */
  #first(node: Node): number {
    const kinds = this.#alternatives(node);
    if (!kinds.length) return -1;
    const least = kinds.reduce((a, b) => (this.#costs.get(b)! < this.#costs.get(a)! ? b : a));
    if (least.kind === "regular") return least.dfa.toward[0]!;
    return (least.kind === "text" ? QUOTE : least.kind === "list" ? LEFT : OPEN)!;
  }

  /** The bytes that can begin a value. */
  #starts(node: Node): readonly Sym[] {
    const known = this.#firsts.get(node);
    if (known) return known;
    const starts = this.#alternatives(node).flatMap((one): readonly Sym[] => {
      if (one.kind === "regular") return bytesFrom(one.dfa, 0);
      return one.kind === "text" ? [QUOTE!] : one.kind === "list" ? [LEFT!] : [OPEN!];
    });
    this.#firsts.set(node, starts);
    return starts;
  }

  #reads(bytes: readonly Sym[]): readonly Sym[] {
    return this.#whitespace ? [...bytes, ...SPACES] : bytes;
  }

  /** The frames of strings and numbers that every grammar shares. */
  common(): Frame[] {
    const states = ({ size }: Dfa) => [...Array(size).keys()];
    const texts = [anyText, plainText].flatMap((dfa) => states(dfa).map((q) => this.#inside(dfa, q, 0, Infinity)));
    const numbers = [unboundedNumber, unboundedInteger].flatMap((dfa) => states(dfa).flatMap((q) => this.word(dfa, q)));
    return [...texts, ...numbers];
  }

  #space(sym: Sym, spaces: number): boolean {
    return spaces < this.#whitespace && SPACES.includes(sym);
  }

  #id(thing: object): number {
    const id = this.#ids.get(thing) ?? this.#ids.size;
    this.#ids.set(thing, id);
    return id;
  }
}

/** Stands for a character that only has to be there. */
const FILLER = 0x20;
const bit = (k: number) => 1n << BigInt(k);
const has = (seen: bigint, k: number) => ((seen >> BigInt(k)) & 1n) === 1n;

/** Where `plainText` stands at an entry of the names. */
function plainAt(node: Struct, at: number): number {
  const name = node.names[at]!;
  let state = 0;
  for (const byte of node.keys[name.below[0]!]?.bytes.subarray(0, name.depth) ?? [])
    state = move(plainText, state, byte);
  return state;
}

const bytesFrom = (dfa: Dfa, state: number): Sym[] =>
  [...dfa.classOf.keys()].filter((byte) => dfa.next[state * dfa.classes + dfa.classOf[byte]!]! >= 0);
