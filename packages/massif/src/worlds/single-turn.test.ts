import fc from "fast-check";
import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { evaluate, solve24 } from "./arithmetic.ts";
import { say } from "./play.ts";
import { puzzles } from "./puzzles.ts";
import { SingleTurn, scoreQuiz } from "./single-turn.ts";
import { judgeStyle, styleRubric } from "./style-rubric.ts";

test.each([puzzles, styleRubric])("$name: oracle 1, every exploit at most 0.25", async (quiz) => {
  const scores = await scoreQuiz(quiz, 120);
  expect(scores.filter((s) => !s.ok)).toEqual([]);
  expect(scores[0]).toMatchObject({ player: "oracle", success: 1 });
});

test("questions of the two sides never meet", () => {
  for (const quiz of [puzzles, styleRubric]) {
    const keys = (["train", "heldout"] as const).map((split) => {
      const env = new SingleTurn(quiz, split);
      return Array.from({ length: 100 }, (_, seed) => {
        env.reset(seed);
        return env.inside.question.key;
      });
    });
    expect(new Set(keys[0]).isDisjointFrom(new Set(keys[1]))).toBe(true);
  }
});

test("the right answer of each kind is right, and a spoiled one is not", () => {
  for (const [kind, make] of Object.entries(puzzles.kinds))
    for (let i = 0; i < 30; i++) {
      const q = make(Random.of("test", kind, i));
      expect(q.wrong(q.solution)).toBeUndefined();
      expect(q.wrong(`${q.solution} ${q.solution}`)).toBeDefined();
    }
});

test.each([
  ["(1+2+3)*4", 24, 1],
  ["8/(3-8/3)", 24, 1],
  ["1/2/2", 1, 4],
  ["2 - 3 - 4", -5, 1],
])("%s is %d/%d", (text, n, d) => {
  const found = evaluate(text);
  if (typeof found === "string") return expect.fail(found);
  expect(found.value.n / found.value.d).toBe(n / d);
});

test.each(["", "1+", "(1", "1/0", "2**3", "constructor", "1 2"])("%j is no expression", (text) =>
  expect(evaluate(text)).toBeTypeOf("string"),
);

test("an expression never throws; what is solved is solved", () => {
  fc.assert(fc.property(fc.string(), (text) => void evaluate(text)));
  expect(solve24([1, 1, 1, 1])).toBeUndefined();
  expect(evaluate(solve24([3, 3, 8, 8]) ?? "")).toMatchObject({ used: expect.arrayContaining([3, 8]) });
});

const task = {
  topic: "the sea",
  must: ["lamp", "boat"],
  least: 8,
  most: 16,
  avoid: "calm",
  request: "Write one sentence about the sea with lamp and boat",
};

test.each([
  ["Near the sea there is a lamp on a boat.", []],
  ["Near the sea there is a calm lamp on a boat.", ["avoids"]],
  ["Certainly, near the sea there is a lamp on a boat.", ["no praise"]],
  ["Lamp boat sea stone bread letter bird window.", ["prose"]],
  ["Near the sea there is a lamp. A boat is there.", ["one sentence"]],
  ["Write one sentence about the sea with lamp and boat.", ["own words"]],
  ["", ["length", "mentions", "topic", "one sentence"]],
])("%j fails %j", (answer, failed) => {
  expect(
    judgeStyle(task, answer)
      .filter((c) => !c.ok)
      .map((c) => c.name),
  ).toEqual(failed);
});

test("a call is no answer, and the end is the end", () => {
  const env = new SingleTurn(puzzles);
  env.reset(1);
  env.step({
    ...say(env.inside.question.solution),
    tool_calls: [{ type: "function", id: "x", function: { name: "f", arguments: "{}" } }],
  });
  expect(env.score().success).toBe(false);
  expect(() => env.step(say("x"))).toThrow(/the episode is over/);
});
