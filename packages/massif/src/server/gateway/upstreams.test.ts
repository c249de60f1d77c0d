import { expect, test } from "vitest";
import { type ChatRequest, LlmError, type ModelEvent, ScriptedModel } from "../../llm/index.ts";
import { Upstreams } from "./upstreams.ts";

const ask: ChatRequest = { messages: [{ role: "user", content: "hi" }] };
const down = new LlmError("llm.connect", { found: "down" });
const textOf = async (model: { stream(r: ChatRequest): AsyncIterable<ModelEvent> }, request: ChatRequest = ask) => {
  let text = "";
  for await (const event of model.stream(request)) if (event.type === "text") text += event.text;
  return text;
};
const say = (text: string) => ({ name: text, model: new ScriptedModel(() => ({ text }), { name: text }) });

test("a conversation stays where its beginning is cached, and new ones are shared", async () => {
  const upstreams = new Upstreams([say("a"), say("b"), say("c")], { name: "g" });
  const homes = new Set<string>();
  for (let i = 0; i < 30; i++) {
    const messages: ChatRequest["messages"] = [{ role: "user", content: `conversation ${i}` }];
    const home = await textOf(upstreams, { messages });
    homes.add(home);
    for (let turn = 1; turn < 4; turn++) {
      const longer = [
        ...messages,
        ...Array.from({ length: turn }, (_, j) => ({ role: "user" as const, content: `${j}` })),
      ];
      expect(await textOf(upstreams, { messages: longer })).toBe(home);
    }
  }
  expect(homes.size).toBe(3);
});

test("load beats the cache: a busy upstream does not get all", async () => {
  const held: (() => void)[] = [];
  const busy = (text: string) => ({
    name: text,
    model: new ScriptedModel(async () => {
      await new Promise<void>((resolve) => held.push(resolve));
      return { text };
    }),
  });
  const upstreams = new Upstreams([busy("a"), busy("b")], { name: "g", imbalance: 2 });
  const first = textOf(upstreams);
  await new Promise(setImmediate);
  held.shift()!();
  await first;
  const all = Array.from({ length: 10 }, () => textOf(upstreams));
  await new Promise(setImmediate);
  const { state } = upstreams;
  expect(Math.abs(state[0]!.running - state[1]!.running)).toBeLessThanOrEqual(3);
  for (const go of held) go();
  await Promise.all(all);
});

test("another upstream answers where one fails before it says anything; not after", async () => {
  const failing = { name: "bad", model: new ScriptedModel(() => ({ error: down })) };
  let now = 0;
  const attempts: string[] = [];
  const options = {
    name: "g",
    now: () => now,
    failures: 2,
    rest: 1000,
    onAttempt: (u: string, o: string) => attempts.push(`${u} ${o}`),
  };
  const upstreams = new Upstreams([failing, say("good")], options);
  for (let i = 0; i < 20; i++)
    expect(await textOf(upstreams, { messages: [{ role: "user", content: `${i}` }] })).toBe("good");
  // After two failures in a row it is left alone; after its rest one request may try.
  expect(attempts.filter((a) => a === "bad failed")).toHaveLength(2);
  expect(upstreams.state.map(({ open }) => open)).toEqual([false, true]);
  now = 2000;
  for (let i = 0; i < 20; i++) await textOf(upstreams, { messages: [{ role: "user", content: `later ${i}` }] });
  expect(attempts.filter((a) => a === "bad failed")).toHaveLength(3);

  const midway = new Upstreams(
    [
      { name: "x", model: new ScriptedModel(() => ({ text: "half", error: down })) },
      { name: "y", model: new ScriptedModel(() => ({ text: "half", error: down })) },
    ],
    { name: "g" },
  );
  await expect(textOf(midway)).rejects.toThrow("down");
});

test("a request's own fault is told at once, and is no failure of the upstream", async () => {
  const model = new ScriptedModel(() => ({ error: new LlmError("llm.http", { found: "400" }, { status: 400 }) }));
  const other = say("b");
  const upstreams = new Upstreams([{ name: "a", model }, other], { name: "g", failures: 1 });
  const messages = (i: number) => ({ messages: [{ role: "user" as const, content: `${i}` }] });
  for (let i = 0; i < 8; i++) await textOf(upstreams, messages(i)).catch(() => undefined);
  expect(model.requests.length).toBeGreaterThan(0);
  expect(upstreams.state.every(({ open }) => open)).toBe(true);
});
