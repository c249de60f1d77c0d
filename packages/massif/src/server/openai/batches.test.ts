import { appendFileSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI, { toFile } from "openai";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Script } from "../../llm/index.ts";
import { type Scripted, scripted, until } from "../testing.ts";

let state: string;
let server: Scripted;
let client: OpenAI;
let now = 1_700_000_000;
const asked: string[] = [];
/** Says back what it was asked; "hold" waits until it is let go. */
let letGo: () => void;
let held: Promise<void>;
const script: Script = async ({ messages }) => {
  const text = String(messages.at(-1)?.content);
  asked.push(text);
  if (text.startsWith("hold")) await held;
  return { text: `said ${text}`, usage: { promptTokens: 3, completionTokens: 2 } };
};
async function open(options = {}): Promise<void> {
  server = await scripted(script, { state, unixTime: () => now, grace: 50, ...options });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
}
beforeEach(async () => {
  state = mkdtempSync(join(tmpdir(), "massif-state-"));
  asked.length = 0;
  held = new Promise((resolve) => (letGo = resolve));
  await open();
});
afterEach(async () => {
  letGo();
  await server.close();
  rmSync(state, { recursive: true });
});

const row = (id: string, content: string, more: object = {}) => ({
  ...{ custom_id: id, method: "POST", url: "/v1/chat/completions" },
  body: { model: "m", messages: [{ role: "user", content }], ...more },
});
async function create(rows: readonly unknown[]): Promise<OpenAI.Batch> {
  const text = rows.map((one) => (typeof one === "string" ? one : JSON.stringify(one))).join("\n");
  const { id } = await client.files.create({ file: await toFile(Buffer.from(text), "in.jsonl"), purpose: "batch" });
  const endpoint = "/v1/chat/completions";
  return client.batches.create({ input_file_id: id, endpoint, completion_window: "24h", metadata: { a: "b" } });
}
async function settled(id: string): Promise<OpenAI.Batch> {
  let batch: OpenAI.Batch;
  await until(async () => {
    batch = await client.batches.retrieve(id);
    return ["completed", "failed", "cancelled", "expired"].includes(batch.status);
  });
  return batch!;
}
interface Row {
  custom_id: string;
  response: { status_code: number; request_id: string; body: OpenAI.ChatCompletion } | null;
  error: { code: string } | null;
}
async function rows(id: string | undefined): Promise<Row[]> {
  const text = await (await client.files.content(id!)).text();
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Row);
}

test("requests are answered as by their route; those that fail are told apart", async () => {
  const created = await create([row("a", "one"), row("b", "two", { colour: 1 }), row("c", "three")]);
  expect(created).toMatchObject({ object: "batch", status: "validating", metadata: { a: "b" } });
  const batch = await settled(created.id);
  expect(batch).toMatchObject({ status: "completed", request_counts: { total: 3, completed: 2, failed: 1 } });
  const output = await rows(batch.output_file_id);
  const texts = output.map((r) => [r.custom_id, r.response!.body.choices[0]!.message.content]);
  expect(texts.sort()).toEqual([
    ["a", "said one"],
    ["c", "said three"],
  ]);
  expect(output[0]!.response!.body.usage!.total_tokens).toBe(5);
  const [failed] = await rows(batch.error_file_id);
  expect(failed).toMatchObject({ custom_id: "b", response: { status_code: 400 }, error: null });
  expect((await client.batches.list()).data.map(({ id }) => id)).toEqual([batch.id]);
  await expect(client.batches.cancel(batch.id)).rejects.toMatchObject({ status: 409 });
});

test("what is wrong with the input is told by line, and nothing is run", async () => {
  const bad = [
    row("a", "x"),
    "{nonsense",
    row("a", "y"),
    { ...row("b", "x"), url: "/v1/embeddings" },
    row("c", "x", { stream: true }),
    { custom_id: "d", method: "POST", url: "/v1/chat/completions" },
    "[".repeat(100_000),
  ];
  const batch = await settled((await create(bad)).id);
  expect(batch.status).toBe("failed");
  expect(batch.errors!.data!.map(({ code, line }) => [line, code])).toEqual([
    [2, "invalid_json_line"],
    [3, "duplicate_custom_id"],
    [4, "mismatched_url"],
    [5, "invalid_request"],
    [6, "missing_required_parameter"],
    [7, "invalid_json_line"],
  ]);
  expect(asked).toEqual([]);
  expect((await settled((await create(["\n"])).id)).errors!.data![0]!.code).toBe("empty_file");
  const wrong = { endpoint: "/v1/chat/completions", completion_window: "24h" } as const;
  await expect(client.batches.create({ ...wrong, input_file_id: "file-none" })).rejects.toMatchObject({
    ...{ status: 400, param: "input_file_id" },
  });
});

test("a server that ends in the middle goes on after a restart, and asks nothing twice that was answered", async () => {
  const created = await create([row("a", "one"), row("b", "hold"), row("c", "two"), row("d", "hold too")]);
  await until(() => asked.length === 4);
  await until(() => readdirSync(join(state, "batch-results")).length === 1);
  expect((await client.batches.retrieve(created.id)).status).toBe("in_progress");
  await server.close();
  // The last line was being written when the power went.
  appendFileSync(join(state, "batch-results", `${created.id}.output.jsonl`), '{"custom_id":"b","resp');
  letGo();
  await open();
  const batch = await settled(created.id);
  expect(batch).toMatchObject({ status: "completed", request_counts: { total: 4, completed: 4, failed: 0 } });
  expect((await rows(batch.output_file_id)).map((r) => r.custom_id).sort()).toEqual(["a", "b", "c", "d"]);
  expect(asked.filter((text) => text === "one")).toHaveLength(1);
  expect(asked.filter((text) => text === "hold")).toHaveLength(2);
});

test("a cancelled batch keeps what was answered", async () => {
  const created = await create([row("a", "one"), row("b", "hold"), row("c", "hold 2")]);
  await until(() => asked.length === 3 && readdirSync(join(state, "batch-results")).length === 1);
  expect((await client.batches.cancel(created.id)).status).toBe("cancelling");
  letGo();
  const batch = await settled(created.id);
  expect(batch).toMatchObject({ status: "cancelled", request_counts: { completed: 1 } });
  expect(await rows(batch.output_file_id)).toHaveLength(1);
});

test("what comes too late is told so", async () => {
  const created = await create(["a", "b", "c", "d", "e", "f"].map((id) => row(id, `hold ${id}`)));
  await until(() => asked.length === 4);
  now += 24 * 3600;
  letGo();
  const batch = await settled(created.id);
  expect(batch).toMatchObject({ status: "expired", request_counts: { completed: 4, failed: 2 } });
  expect((await rows(batch.error_file_id)).map((r) => r.error!.code)).toEqual(["batch_expired", "batch_expired"]);
});

test("whoever waits for an answer goes before a batch", async () => {
  await server.close();
  await open({ running: 1 });
  const first = client.chat.completions.create({ model: "m", messages: [{ role: "user", content: "hold first" }] });
  await until(() => asked.length === 1);
  const created = await create([row("a", "batch")]);
  await until(() => server.service.slots.held === 1);
  const second = client.chat.completions.create({ model: "m", messages: [{ role: "user", content: "second" }] });
  await until(() => server.service.slots.queued === 1);
  letGo();
  await Promise.all([first, second, settled(created.id)]);
  expect(asked).toEqual(["hold first", "second", "batch"]);
});
