import { expect, test } from "vitest";
import { type Trajectory, TrajectorySchema, trajectory } from "./index.ts";

const content: Omit<Trajectory, "schema" | "id"> = {
  messages: [
    { role: "user", content: "2 + 2?" },
    { role: "assistant", content: "4" },
  ],
  tools: [],
  task: { world: "sums", version: "1", seed: 7 },
  reward: { total: 1, components: { right: { value: 1, weight: 1, kind: "verifiable", evaluator: "sums/1" } } },
  tokens: {
    tokenizer: "bytes",
    template: "thinking",
    ids: [1, 2, 3],
    sources: ["template", "assistant", "assistant"],
    logprobs: [null, -0.5, 0],
    turns: [{ message: 1, start: 1, end: 3, finish: "stop" }],
  },
};
const row = trajectory(content);
const refusal = (change: object) => TrajectorySchema.safeParse({ ...row, ...change }).error?.issues[0];

test("a row survives JSON, and its id is its content's: not its timings', not the order of its keys", () => {
  expect(TrajectorySchema.parse(JSON.parse(JSON.stringify(row)))).toEqual(row);
  // hashlib's sha256 of json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
  expect(row.id).toBe("af0a50312e3f08baa75ada92cd413746daff7bc86521a89f19a873f15549e1f6");
  expect(trajectory({ ...content, timings: { model: 1.5 } }).id).toBe(row.id);
  expect(trajectory(Object.fromEntries(Object.entries(content).reverse()) as typeof content).id).toBe(row.id);
  expect(trajectory({ ...content, task: { world: "sums", version: "1", seed: 8 } }).id).not.toBe(row.id);
});

test("what a row may not be", () => {
  expect(refusal({ schema: "massif.trajectory/9" })?.message).toMatch(/^schema is not massif\.trajectory\/1/);
  expect(refusal({ rewards: {} })?.message).toBe('Unrecognized key: "rewards"');
  expect(refusal({ messages: [] })?.path).toEqual(["messages"]);
  const { tokens } = content;
  expect(refusal({ tokens: { ...tokens, sources: [] } })?.message).toBe("sources and logprobs have one entry a token");
  expect(refusal({ tokens: { ...tokens, logprobs: [null, 0.5, 0] } })?.path).toEqual(["tokens", "logprobs", 1]);
  const turns = [{ message: 1, start: 1, end: 4, finish: "stop" }];
  expect(refusal({ tokens: { ...tokens, turns } })?.message).toBe("a turn lies within the tokens");
});
