import { expect, test } from "vitest";
import { textOf } from "../chat/index.ts";
import { say, use } from "./play.ts";
import { openWorld } from "./shipped.ts";
import { says, tokens } from "./speech.ts";
import { WorldEnvironment } from "./world-environment.ts";

/** The first episode of a task, from seed 0 on. */
function episode(world: string, task: string): WorldEnvironment {
  const env = new WorldEnvironment(openWorld(world));
  for (let seed = 0; seed < 500; seed++) {
    env.reset(seed);
    if (env.inside.task.type.name === task) return env;
  }
  throw new Error(`no ${task}`);
}

const reply = (env: WorldEnvironment, text: string): string =>
  textOf(env.step(say(text)).observations[0]?.content ?? null);

test("a hidden fact is told when asked for, in the same words when asked again, and not before", () => {
  const env = episode("retail", "cancel");
  const email = String(env.inside.task.vars.email);
  expect(env.inside.task.opening).not.toContain(email);
  expect(reply(env, "Which product is it?")).not.toContain(email);
  const told = reply(env, "What is your email?");
  expect(told).toContain(email);
  expect(reply(env, "Your email again, please?")).toBe(told);
});

test("the user says yes to what they asked for, no to another order, and not before all is told", () => {
  const env = episode("retail", "cancel");
  const { o, why } = env.inside.task.vars;
  const other = Object.keys(env.inside.task.initial.order ?? {}).find((k) => k !== o);
  const no = /^No, /;
  expect(reply(env, `Shall I cancel ${o} (${why})?`)).toMatch(no);
  reply(env, "What is your email?");
  expect(reply(env, `Shall I cancel ${other} (${why})?`)).toMatch(no);
  expect(reply(env, `Shall I cancel ${o} (${why})?`)).not.toMatch(no);
});

test("a yes holds for the values that were named, and for no others", () => {
  const env = episode("retail", "cancel");
  const { o, why, email } = env.inside.task.vars;
  reply(env, "What is your email?");
  env.step(use({ name: "find_user", args: { email } }, { name: "get_order", args: { order: o } }));
  reply(env, `Shall I cancel ${o} (${why})?`);
  const snapshot = env.snapshot();
  env.step(use({ name: "cancel_order", args: { order: o, reason: why === "mistake" ? "not_needed" : "mistake" } }));
  expect(env.inside.progress.forbidden).toHaveLength(1);
  env.restore(snapshot);
  env.step(use({ name: "cancel_order", args: { order: o, reason: why } }));
  expect(env.inside.progress.forbidden).toEqual([]);
});

test("patience ends: a user who is asked for nothing again and again leaves", () => {
  const env = episode("retail", "cancel");
  const steps = ["Why?", "Why?", "Why?", "Why?"].map((q) => env.step(say(q)).done);
  expect(steps).toEqual([false, false, false, true]);
});

test("dual control: the payment waits until the user has approved it with a tool of their own", () => {
  const env = episode("bank", "large");
  const { x, y, me } = env.inside.task.vars;
  reply(env, "How much is it?");
  const amount = env.inside.task.vars.n;
  env.step(use({ name: "accounts", args: { customer: me } }, { name: "balance", args: { account: x } }));
  reply(env, `Shall I prepare ${amount} from ${x} to ${y}?`);
  const made = env.step(use({ name: "prepare", args: { from: x, to: y, amount } })).observations[0];
  const { payment } = JSON.parse(textOf(made?.content ?? null));
  const pay = () => textOf(env.step(use({ name: "pay", args: { payment } })).observations[0]?.content ?? null);
  expect(pay()).toBe('{"error":"not_approved"}');
  reply(env, "Please approve the payment in your app.");
  expect(env.inside.progress.state.payment?.[payment]?.status).toBe("approved");
  expect(pay()).toBe('{"ok":true}');
  env.step(say("Done."));
  expect(env.score().success).toBe(true);
});

test.each([
  ["It is 10:30, ann@mail.test.", ["it", "is", "10:30", "ann@mail.test"]],
  ["-5 and a-b – 7!", ["-5", "and", "a-b", "7"]],
])("the words of %j", (text, words) => expect(tokens(text)).toEqual(words));

test("a phrase is found by its words alone", () => {
  expect(says(tokens("The new one is Elm Street."), "elm street")).toBe(true);
  expect(says(tokens("17 boxes"), "7")).toBe(false);
  expect(says(tokens("anything"), "")).toBe(false);
});
