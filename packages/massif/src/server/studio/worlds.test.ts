import { expect, onTestFinished, test } from "vitest";
import type { Turn } from "../../llm/index.ts";
import { openWorld, WorldEnvironment } from "../../worlds/index.ts";
import { Keys } from "../keys.ts";
import { events, post, type Scripted, scripted } from "../testing.ts";

async function served(script: Turn[], options: Parameters<typeof scripted>[1] = {}): Promise<Scripted> {
  const server = await scripted(script, { worlds: ["ledger", "calendar"], ...options });
  onTestFinished(() => server.close());
  return server;
}

/** The first seed of a task of the ledger, and the accounts it is about. */
function task(name: string): { seed: number; vars: Record<string, unknown>; opening: string } {
  const env = new WorldEnvironment(openWorld("ledger"));
  for (let seed = 0; ; seed++) {
    env.reset(seed);
    const { type, vars, opening } = env.inside.task;
    if (type.name === name) return { seed, vars, opening };
  }
}

interface Begun {
  id: string;
  seed: number;
  brief: { task: string; goal: string; facts: string[] };
  tools: { name: string }[];
}

const begin = async (server: Scripted, more: object = {}): Promise<Begun> => {
  const response = await server.post("/api/worlds/play", { model: "m", world: "ledger", ...more });
  expect(response.status).toBe(200);
  return (await response.json()) as Begun;
};
const say = (server: Scripted, id: string, body: object) => server.post(`/api/worlds/play/${id}/say`, body);

/** All events of a conversation that is over. */
const all = async (server: Scripted, id: string, headers: Record<string, string> = {}) =>
  events(await fetch(`${server.url}/api/worlds/play/${id}/events`, { headers }));

/** Waits until it is the person's turn, so often. */
async function turn(server: Scripted, id: string, times: number): Promise<void> {
  const controller = new AbortController();
  const { body } = await fetch(`${server.url}/api/worlds/play/${id}/events`, { signal: controller.signal });
  let waits = 0;
  let text = "";
  for await (const piece of body!.pipeThrough(new TextDecoderStream())) {
    text += piece;
    waits = text.split('{"type":"wait"}').length - 1;
    if (waits >= times || text.includes('"type":"end"')) break;
  }
  controller.abort();
}

const types = (list: Record<string, unknown>[]) => list.map(({ type }) => type);

test("a person says what they want, the model's calls run in the world, the verdict comes with its reason", async () => {
  const { seed, opening } = task("balance");
  const account = openingName(opening);
  const server = await served([{ calls: [{ name: "read", arguments: { account } }] }, { text: "It has 99." }]);
  const { id, brief, tools } = await begin(server, { seed });
  expect(brief).toEqual({ task: "balance", goal: opening, facts: [], acts: [] });
  expect(tools.map(({ name }) => name)).toContain("read");
  expect((await say(server, id, { text: "How much is there?" })).status).toBe(200);
  await turn(server, id, 2);
  await say(server, id, { end: true });
  const told = await all(server, id);
  expect(types(told).filter((type) => type !== "chunk")).toEqual([
    "wait",
    "said",
    "turn",
    "results",
    "turn",
    "wait",
    "end",
  ]);
  const [{ results }] = told.filter(({ type }) => type === "results") as [{ results: { content: string }[] }];
  expect(JSON.parse(results[0]!.content)).toEqual({ balance: expect.any(Number) });
  const end = told.at(-1) as unknown as { success: boolean; ended: string; checks: { ok: boolean; why?: string }[] };
  expect([end.success, end.ended]).toEqual([false, "done"]);
  expect(end.checks.find(({ ok }) => !ok)?.why).toMatch(/^does not tell \d+/);
  // The model has seen the world's rules, the person's own words and the result, and nothing of the verdict.
  const seen = JSON.stringify(server.model.requests);
  expect(seen).toContain("How much is there?");
  expect(seen).not.toContain(JSON.stringify(opening).slice(1, -1));
  expect(seen).not.toMatch(/verdict|"checks"|"success"|evidence/);
});

test("an answer that is right gets its success; the same seed is the same task", async () => {
  const { seed, opening } = task("balance");
  const env = new WorldEnvironment(openWorld("ledger"));
  env.reset(seed);
  const balance = (env.inside.progress.state.account as Record<string, { balance: number }>)[openingName(opening)]!
    .balance;
  const server = await served([
    { calls: [{ name: "read", arguments: { account: openingName(opening) } }] },
    { text: `${balance}.` },
  ]);
  const { id } = await begin(server, { seed });
  await say(server, id, { text: opening });
  await turn(server, id, 2);
  await say(server, id, { end: true });
  expect((await all(server, id)).at(-1)).toMatchObject({ type: "end", success: true });
});

