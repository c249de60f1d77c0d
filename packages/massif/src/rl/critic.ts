/**
 * Self-critique (K2, arXiv 2507.20534 §3.2.2): the model itself compares answers in pairs under core, prescriptive and task
 * rubrics. Each pair is asked in both orders, and a verdict that hangs on the order is none. On pairs whose winner a
 * verifier knows the critic is examined; its verdicts are a reward only while it agrees with enough of the last of them.
 * How K2 makes a scalar of ranks is undisclosed: here the share of comparisons won, less a half.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Message } from "../chat/index.ts";
import { complete, type LanguageModel } from "../llm/index.ts";
import type { Conversation } from "../train/index.ts";

const prompt = (name: string): string => readFileSync(join(import.meta.dirname, `prompts/${name}.md`), "utf8").trim();
const core = prompt("core");
const prescriptive = prompt("prescriptive");
const compare = prompt("compare");

export interface Pair {
  request: string;
  a: string;
  b: string;
  /** Rubrics of the task, one a line. */
  rubric?: string;
}

/** null: no answer, or one that changed with the order. */
export type Winner = "a" | "b" | null;

/** What the critic reads, with the answers in one order. */
export function comparison({ request, a, b, rubric = "- Does what the request asks." }: Pair): string {
  const parts: Record<string, string> = { core, prescriptive, task: rubric, request, a, b };
  return compare.replace(/\{(\w+)\}/g, (_, name: string) => parts[name] ?? "");
}

export const swapped = (pair: Pair): Pair => ({ ...pair, a: pair.b, b: pair.a });

/** Most of its run of words that a text may share with the rubrics: more is copied to please who reads them. */
const COPIED = 6;

const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}']+/gu) ?? [];

function copies(answer: string, rubrics: string): boolean {
  const words = wordsOf(answer);
  const source = ` ${wordsOf(rubrics).join(" ")} `;
  return words.some(
    (_, i) => i + COPIED <= words.length && source.includes(` ${words.slice(i, i + COPIED).join(" ")} `),
  );
}

/** Openers that say nothing; taken away, what is left must say something. */
const OPENERS =
  /^(?:(?:what an? )?(?:great|good|excellent|brilliant|wonderful) (?:question|point|request)|certainly|of course|sure|absolutely|i hope this helps)[\s,.!]*/i;

/** Why an answer loses to any other without being read: these attacks must not depend on how good the critic is. */
export function disqualified(answer: string, { rubric = "" }: Pick<Pair, "rubric"> = {}): string | undefined {
  let rest = answer.trim();
  for (let before = ""; before !== rest; ) {
    before = rest;
    rest = rest.replace(OPENERS, "");
  }
  if (!rest) return answer.trim() ? "openers only" : "empty";
  if (copies(answer, [core, prescriptive, rubric].join("\n"))) return "copies the rubric";
  return undefined;
}

/** What the critic learns from a pair whose winner a verifier knows: the right letter, in both orders. */
export function lessons(pair: Pair, truth: "a" | "b"): Conversation[] {
  const lesson = (one: Pair, letter: string): Conversation => {
    const messages = [
      { role: "user", content: comparison(one) },
      { role: "assistant", content: letter },
    ] as Message[];
    return { messages, tools: [], silent: new Set() };
  };
  return [lesson(pair, truth === "a" ? "A" : "B"), lesson(swapped(pair), truth === "a" ? "B" : "A")];
}

/** The better of two answers. Throws what the model throws. */
export async function judge(model: LanguageModel, pair: Pair): Promise<Winner> {
  const [badA, badB] = [disqualified(pair.a, pair), disqualified(pair.b, pair)];
  if (badA || badB) return badA && badB ? null : badA ? "b" : "a";
  const [first, second] = await Promise.all([pair, swapped(pair)].map((one) => ask(model, one)));
  if (!first || !second || first === second) return null;
  return first;
}

/** One order. */
async function ask(model: LanguageModel, pair: Pair): Promise<Winner> {
  const { message } = await complete(model, {
    messages: [{ role: "user", content: comparison(pair) }],
    sampling: { temperature: 0, maxTokens: 8 },
  });
  const letter = /^\W*([AB])\b/.exec(typeof message.content === "string" ? message.content : "")?.[1];
  return letter === "A" ? "a" : letter === "B" ? "b" : null;
}

/** For each answer the share of its comparisons that it won, less ½ (a tie is half a win): each against the `opponents`
 *  that follow it in the round. */
export async function rank(
  model: LanguageModel,
  answers: readonly string[],
  { opponents, ...rest }: Pick<Pair, "request" | "rubric"> & { opponents: number },
): Promise<number[]> {
  const n = answers.length;
  const [won, played] = [answers.map(() => 0), answers.map(() => 0)];
  const pairs = new Map<string, [number, number]>();
  for (let i = 0; i < n; i++)
    for (let d = 1; d <= Math.min(opponents, n - 1); d++) {
      const two: [number, number] = [Math.min(i, (i + d) % n), Math.max(i, (i + d) % n)];
      pairs.set(two.join(), two);
    }
  await Promise.all(
    [...pairs.values()].map(async ([i, j]) => {
      const winner = await judge(model, { ...rest, a: answers[i]!, b: answers[j]! });
      const share = winner === "a" ? 1 : winner === "b" ? 0 : 0.5;
      won[i]! += share;
      won[j]! += 1 - share;
      played[i]!++;
      played[j]!++;
    }),
  );
  return won.map((w, i) => (played[i] ? w / played[i]! - 0.5 : 0));
}

/** JSON; part of the checkpoint. */
export interface AgreementState {
  last: boolean[];
}

/** Whether the critic may be believed: its agreement with verifiers on the last pairs. No verdict is no agreement. */
export class Agreement {
  readonly #options: { bar: number; pairs: number };
  #last: boolean[] = [];

  /** `pairs`: how many of the last count, and how many there must be. */
  constructor(options: { bar: number; pairs: number }) {
    this.#options = options;
  }

  /** A pair whose winner is known to be `truth`. */
  saw(said: Winner, truth: "a" | "b"): void {
    this.#last.push(said === truth);
    if (this.#last.length > this.#options.pairs) this.#last.shift();
  }

  get rate(): number {
    return this.#last.length ? this.#last.filter(Boolean).length / this.#last.length : 0;
  }

  get trusted(): boolean {
    return this.#last.length >= this.#options.pairs && this.rate >= this.#options.bar;
  }

  get state(): AgreementState {
    return { last: [...this.#last] };
  }

  set state({ last }: AgreementState) {
    this.#last = [...last];
  }
}
