/** Context-free rules over bytes, and their frames: what a response may be held to beside JSON. Leaves are automata, so a
 *  grammar of regular parts alone is one automaton. */
import { MassifError } from "../common/index.ts";
import { type Dfa, move } from "./dfa.ts";
import type { Frames } from "./frames.ts";
import type { Machine, Next, Sym } from "./machine.ts";

/** A name of a rule, or a word of an automaton. */
export type Term = string | Dfa;
export interface Rules {
  start: string;
  /** Alternatives, each a sequence. */
  of: Map<string, Term[][]>;
}

/** Throws `schema.grammar` for rules that are missing or call themselves first in a round about way, and `schema.empty`
 *  where no text is a sentence. */
export class Sentences {
  readonly #machine: Machine;
  readonly #frames: Frames;
  readonly #rules: Rules;
  /** Bytes of the shortest sentence of each rule. */
  readonly #costs = new Map<string, number>();

  constructor(machine: Machine, frames: Frames, rules: Rules) {
    this.#machine = machine;
    this.#frames = frames;
    this.#rules = { ...rules, of: new Map(rules.of) };
    for (const [name, alternatives] of rules.of)
      for (const term of alternatives.flat())
        if (typeof term === "string" && !rules.of.has(term))
          throw wrong(`${name} names ${term}`, "a rule of that name");
    if (!rules.of.has(rules.start)) throw wrong("no first rule", `a rule “${rules.start}”`);
    for (const name of rules.of.keys()) this.#turnRight(name);
    this.#cost();
    if (this.#costs.get(rules.start) === Infinity)
      throw new MassifError("schema.empty", { found: "no text ends", expected: "a grammar that some text satisfies" });
    this.#refuseLeft();
  }

  /** Before a sentence, bottom first. */
  start(): Next {
    return this.#item([this.#rules.start], 0, "start");
  }

  /** `a: a x | y` reads like `a: y a'` with `a': x a' | nothing`. */
  #turnRight(name: string): void {
    const { of } = this.#rules;
    const alternatives = of.get(name)!.filter((terms) => terms.length !== 1 || terms[0] !== name);
    const left = alternatives.filter(([first]) => first === name);
    if (!left.length) return;
    const rest = `${name}'`;
    const others = alternatives.filter(([first]) => first !== name);
    of.set(
      name,
      others.map((terms) => [...terms, rest]),
    );
    of.set(rest, [[], ...left.map(([, ...terms]) => [...terms, rest])]);
  }

  #cost(): void {
    const { of } = this.#rules;
    for (const name of of.keys()) this.#costs.set(name, Infinity);
    for (let changed = true; changed; ) {
      changed = false;
      for (const [name, alternatives] of of) {
        const cost = Math.min(...alternatives.map((terms) => this.#sum(terms)), Infinity);
        if (cost >= this.#costs.get(name)!) continue;
        this.#costs.set(name, cost);
        changed = true;
      }
    }
  }

  /** A rule that can begin with itself would be opened for ever. */
  #refuseLeft(): void {
    const begins = (name: string) =>
      this.#rules.of.get(name)!.flatMap((terms) => {
        const stop = terms.findIndex((term) => this.#of(term) > 0);
        return terms.slice(0, stop < 0 ? terms.length : stop + 1).filter((term) => typeof term === "string");
      });
    for (const name of this.#rules.of.keys()) {
      const seen = new Set(begins(name));
      for (const next of seen) for (const other of begins(next)) seen.add(other);
      if (seen.has(name))
        throw wrong(`${name} can begin with itself by way of another rule`, "rules that read something first");
    }
  }

  #of(term: Term): number {
    if (typeof term === "string") return this.#costs.get(term)!;
    return term.size ? term.distance[0]! : Infinity;
  }

  #sum(terms: readonly Term[]): number {
    return terms.reduce((sum, term) => sum + this.#of(term), 0);
  }

  /** The terms of an alternative from `at` on; none where it is complete. `key` names the alternative. */
  #item(terms: readonly Term[], at: number, key: string): Next {
    if (at === terms.length) return [];
    return [
      this.#machine.frame(`g${key}.${at}`, () => {
        const cost = this.#sum(terms.slice(at));
        return {
          cost,
          toward: cost ? this.#toward(terms.slice(at)) : -1,
          nullable: cost === 0,
          step: (sym) => this.#step(terms, at, key, sym),
        };
      }),
    ];
  }

  #toward(terms: readonly Term[]): Sym {
    const term = terms.find((one) => this.#of(one) > 0)!;
    if (typeof term !== "string") return term.toward[0]!;
    const alternatives = this.#rules.of.get(term)!;
    return this.#toward(alternatives.reduce((a, b) => (this.#sum(b) < this.#sum(a) ? b : a)));
  }

  #step(terms: readonly Term[], at: number, key: string, sym: Sym): Next[] {
    const out: Next[] = [];
    for (let i = at; i < terms.length; i++) {
      const term = terms[i]!;
      if (this.#sum(terms.slice(i)) === Infinity) break;
      const rest = this.#item(terms, i + 1, key);
      for (const next of this.#begin(term, sym)) out.push([...rest, ...next]);
      if (this.#of(term) > 0) break;
    }
    return out;
  }

  #begin(term: Term, sym: Sym): Next[] {
    if (typeof term !== "string") {
      const to = sym < 256 && term.size ? move(term, 0, sym) : -1;
      return to < 0 ? [] : [this.#frames.word(term, to)];
    }
    return this.#rules.of.get(term)!.flatMap((terms, k) => this.#step(terms, 0, `${term}.${k}`, sym));
  }
}

const wrong = (found: string, expected: string) =>
  new MassifError("schema.grammar", { found: `the grammar: ${found}`, expected });
