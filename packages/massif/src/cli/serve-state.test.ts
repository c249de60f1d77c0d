import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import OpenAI, { toFile } from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { saveModel } from "../model/index.ts";
import { byteTokenizer, tinyModel } from "../server/testing-model.ts";
import { saveTokenizer } from "../tokenizer/index.ts";

// A batch over a real server that is killed in the middle, and started again over the same folder.
const root = resolve(import.meta.dirname, "../../../..");
let box: string;
const children: ChildProcess[] = [];
beforeAll(async () => {
  box = mkdtempSync(join(tmpdir(), "massif-serve-state-"));
  const model = tinyModel(5, 2048);
  saveModel(model, box);
  model.dispose();
  await saveTokenizer(byteTokenizer(), box);
});
afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(box, { recursive: true });
});

async function serving(): Promise<{ child: ChildProcess; client: OpenAI }> {
  const main = join(root, "packages/massif/src/cli/main.ts");
  const options = ["--port", "0", "--model", box, "--cache-mib", "8", "--state", join(box, "state")];
  const child = spawn(process.execPath, [main, "serve", ...options], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  let text = "";
  child.stderr!.on("data", (piece) => (text += piece));
  for await (const piece of child.stdout!) {
    text += piece;
    const url = /at (http:\S+)/.exec(text)?.[1];
    if (url) return { child, client: new OpenAI({ baseURL: `${url}/v1`, apiKey: "x", maxRetries: 0 }) };
  }
  throw new Error(`it did not start: ${text}`);
}

test("a batch outlives SIGKILL: every request answered once, embeddings and stored answers there again", async () => {
  const first = await serving();
  const N = 60;
  const row = (i: number) => ({
    ...{ custom_id: `r${i}`, method: "POST", url: "/v1/chat/completions" },
    body: { model: "massif", messages: [{ role: "user", content: `${i}` }], max_tokens: 60, seed: i },
  });
  const text = Array.from({ length: N }, (_, i) => JSON.stringify(row(i))).join("\n");
  const file = await toFile(Buffer.from(text), "in.jsonl");
  const input = await first.client.files.create({ file, purpose: "batch" });
  const stored = await first.client.chat.completions.create({ ...row(0).body, store: true } as never);
  const vector = await first.client.embeddings.create({ model: "massif", input: "abc" });
  const { id } = await first.client.batches.create({
    ...{ input_file_id: input.id, endpoint: "/v1/chat/completions", completion_window: "24h" },
  });
  let before = 0;
  while (before < 5) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    before = (await first.client.batches.retrieve(id)).request_counts!.completed;
  }
  first.child.kill("SIGKILL");
  await once(first.child, "exit");
  expect(before).toBeLessThan(N);

  const { client } = await serving();
  let batch = await client.batches.retrieve(id);
  for (let i = 0; batch.status !== "completed" && i < 1000; i++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    batch = await client.batches.retrieve(id);
  }
  expect(batch).toMatchObject({ status: "completed", request_counts: { total: N, completed: N, failed: 0 } });
  const output = await (await client.files.content(batch.output_file_id!)).text();
  const ids = output
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { custom_id: string }).custom_id);
  expect(ids.sort()).toEqual(Array.from({ length: N }, (_, i) => `r${i}`).sort());
  const { id: chat } = stored as unknown as OpenAI.ChatCompletion;
  expect((await client.chat.completions.retrieve(chat)).id).toBe(chat);
  const again = await client.embeddings.create({ model: "massif", input: "abc" });
  for (const [i, x] of again.data[0]!.embedding.entries()) expect(x).toBeCloseTo(vector.data[0]!.embedding[i]!, 5);
}, 90_000);
