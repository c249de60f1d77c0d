import type OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { alice, bob, type Kept, kept } from "../testing.ts";

let server: Kept;
let mine: OpenAI;
beforeAll(async () => {
  server = await kept(({ messages }) => ({ text: `re: ${messages.at(-1)!.content}` }));
  mine = server.clientOf(alice);
});
afterAll(() => server[Symbol.asyncDispose]());

const ask = (content: string, metadata: Record<string, string>) => ({
  model: "m",
  messages: [{ role: "user" as const, content }],
  store: true,
  metadata,
});

test("what is stored is what was answered: found by metadata, in pages, after a restart, by its owner", async () => {
  const first = await mine.chat.completions.create({ ...ask("one", { run: "a" }), temperature: 0.5 });
  const chunks = await Array.fromAsync(
    await mine.chat.completions.create({ ...ask("two", { run: "b" }), stream: true }),
  );
  const third = await mine.chat.completions.create(ask("three", { run: "a" }));
  await mine.chat.completions.create({ ...ask("not kept", { run: "a" }), store: false });
  const second = chunks[0]!.id;
  await server.restart();
  mine = server.clientOf(alice);
  const kept = await mine.chat.completions.retrieve(first.id);
  expect(kept).toMatchObject({ ...first, metadata: { run: "a" }, temperature: 0.5, request_id: expect.any(String) });
  expect((await mine.chat.completions.retrieve(second)).choices[0]!.message.content).toBe("re: two");
  const ids = async (query: OpenAI.ChatCompletionListParams) =>
    (await mine.chat.completions.list(query)).data.map(({ id }) => id);
  expect(await ids({})).toEqual([first.id, second, third.id]);
  expect(await ids({ order: "desc", limit: 2 })).toEqual([third.id, second]);
  expect(await ids({ after: first.id })).toEqual([second, third.id]);
  expect(await ids({ metadata: { run: "a" } })).toEqual([first.id, third.id]);
  expect(await ids({ model: "other" })).toEqual([]);
  const all = await Array.fromAsync(mine.chat.completions.list({ limit: 1 }));
  expect(all).toHaveLength(3);

  const { data } = await mine.chat.completions.messages.list(first.id);
  expect(data).toMatchObject([{ id: `${first.id}-0`, role: "user", content: "one" }]);
  const changed = await mine.chat.completions.update(first.id, { metadata: { run: "c" } });
  expect(changed.metadata).toEqual({ run: "c" });
  expect(await ids({ metadata: { run: "c" } })).toEqual([first.id]);

  const other = server.clientOf(bob).chat.completions;
  expect((await other.list()).data).toEqual([]);
  for (const attempt of [other.retrieve(first.id), other.delete(first.id), other.update(first.id, { metadata: {} })])
    await expect(attempt).rejects.toMatchObject({ status: 404 });
  expect(await mine.chat.completions.delete(first.id)).toMatchObject({ id: first.id, deleted: true });
  await expect(mine.chat.completions.retrieve(first.id)).rejects.toMatchObject({ status: 404 });
});

test("metadata and queries are read strictly", async () => {
  const many = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, ""]));
  for (const metadata of [many, { ["x".repeat(65)]: "" }, { x: "y".repeat(513) }])
    await expect(mine.chat.completions.create(ask("x", metadata))).rejects.toMatchObject({ status: 400 });
  for (const query of ["limit=0", "limit=x", "after=nobody", "order=up", "colour=red"]) {
    const headers = { authorization: `Bearer ${alice}` };
    const response = await fetch(`${server.url}/v1/chat/completions?${query}`, { headers });
    const { error } = (await response.json()) as { error: { param: string } };
    expect([response.status, error.param]).toEqual([400, query.split("=")[0]]);
  }
});