test("a page that comes back goes on after the last event it saw", async () => {
  const server = await served([{ text: "Hello." }]);
  const { id } = await begin(server);
  await say(server, id, { text: "Hi." });
  await turn(server, id, 2);
  await say(server, id, { end: true });
  const whole = await all(server, id);
  const rest = await all(server, id, { "last-event-id": "1" });
  expect(rest).toEqual(whole.slice(2));
  expect(await all(server, id, { "last-event-id": "nonsense" })).toEqual(whole);
});

test("two people's worlds are their own; one cannot speak out of turn, nor after the end", async () => {
  const slow: Turn = { text: "one two three", pause: 60 };
  const server = await served([slow, { text: "other" }]);
  const [one, two] = [await begin(server, { seed: 1 }), await begin(server, { seed: 1 })];
  expect(one.id).not.toBe(two.id);
  expect((await say(server, one.id, { end: true })).status).toBe(409);
  await say(server, one.id, { text: "first" });
  expect((await say(server, one.id, { text: "again" })).status).toBe(409);
  expect((await say(server, two.id, { text: "second" })).status).toBe(200);
  await turn(server, one.id, 2);
  await say(server, one.id, { end: true });
  expect((await say(server, one.id, { text: "after" })).status).toBe(409);
  expect(types(await all(server, one.id)).filter((type) => type === "said")).toHaveLength(1);
  expect((await fetch(`${server.url}/api/worlds/play/${two.id}`, { method: "DELETE" })).status).toBe(200);
  expect((await say(server, two.id, { text: "gone" })).status).toBe(404);
});

test("leaving ends the request at the model", async () => {
  const server = await served([{ text: "never ".repeat(500), pause: 20 }]);
  const { id } = await begin(server);
  await say(server, id, { text: "Hi." });
  await expect.poll(() => server.service.slots.held).toBe(1);
  await fetch(`${server.url}/api/worlds/play/${id}`, { method: "DELETE" });
  await expect.poll(() => server.service.slots.held).toBe(0);
});

test("what is wrong is refused with what is expected; so many at once and no more", async () => {
  const server = await served([]);
  const refused = async (body: object) => {
    const response = await server.post("/api/worlds/play", { model: "m", world: "ledger", ...body });
    return [response.status, ((await response.json()) as { error: { message: string } }).error.message];
  };
  expect(await refused({ world: "nowhere" })).toEqual([400, "world: one of ledger, calendar"]);
  expect(await refused({ seed: -1 })).toEqual([400, "seed: a number from 0 to 4294967295"]);
  expect((await refused({ model: "gpt" }))[0]).toBe(404);
  const { id } = await begin(server);
  expect((await say(server, id, { text: "x".repeat(4001) })).status).toBe(400);
  expect((await say(server, id, {})).status).toBe(400);
  expect((await say(server, id, { act: 0 })).status).toBe(409);
  for (let i = 1; i < 16; i++) await begin(server);
  expect((await refused({}))[0]).toBe(429);
});

test("a conversation is its key's own", async () => {
  const keys = new Keys([
    { key: "sk-aaaaaaaa", name: "a" },
    { key: "sk-bbbbbbbb", name: "b" },
  ]);
  const server = await served([{ text: "Hello." }], { keys });
  const as = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });
  const begun = await post(`${server.url}/api/worlds/play`, { model: "m", world: "ledger" }, as("sk-aaaaaaaa"));
  const { id } = (await begun.json()) as Begun;
  const url = `${server.url}/api/worlds/play/${id}/say`;
  expect((await post(url, { text: "Hi." }, as("sk-bbbbbbbb"))).status).toBe(404);
  expect((await post(url, { text: "Hi." }, as("sk-aaaaaaaa"))).status).toBe(200);
});

/** The account that a question for a balance names. */
function openingName(opening: string): string {
  const env = new WorldEnvironment(openWorld("ledger"));
  env.reset(task("balance").seed);
  const names = Object.keys(env.inside.task.initial.account!);
  return names.find((name) => opening.toLowerCase().includes(name.toLowerCase()))!;
}
