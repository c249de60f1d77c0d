/** What a schema compiles to: five kinds of value, and the bytes of each one's shortest instance. */
import { type Dfa, move } from "./dfa.ts";
import { plainText } from "./text.ts";

export type Node = Regular | Text | List | Struct | Union;

/** Values whose JSON is a regular language: numbers, literals, strings with a pattern. */
export interface Regular {
  kind: "regular";
  dfa: Dfa;
}

/** Strings of `min` to `max` code points. */
export interface Text {
  kind: "text";
  min: number;
  max: number;
}

export interface List {
  kind: "list";
  prefix: Node[];
  /** Items after the prefix. */
  items: Node;
  min: number;
  max: number;
}

export interface Key {
  name: string;
  /** As `JSON.stringify` writes it, without quotes. */
  bytes: Uint8Array;
  value: Node;
  required: boolean;
}

export interface Struct {
  kind: "struct";
  keys: Key[];
  required: number[];
  /** Names in a trie of their bytes; entry 0 is the root. */
  names: NameTrie[];
  /** The most bytes that any prefix of a listed name needs to become one that is not. */
  slack: number;
  /** Values under any other key. */
  additional: Node;
}

export interface NameTrie {
  next: Map<number, number>;
  /** The key that ends here, −1 for none. */
  key: number;
  /** Every key at or below. */
  below: number[];
  depth: number;
  /** Bytes to close a name that is not listed, with its quote, and the first of them. */
  leave: number;
  toward: number;
}

export interface Union {
  kind: "union";
  of: Node[];
}

/** No value at all. */
export const none: Node = { kind: "union", of: [] };

export function struct(keys: Key[], additional: Node): Struct {
  const fresh = (depth: number): NameTrie => ({
    next: new Map(),
    key: -1,
    below: [],
    depth,
    leave: Infinity,
    toward: -1,
  });
  const names = [fresh(0)];
  /** The state of `plainText` at each entry. */
  const inside = [0];
  keys.forEach((key, k) => {
    let at = 0;
    names[0]!.below.push(k);
    for (const byte of key.bytes) {
      let to = names[at]!.next.get(byte);
      if (to === undefined) {
        to = names.push(fresh(names[at]!.depth + 1)) - 1;
        inside.push(move(plainText, inside[at]!, byte));
        names[at]!.next.set(byte, to);
      }
      names[to]!.below.push(k);
      at = to;
    }
    names[at]!.key = k;
  });
  for (let at = names.length - 1; at >= 0; at--) {
    const name = names[at]!;
    const offer = (leave: number, toward: number) => {
      if (leave < name.leave) Object.assign(name, { leave, toward });
    };
    if (inside[at] === 0 && name.key < 0) offer(1, QUOTE);
    for (const byte of LETTERS_FIRST) {
      const to = move(plainText, inside[at]!, byte);
      const child = name.next.get(byte);
      if (to >= 0) offer(child === undefined ? 2 + plainText.distance[to]! : 1 + names[child]!.leave, byte);
    }
  }
  const required = keys.flatMap((key, k) => (key.required ? [k] : []));
  const slack = names.reduce((most, { leave }) => (leave < Infinity ? Math.max(most, leave) : most), 0);
  return { kind: "struct", keys, required, names, slack, additional };
}

const QUOTE = 0x22;
const LETTERS_FIRST = [...Array(256).keys()].map((i) => (i + 0x61) % 256);

/** Bytes of the shortest instance of each node; Infinity where there is none. */
export type Costs = Map<Node, number>;

/** A least fixed point: recursion that never ends stays infinite. */
export function shortest(root: Node): Costs {
  const costs: Costs = new Map([[root, Infinity]]);
  for (const node of costs.keys())
    for (const child of children(node)) if (!costs.has(child)) costs.set(child, Infinity);
  const nodes = [...costs.keys()].reverse();
  for (let changed = true; changed; ) {
    changed = false;
    for (const node of nodes) {
      const cost = costOf(node, costs);
      if (cost < costs.get(node)!) {
        costs.set(node, cost);
        changed = true;
      }
    }
  }
  return costs;
}

function children(node: Node): Node[] {
  switch (node.kind) {
    case "list":
      return [...node.prefix, node.items];
    case "struct":
      return [...node.keys.map((key) => key.value), node.additional];
    case "union":
      return node.of;
    default:
      return [];
  }
}

function costOf(node: Node, costs: Costs): number {
  switch (node.kind) {
    case "regular":
      return node.dfa.size ? node.dfa.distance[0]! : Infinity;
    case "text":
      return node.min > node.max ? Infinity : node.min + 2;
    case "list":
      return node.min > node.max ? Infinity : 2 + itemsCost(node, 0, costs) - (node.min > 0 ? 1 : 0);
    case "struct": {
      let sum = 2 + Math.max(0, node.required.length - 1);
      for (const k of node.required) sum += memberCost(node, k, costs);
      return sum;
    }
    case "union":
      return Math.min(Infinity, ...node.of.map((one) => costs.get(one)!));
  }
}

/** `"key":value`, without a comma. */
export const memberCost = (node: Struct, k: number, costs: Costs): number =>
  node.keys[k]!.bytes.length + 3 + costs.get(node.keys[k]!.value)!;

/** The items still asked for after the first `n`, each with a comma. */
export function itemsCost(node: List, n: number, costs: Costs): number {
  let sum = 0;
  for (; n < node.min && n < node.prefix.length; n++) sum += 1 + costs.get(node.prefix[n]!)!;
  return n < node.min ? sum + (node.min - n) * (1 + costs.get(node.items)!) : sum;
}

/** The kinds of value behind a node: unions within unions opened, what has no instance left out. */
export function alternatives(node: Node, costs: Costs): Exclude<Node, Union>[] {
  const found = new Set([node]);
  for (const one of found) if (one.kind === "union") for (const inner of one.of) found.add(inner);
  return [...found].filter((one) => one.kind !== "union").filter((one) => costs.get(one)! < Infinity);
}
