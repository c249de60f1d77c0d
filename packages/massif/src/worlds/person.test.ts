import { expect, test } from "vitest";
import type { Verdict } from "./environment.ts";
import { oracle } from "./oracle.ts";
import { type Brief, type Person, PersonEnvironment } from "./person.ts";
import { say, use } from "./play.ts";
import { openWorld, shippedWorlds } from "./shipped.ts";
import { WorldEnvironment } from "./world-environment.ts";

/** A person who says these things one after the other and then ends it. */
const scripted = (...lines: string[]): Person & { brief?: Brief; heard: string[] } => ({
  heard: [],
  async open(brief) {
    this.brief = brief;
    return lines.shift() ?? brief.goal;
  },
  async answer(said) {
    this.heard.push(said);
    return lines.shift() ?? null;
  },
});

const why = ({ checks }: Verdict) => checks.find(({ ok }) => !ok)?.why;

/** The first seed of a task. */
function seedOf(world: string, task: string): number {
  const env = new WorldEnvironment(openWorld(world));
  for (let seed = 0; seed < 5000; seed++) {
    env.reset(seed);
    if (env.origin().task === task) return seed;
  }
  throw new Error(`no ${task}`);
}

test("a person who says what the simulated user would gets the simulated user's verdicts, in every world", async () => {
  for (const name of shippedWorlds()) {
    const world = openWorld(name);
    let episodes = 0;
    for (let seed = 0; episodes < 12; seed++) {
      const simulated = new WorldEnvironment(world);
      const start = simulated.reset(seed);
      const turn = oracle.start(simulated, start.tools);
      const messages = [...start.messages];
      const actions = [];
      const lines = [start.messages.find(({ role }) => role === "user")!.content as string];
      for (let done = false; !done; ) {
        const action = turn(messages);
        const step = simulated.step(action);
        actions.push(action);
        messages.push(action, ...step.observations);
        lines.push(...step.observations.flatMap((m) => (m.role === "user" ? [m.content as string] : [])));
        done = step.done;
      }
      // Where the user acts, the act is the person's to do: another test.
      if (Object.keys(simulated.inside.task.type.acts).length) continue;
      episodes++;
      const env = new PersonEnvironment(world, scripted(...lines));
      await env.reset(seed);
      const results = [];
      for (const action of actions) results.push((await env.step(action)).observations);
      expect(results.flat(), `${name} ${seed}`).toEqual(
        messages.slice(start.messages.length).filter(({ role }) => role !== "assistant"),
      );
      expect(why(env.score()), `${name} ${seed}`).toBeUndefined();
      expect(env.score().success).toBe(true);
    }
  }
});

test("the person's words are the model's prompt; the brief tells what a user knows and nothing that only tools know", async () => {
  const seed = seedOf("ledger", "balance");
  const person = scripted("How rich am I?");
  const env = new PersonEnvironment(openWorld("ledger"), person);
  const { messages } = await env.reset(seed);
  expect(messages.at(-1)).toMatchObject({ role: "user", content: "How rich am I?" });
  const simulated = new WorldEnvironment(openWorld("ledger"));
  simulated.reset(seed);
  expect(person.brief).toEqual({ task: "balance", goal: simulated.inside.task.opening, facts: [], acts: [] });
  // Whatever is claimed without having looked is refused, though a person hears it.
  await env.step(say("You have 3."));
  expect(person.heard).toEqual(["You have 3."]);
  expect(env.score().success).toBe(false);
});

test("a yes to a question that names the change allows it; without one the rule is broken", async () => {
  const seed = seedOf("calendar", "cancel");
  const run = async (reply: string) => {
    const world = openWorld("calendar");
    const simulated = new WorldEnvironment(world);
    const { tools, messages } = simulated.reset(seed);
    const turn = oracle.start(simulated, tools);
    const env = new PersonEnvironment(world, {
      open: async ({ goal }) => goal,
      answer: async (said) => (said.includes("?") ? reply : null),
    });
    await env.reset(seed);
    for (let done = false; !done; ) {
      const action = turn(messages);
      const step = simulated.step(action);
      messages.push(action, ...step.observations);
      done = (await env.step(action)).done || step.done;
    }
    return env.score();
  };
  expect(why(await run("Yes, do it."))).toBeUndefined();
  expect(why(await run("What would that mean?"))).toContain("confirm");
});

test("what the user can do themselves is done in the world, once, and counts", async () => {
  const world = openWorld("bank");
  const seed = seedOf("bank", "large");
  const simulated = new WorldEnvironment(world);
  const { tools, messages } = simulated.reset(seed);
  const turn = oracle.start(simulated, tools);
  let acts: string[] = [];
  const env: PersonEnvironment = new PersonEnvironment(world, {
    async open({ goal, acts: some }) {
      acts = some;
      return goal;
    },
    answer: async (said) => (/please approve/i.test(said) ? env.act(0) : said.includes("?") ? "Yes." : null),
  });
  await env.reset(seed);
  // Too early: what is to be approved is not there yet.
  const early = env.hash();
  expect(env.act(0)).toContain("did not work");
  expect(env.hash()).toBe(early);
  for (let done = false; !done; ) {
    const action = turn(messages);
    const step = simulated.step(action);
    messages.push(action, ...step.observations);
    done = (await env.step(action)).done || step.done;
  }
  expect(acts).toHaveLength(1);
  expect(why(env.score())).toBeUndefined();
  expect(() => env.act(0)).toThrow(/done or none/);
  expect(() => env.act(7)).toThrow(/none of this task/);
});

test("tools fail as they do for a simulated user, and the end is the end", async () => {
  const env = new PersonEnvironment(openWorld("ledger"), scripted("Pay ann."));
  await env.reset(3);
  expect(await env.step(use({ name: "no_such_tool", args: {} }))).toMatchObject({
    observations: [{ role: "tool", content: '{"error":"unknown_tool"}' }],
    done: true,
  });
  await expect(env.step(say("again"))).rejects.toThrow(/over/);
  expect(why(env.score())).toBe("the episode was cut before an answer");
});
