import fc from "fast-check";
import { expect, test } from "vitest";
import { type AssistantMessage, textOf } from "../chat/index.ts";
import { say, use } from "./play.ts";
import { openEnvironment, openWorld, shippedWorlds } from "./shipped.ts";
import { WorldEnvironment } from "./world-environment.ts";

const worlds = shippedWorlds().map(openWorld);

/** Anything an agent might do: calls with guessed arguments (some wrong), questions, answers. */
const action = fc.oneof(
  fc.record({
    tool: fc.nat(20),
    values: fc.array(fc.oneof(fc.nat(30), fc.constant(-1), fc.constant("x")), { minLength: 6, maxLength: 6 }),
  }),
  fc.constantFrom(
    "What is your email?",
    "How much is it? At which hour?",
    "Shall I go ahead?",
    "Please approve it.",
    "Why?",
  ),
);

function actionOf(
  env: WorldEnvironment,
  drawn: { tool: number; values: (number | string)[] } | string,
): AssistantMessage {
  if (typeof drawn === "string") return say(drawn);
  const { task } = env.inside;
  const name = task.shown[drawn.tool % task.shown.length] ?? "";
  const keys = Object.values(task.initial).flatMap((t) => Object.keys(t));
  const args = Object.entries(env.world.tools[name]?.params ?? {}).map(([param, field], i) => {
    const value = drawn.values[i] ?? 0;
    if (typeof value === "string") return [param, value];
    if (field.enum) return [param, field.enum[Math.abs(value) % field.enum.length]];
    return [param, field.type.kind === "row" ? keys[Math.abs(value) % keys.length] : value];
  });
  return use({ name, args: Object.fromEntries(args) });
}

test("an episode follows from its seed and the actions alone; restore goes on as if nothing had been", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...worlds),
      fc.nat(10_000),
      fc.array(action, { minLength: 1, maxLength: 8 }),
      fc.nat(7),
      (world, seed, drawn, cut) => {
        const [a, b] = [new WorldEnvironment(world), new WorldEnvironment(world)];
        expect(a.reset(seed)).toEqual(b.reset(seed));
        const actions = drawn.map((d) => actionOf(a, d));
        let kept = { at: 0, json: JSON.stringify(a.snapshot()), hash: a.hash() };
        const trail: unknown[] = [];
        for (const [i, act] of actions.entries()) {
          if (i === cut) kept = { at: i, json: JSON.stringify(a.snapshot()), hash: a.hash() };
          const [x, y] = [a.step(act), b.step(act)];
          expect(x).toEqual(y);
          expect(a.hash()).toBe(b.hash());
          trail.push(x);
          if (x.done) break;
        }
        const end = { hash: a.hash(), state: a.stateHash(), verdict: a.score() };
        expect(b.score()).toEqual(end.verdict);
        // Through JSON, into an environment that has played something else.
        const c = new WorldEnvironment(world);
        c.reset(seed + 1);
        c.restore(JSON.parse(kept.json));
        expect(c.hash()).toBe(kept.hash);
        for (const [i, act] of actions.slice(kept.at, trail.length).entries())
          expect(c.step(act)).toEqual(trail[kept.at + i]);
        expect({ hash: c.hash(), state: c.stateHash(), verdict: c.score() }).toEqual(end);
      },
    ),
    { numRuns: 150 },
  );
});

test("no change breaks an invariant, whatever is called", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...worlds),
      fc.nat(10_000),
      fc.array(action, { maxLength: 8 }),
      (world, seed, drawn) => {
        const env = new WorldEnvironment(world);
        env.reset(seed);
        for (const d of drawn) {
          if (env.step(actionOf(env, d)).done) break;
          const { task, progress } = env.inside;
          const frame = { state: progress.state, initial: task.initial, history: [], now: 0, seed, vars: {} };
          expect(world.check(frame)).toBeUndefined();
        }
      },
    ),
    { numRuns: 150 },
  );
});

const ledger = () => {
  const env = new WorldEnvironment(openWorld("ledger"));
  env.reset(1);
  return { env, name: Object.keys(env.inside.task.initial.account ?? {})[0] };
};

test.each<[unknown, string]>([
  ['{"account":', '{"error":"invalid_arguments","message":"arguments must be JSON"}'],
  ["[]", '{"error":"invalid_arguments","message":"arguments must be an object"}'],
  ["{}", '{"error":"invalid_arguments","message":"missing argument account"}'],
  ['{"account":7}', '{"error":"invalid_arguments","message":"account is not a string"}'],
  ['{"account":"anna","x":1}', '{"error":"invalid_arguments","message":"unknown argument x"}'],
  ['{"account":"nobody"}', '{"error":"unknown_account"}'],
  ['{"account":"__proto__"}', '{"error":"unknown_account"}'],
])("read(%s) is answered with %s", (args, answer) => {
  const { env } = ledger();
  const call = {
    type: "function" as const,
    id: "functions.read:0",
    function: { name: "read", arguments: String(args) },
  };
  const { observations } = env.step({ ...say(""), content: null, tool_calls: [call] });
  expect(observations.map((o) => textOf(o.content))).toEqual([answer]);
});

test("a number in quotes is not a number", () => {
  const { env, name } = ledger();
  const { observations } = env.step(use({ name: "transfer", args: { from: name, to: name, amount: "5" } }));
  expect(textOf(observations[0]?.content ?? null)).toBe(
    '{"error":"invalid_arguments","message":"amount is not an integer"}',
  );
});

test("after the end there is no step; before a reset neither", () => {
  const { env } = ledger();
  env.step(say("Done."));
  expect(() => env.step(say("Done."))).toThrow(/the episode is over/);
  expect(() => new WorldEnvironment(openWorld("ledger")).step(say(""))).toThrow(/never reset/);
});

test("quizzes keep their episodes through a snapshot too", async () => {
  for (const name of ["puzzles", "style-rubric"]) {
    const [a, b] = [openEnvironment(name), openEnvironment(name)];
    for (let seed = 0; seed < 20; seed++) {
      expect(await a.reset(seed)).toEqual(await b.reset(seed));
      expect(await a.hash()).toBe(await b.hash());
      await a.step(say("42"));
      expect(await a.hash()).not.toBe(await b.hash());
    }
  }
});
