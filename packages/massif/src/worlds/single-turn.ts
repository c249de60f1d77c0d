/** Single-turn tasks as environments: one question, one answer, a verifier that is code. */
import { type AssistantMessage, textOf } from "../chat/index.ts";
import { hash32, MassifError, Random } from "../common/index.ts";
import type { Score } from "./check.ts";
import type { Split } from "./draw.ts";
import type { Environment, Origin, Start, Step } from "./environment.ts";
import { type Splits, splits } from "./episode.ts";
import { CEILING } from "./exploits.ts";
import { type Player, play, say } from "./play.ts";
import { digest } from "./state.ts";
import type { Verdict } from "./verdict.ts";

/** One question: how it is worded, an answer that is right, and why another is wrong (undefined: it is right). */
export interface Question {
  /** Without wording: two questions with one key are one question. */
  key: string;
  wordings: Record<Split, readonly string[]>;
  solution: string;
  wrong(answer: string): string | undefined;
  /** Verdicts on criteria, where there is more than right and wrong. */
  criteria?(answer: string): { name: string; ok: boolean; why?: string }[];
}

export interface Quiz {
  name: string;
  version: number;
  system: string;
  kinds: Readonly<Record<string, (random: Random) => Question>>;
}

interface Progress {
  seed: number;
  answer: string | null;
  done: boolean;
}

/** One question in five is kept for held-out evaluation, by its key. */
const isHeldout = (key: string): boolean => hash32(key) % 5 === 0;

export class SingleTurn implements Environment<Progress> {
  readonly quiz: Quiz;
  readonly #splits: Splits;
  #progress: Progress | undefined;
  #kind = "";
  #question: Question | undefined;

  constructor(quiz: Quiz, split: Split | Partial<Splits> = "train") {
    this.quiz = quiz;
    this.#splits = splits(split);
  }

  reset(seed: number): Start {
    this.#kind = Random.of(seed, "kind").pick(Object.keys(this.quiz.kinds));
    const make = this.quiz.kinds[this.#kind];
    const wanted = this.#splits.pairs === "heldout";
    let attempt = 0;
    let question = make?.(Random.of(seed, "question", attempt));
    while (make && question && isHeldout(question.key) !== wanted) {
      if (++attempt > 500)
        throw new MassifError("world.draw", { found: `${this.#kind} has no question on this side of the split` });
      question = make(Random.of(seed, "question", attempt));
    }
    this.#question = question;
    this.#progress = { seed, answer: null, done: false };
    const wording = Random.of(seed, "wording").pick(question?.wordings[this.#splits.wordings] ?? []);
    return {
      messages: [
        { role: "system", content: this.quiz.system },
        { role: "user", content: wording },
      ],
      tools: [],
    };
  }

  /** The question, for oracles and the harness, never for the agent. */
  get inside(): { question: Question; progress: Progress } {
    if (!this.#question || !this.#progress) throw over("the environment was never reset");
    return { question: this.#question, progress: this.#progress };
  }

  step(action: AssistantMessage): Step {
    const { progress } = this.inside;
    if (progress.done) throw over("the episode is over");
    // There is nothing to call; a call is no answer.
    this.#progress = { ...progress, answer: action.tool_calls ? "" : textOf(action.content).trim(), done: true };
    return { observations: [], done: true };
  }

  score(): Verdict {
    const { question, progress } = this.inside;
    const { answer } = progress;
    const parts = answer === null ? [] : (question.criteria?.(answer) ?? []);
    const why = answer === null ? "the episode was cut before an answer" : question.wrong(answer);
    const success = why === undefined;
    const held = parts.filter((p) => p.ok).length;
    return {
      success,
      reward: success ? 1 : 0,
      progress: parts.length ? held / parts.length : Number(success),
      checks: [{ name: "tell", ok: success, ...(why && { why }) }],
    };
  }

  snapshot(): Progress {
    return { ...this.inside.progress };
  }

  restore(snapshot: Progress): void {
    this.reset(snapshot.seed);
    this.#progress = { ...snapshot };
  }

  hash(): string {
    return digest([this.quiz.name, this.quiz.version, this.#splits, this.inside.question.key, this.inside.progress]);
  }

  origin(): Origin {
    const { name, version } = this.quiz;
    const { seed } = this.inside.progress;
    return { world: name, version, digest: digest([name, version]), seed, split: this.#splits, task: this.#kind };
  }
}

const over = (found: string): MassifError =>
  new MassifError("environment.done", {
    found,
    expected: "step() between reset() and the end",
    fix: "call reset(seed)",
  });

type Solver = Player<SingleTurn>;
const always = (name: string, text: string): Solver => ({ name, start: () => () => say(text) });

export const quizOracle: Solver = { name: "oracle", start: (env) => () => say(env.inside.question.solution) };

/** Right in half of the episodes; in the others, the right answer with a word dropped. */
export const quizNoisy: Solver = {
  name: "noisy oracle 0.5",
  start: (env) => () => {
    const { question, progress } = env.inside;
    const words = question.solution.split(" ");
    return say(Random.of(progress.seed, "noisy").float() < 0.5 ? question.solution : words.slice(0, -1).join(" "));
  },
};

export const quizExploits: readonly Solver[] = [
  always("do nothing", ""),
  always("always refuse", "I cannot answer that."),
  always("always yes", "yes"),
  always("always 1", "1"),
  always("flatter", "What a brilliant question! You are wonderful. The answer is perfect."),
  { name: "copy the question", start: () => (messages) => say(textOf(messages.at(-1)?.content ?? "")) },
  {
    name: "last word asked",
    start: () => (messages) =>
      say(
        textOf(messages.at(-1)?.content ?? "")
          .split(/\s+/)
          .at(-1) ?? "",
      ),
  },
];

/** Oracle, noisy oracle and exploits on `n` training questions. */
export async function scoreQuiz(quiz: Quiz, n: number): Promise<Score[]> {
  const env = new SingleTurn(quiz);
  const rows: [Solver, string, (rate: number) => boolean][] = [
    [quizOracle, "1", (r) => r === 1],
    [quizNoisy, "between", (r) => r > CEILING && r < 1],
    ...quizExploits.map((e): [Solver, string, (rate: number) => boolean] => [e, `≤ ${CEILING}`, (r) => r <= CEILING]),
  ];
  const scores: Score[] = [];
  for (const [player, bar, holds] of rows) {
    let wins = 0;
    for (let seed = 0; seed < n; seed++) wins += (await play(env, seed, player)).verdict.reward;
    scores.push({ player: player.name, success: wins / n, n, bar, ok: holds(wins / n) });
  }
  return scores;
}
