import { expect, test } from "vitest";
import type { ChatRequest, LanguageModel, ModelEvent } from "../llm/index.ts";
import { k2Specials, trainTokenizer } from "../tokenizer/index.ts";
import { openArena, Rollouts } from "./rollouts.ts";

const tokenizer = trainTokenizer(["x"], { vocabSize: 256 + k2Specials.length });
const arena = openArena({ world: "ledger", weight: 1, maxTokens: 100 }, "train");
const tasks = [1, 2, 3].map((seed) => ({ source: 0, seed, type: arena.typeOf(seed) }));

/** Reads one account, then another, then speaks: ten tokens a message. Says what it was asked. */
class Reader implements LanguageModel {
  readonly name = "reader";
  asked: number[] = [];

  async *stream({ messages }: ChatRequest): AsyncGenerator<ModelEvent> {
    const turn = messages.filter(({ role }) => role === "assistant").length;
    this.asked.push(turn);
    await new Promise(setImmediate);
    yield { type: "tokens", tokens: Array.from({ length: 10 }, () => ({})) };
    if (turn < 2) {
      yield { type: "tool-call-begin", index: 0, id: `functions.read:${turn}`, name: "read" };
      yield { type: "tool-call-delta", index: 0, arguments: '{"account":"anna"}' };
      yield { type: "tool-call-end", index: 0 };
    } else yield { type: "text", text: "Done." };
    yield { type: "finish", reason: turn < 2 ? "tool_calls" : "stop" };
  }
}

const make = (model: LanguageModel) =>
  new Rollouts(model, [arena], { tokenizer, template: "instruct-v2", groupSize: 2, seed: 1 });

test("all groups, in the order of their tasks", async () => {
  const rollouts = make(new Reader());
  const groups = await rollouts.collect(tasks, { iteration: 1, temperature: 1, tokens: null });
  expect(groups.map(({ task }) => task.seed)).toEqual([1, 2, 3]);
  expect(groups.every(({ answers }) => answers.length === 2 && answers.every(Boolean))).toBe(true);
  expect(rollouts.pending).toBe(0);
});

test("episodes pause when the tokens are spent, and go on in the next iteration", async () => {
  const reader = new Reader();
  const rollouts = make(reader);
  // Six episodes begin at once; with the first message that ends the budget is gone, and no second one begins.
  expect(await rollouts.collect(tasks, { iteration: 1, temperature: 1, tokens: 10 })).toEqual([]);
  expect(reader.asked).toEqual([0, 0, 0, 0, 0, 0]);
  expect(rollouts.pending).toBe(3);
  const groups = await rollouts.collect([], { iteration: 2, temperature: 1, tokens: null });
  expect(groups.map(({ task }) => task.seed)).toEqual([1, 2, 3]);
  expect(reader.asked).toHaveLength(18);
});

test("what an episode throws ends the collection", async () => {
  const broken: LanguageModel = {
    name: "broken",
    // biome-ignore lint/correctness/useYield: it fails before it says anything
    async *stream() {
      throw new RangeError("no more");
    },
  };
  await expect(make(broken).collect(tasks, { iteration: 1, temperature: 1, tokens: null })).rejects.toThrow("no more");
});
