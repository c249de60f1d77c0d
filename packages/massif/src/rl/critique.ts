/**
 * The critic in a run: examined on pairs of answers of which one is right and one is wrong, ranking while it passes,
 * learning from the pairs it was examined on.
 */
import { textOf } from "../chat/index.ts";
import type { Random } from "../common/index.ts";
import type { LanguageModel } from "../llm/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { type Conversation, examplesOf, type Run } from "../train/index.ts";
import { Agreement, type AgreementState, judge, lessons, rank } from "./critic.ts";
import type { SideLoss } from "./learner.ts";
import type { RlRecipe } from "./recipe.ts";
import type { Answer, Group } from "./rollouts.ts";
import { microBatches } from "./sequences.ts";

export class Critique {
  readonly #recipe: RlRecipe;
  readonly #run: Run;
  readonly #agreement: Agreement;
  #lessons: Conversation[] = [];

  constructor(recipe: RlRecipe, run: Run) {
    this.#recipe = recipe;
    this.#run = run;
    this.#agreement = new Agreement({ bar: recipe.critic.bar, pairs: recipe.critic.memory });
  }

  /** Examines `player`; where it passes, gives every answer its rank. */
  async criticize(
    player: LanguageModel,
    groups: readonly Group[],
    { step, random }: { step: number; random: Random },
  ): Promise<void> {
    const { weight, learn, examined, opponents } = this.#recipe.critic;
    if (!weight) return;
    const exam = random.shuffle(pairsOf(groups, random)).slice(0, examined);
    const verdicts = await Promise.all(exam.map(({ pair }) => judge(player, pair)));
    const before = this.#agreement.trusted;
    for (const [i, { truth }] of exam.entries()) this.#agreement.saw(verdicts[i]!, truth);
    if (learn) this.#lessons.push(...exam.flatMap(({ pair, truth }) => lessons(pair, truth)));
    const { trusted, rate } = this.#agreement;
    if (trusted !== before)
      this.#run.event({ event: trusted ? "critic-trusted" : "critic-distrusted", step, agreement: rate });
    if (!trusted) return;
    await Promise.all(
      groups.map(async ({ answers }) => {
        const ranks = await rank(player, answers.map(lastWords), { request: requestOf(answers[0]!), opponents });
        for (const [i, answer] of answers.entries()) answer.rank = ranks[i]!;
      }),
    );
  }

  /** What is to be learned of the pairs since the last call; nothing where there were none. */
  sideLosses({ tokenizer, context }: { tokenizer: Tokenizer; context: number }): SideLoss[] {
    const { critic, template, batch } = this.#recipe;
    // Prompts of comparisons are long: rows grow to hold them.
    const options = { tokenizer, template, keepReasoning: true, seqLen: context };
    const learned = this.#lessons.splice(0).flatMap((lesson) => examplesOf(lesson, options));
    if (!learned.length) return [];
    return [{ name: "critic", weight: critic.learn, next: () => microBatches(learned, batch).map(({ rows }) => rows) }];
  }

  get measures(): { criticAgreement?: number; criticTrusted?: number } {
    const { rate, trusted } = this.#agreement;
    return this.#recipe.critic.weight ? { criticAgreement: rate, criticTrusted: Number(trusted) } : {};
  }

  get state(): AgreementState {
    return this.#agreement.state;
  }

  set state(state: AgreementState) {
    this.#agreement.state = state;
  }
}

/** One pair of each group that has a right and a wrong answer, in an order that tells nothing. */
function pairsOf(groups: readonly Group[], random: Random) {
  return groups.flatMap(({ answers }) => {
    const [right, wrong] = [1, 0].map((outcome) => answers.filter((answer) => answer.outcome === outcome));
    if (!right!.length || !wrong!.length) return [];
    const two = [lastWords(random.pick(right!)), lastWords(random.pick(wrong!))];
    const truth: "a" | "b" = random.float() < 0.5 ? "a" : "b";
    const [a, b] = truth === "a" ? two : two.toReversed();
    return [{ truth, pair: { request: requestOf(answers[0]!), a: a!, b: b! } }];
  });
}

const requestOf = ({ trajectory }: Answer): string =>
  textOf(trajectory.messages.find(({ role }) => role === "user")?.content ?? "");

/** What the user is told at the end. */
const lastWords = ({ trajectory }: Answer): string =>
  textOf(trajectory.messages.findLast(({ role }) => role === "assistant")?.content ?? "");
