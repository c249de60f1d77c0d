import { expect, test } from "vitest";
import { textOf } from "../chat/index.ts";
import { ScriptedModel } from "../llm/index.ts";
import { play, quizOracle, SingleTurn, styleRubric } from "../worlds/index.ts";
import { Agreement, comparison, disqualified, judge, rank, swapped } from "./critic.ts";

/** A critic that finds the answers in its prompt and decides by them. */
const critic = (better: (a: string, b: string) => string) =>
  new ScriptedModel(({ messages }) => {
    const text = textOf(messages[0]!.content);
    const [, a, b] = /Answer A:\n([\s\S]*)\n\nAnswer B:\n([\s\S]*)\n\nReply/.exec(text)!;
    return { text: better(a!, b!) };
  });
const longer = () => critic((a, b) => (a.length > b.length ? "A" : "B"));
const first = () => critic(() => "A");

const pair = { request: "Say something.", a: "A lamp stands near the river.", b: "A lamp." };

test("the prompt has all rubrics and the answers in their order; text of an answer is never a place for another", () => {
  const text = comparison({ ...pair, a: "{b} $& {core}", rubric: "- Mentions a lamp." });
  expect(text).toContain("- Mentions a lamp.");
  expect(text).toContain("must not open with a compliment");
  expect(text).toContain("Answer A:\n{b} $& {core}\n\nAnswer B:\nA lamp.");
  expect(comparison(swapped(pair))).toContain("Answer A:\nA lamp.\n");
});

test("both orders must agree: a critic that always says A has no verdict", async () => {
  expect(await judge(longer(), pair)).toBe("a");
  expect(await judge(longer(), swapped(pair))).toBe("b");
  expect(await judge(first(), pair)).toBe(null);
  expect(
    await judge(
      critic(() => "Both are fine."),
      pair,
    ),
  ).toBe(null);
});

test("attacks lose without being read, even before a critic that loves them", async () => {
  const attacks = [
    ["", "empty"],
    ["  \n", "empty"],
    ["What a great question! Certainly! Of course!", "openers only"],
    ["succinct yet complete; says what was asked; no needless list", "copies the rubric"],
    ["Mentions a lamp and a river in one sentence", "copies the rubric"],
  ] as const;
  const rubric = "- Mentions a lamp and a river in one sentence.";
  for (const [attack, why] of attacks) {
    expect(disqualified(attack, { rubric })).toBe(why);
    const lover = critic((a) => (a === attack ? "A" : "B"));
    expect(await judge(lover, { ...pair, rubric, a: attack })).toBe("b");
    expect(await judge(lover, { ...pair, rubric, a: pair.a, b: attack })).toBe("a");
    expect(lover.requests).toHaveLength(0);
  }
  expect(await judge(longer(), { ...pair, a: "", b: "Certainly." })).toBe(null);
  expect(disqualified("Certainly. A lamp stands near the river.")).toBeUndefined();
});

test("no answer that style-rubric accepts is disqualified", async () => {
  const env = new SingleTurn(styleRubric);
  for (let seed = 0; seed < 200; seed++) {
    const { messages, verdict } = await play(env, seed, quizOracle);
    expect(verdict.success).toBe(true);
    const rubric = textOf(messages[1]!.content)
      .split(". ")
      .map((line) => `- ${line}`)
      .join("\n");
    expect(disqualified(textOf(messages.at(-1)!.content), { rubric })).toBeUndefined();
  }
});

test("ranks: shares of comparisons won, less a half", async () => {
  const answers = ["four words are here", "two words", "one and two and three and more", "x"];
  expect(await rank(longer(), answers, { request: "Say.", opponents: 3 })).toEqual(
    [1 / 6, -1 / 6, 0.5, -0.5].map((v) => expect.closeTo(v, 12)),
  );
  expect(await rank(first(), answers, { request: "Say.", opponents: 3 })).toEqual([0, 0, 0, 0]);
  expect(await rank(longer(), ["longest one", "short"], { request: "Say.", opponents: 2 })).toEqual([0.5, -0.5]);
});

test("trusted only after enough pairs, and only while it agrees", () => {
  const agreement = new Agreement({ bar: 0.75, pairs: 4 });
  for (const said of ["a", "a", "a"] as const) agreement.saw(said, "a");
  expect(agreement.trusted).toBe(false);
  agreement.saw("b", "a");
  expect([agreement.rate, agreement.trusted]).toEqual([0.75, true]);
  agreement.saw(null, "a");
  expect([agreement.rate, agreement.trusted]).toEqual([0.5, false]);
  const other = new Agreement({ bar: 0.75, pairs: 4 });
  other.state = JSON.parse(JSON.stringify(agreement.state));
  expect(other.rate).toBe(0.5);
});
