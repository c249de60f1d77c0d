import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type Engine, openEngine } from "../../engine/index.ts";
import { type Model, saveModel } from "../../model/index.ts";
import { engineBackend } from "../engine.ts";
import { Keys } from "../keys.ts";
import { type Listening, listen } from "../listen.ts";
import { Service } from "../service.ts";
import { post, until } from "../testing.ts";
import { byteTokenizer, tinyModel } from "../testing-model.ts";

interface Served extends AsyncDisposable {
  model: Model;
  engine: Engine;
  service: Service;
  server: Listening;
  client: OpenAI;
}
let root: string;
const models = new Map<string, Model>();
/** What each checkpoint answers, from a server of its own. */
const answers = new Map<string, string>();
const ask = { model: "k2", messages: [{ role: "user" as const, content: "Ulm?" }], max_tokens: 24, temperature: 0 };
const answer = async (client: OpenAI) =>
  (await client.chat.completions.create({ ...ask, logprobs: true })).choices[0]!.logprobs!.content!.map(
    ({ token, logprob }) => [token, logprob],
  );

async function serve(model: Model): Promise<Served> {
  const engine = openEngine({ model, tokenizer: byteTokenizer(), cacheBytes: 1 << 20, exact: true });
  const service = new Service();
  service.add(await engineBackend(engine, { names: ["k2"], template: "instruct-v2", pace: 0 }));
  const keys = new Keys([
    { key: "admin-key-1", name: "admin", admin: true },
    { key: "user-key-1", name: "user" },
  ]);
  const server = await listen({ service, keys, weightsRoot: root, grace: 500 });
  return {
    ...{ model, engine, service, server },
    client: new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "user-key-1", maxRetries: 0 }),
    async [Symbol.asyncDispose]() {
      await server.close();
      engine[Symbol.dispose]();
    },
  };
}
const headers = { "x-api-key": "admin-key-1" };
const admin = async (path: string, body: unknown = {}, more: Record<string, string> = {}) => {
  const response = await post(served.server.url + path, body, { headers: { ...headers, ...more } });
  return { status: response.status, ...((await response.json()) as Record<string, unknown>) };
};
const get = async (path: string) => (await fetch(served.server.url + path, { headers })).json();
const bytes = (name: string) => readFileSync(join(root, name, "model.safetensors"));
const binary = { "content-type": "application/octet-stream" };
const send = (path: string, body: Buffer<ArrayBuffer>) =>
  fetch(served.server.url + path, { method: "POST", body, headers: { ...headers, ...binary } }).then(
    async (response) => ({ status: response.status, ...((await response.json()) as Record<string, unknown>) }),
  );

let served: Served;
beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "massif-weights-"));
  for (const [i, name] of ["a", "b", "c"].entries()) {
    const model = tinyModel(i + 1);
    models.set(name, model);
    saveModel(model, join(root, name));
    await using one = await serve(model);
    answers.set(name, JSON.stringify(await answer(one.client)));
  }
  expect(new Set(answers.values()).size).toBe(3);
});
afterAll(async () => {
  await served[Symbol.asyncDispose]();
  served.model.dispose();
  for (const model of models.values()) model.dispose();
  rmSync(root, { recursive: true });
});
beforeEach(async () => {
  await served?.[Symbol.asyncDispose]();
  served?.model.dispose();
  served = await serve(tinyModel(1));
});
const answersLike = async (name: string) => expect(JSON.stringify(await answer(served.client))).toBe(answers.get(name));

test("weights from a folder: the answers are exactly those of that checkpoint, and every response tells the version", async () => {
  await answersLike("a");
  expect(await admin("/update_weights_from_disk", { model_path: "b", weight_version: "step-7" })).toMatchObject({
    ...{ status: 200, success: true, weight_version: "step-7", version: 1 },
  });
  await answersLike("b");
  for (const path of ["/v1/chat/completions", "/v1/models", "/v1/nothing"]) {
    const response = await post(served.server.url + path, ask, { headers });
    await response.text();
    expect(response.headers.get("x-weight-version")).toBe("step-7");
  }
  expect(await get("/weight_version")).toEqual({ weight_version: "step-7", version: 1 });
  expect(await admin("/update_weights", { model_path: join(root, "c") })).toMatchObject({ weight_version: "2" });
  await answersLike("c");
  expect(await admin("/update_weight_version", { new_version: "final" })).toMatchObject({ weight_version: "final" });
  for (const model_path of ["/etc", "..", "nothing", "a/config.json"])
    expect(await admin("/update_weights_from_disk", { model_path })).toMatchObject({ status: 400 });
  await answersLike("c");
});

test("an answer tells the version that it was made with, though others came meanwhile", async () => {
  const before = post(`${served.server.url}/v1/chat/completions`, { ...ask, max_tokens: 200 }, { headers });
  await until(() => served.engine.metrics().running === 1);
  const update = admin("/update_weights_from_disk", { model_path: "b" });
  const old = await before;
  expect(old.headers.get("x-weight-version")).toBe("0");
  expect(((await old.json()) as OpenAI.ChatCompletion).system_fingerprint).toMatch(/-w0$/);
  expect(await update).toMatchObject({ version: 1 });
  await answersLike("b");
  // One that begins to wait under the old weights is made with the new ones, streamed too.
  await admin("/pause?mode=keep");
  const waiting = [false, true].map((stream) =>
    post(`${served.server.url}/v1/chat/completions`, { ...ask, stream }, { headers }),
  );
  await until(() => served.engine.metrics().waiting === 2);
  expect(await admin("/update_weights_from_disk", { model_path: "c" })).toMatchObject({ version: 2 });
  await admin("/resume");
  for (const response of await Promise.all(waiting)) {
    expect(response.headers.get("x-weight-version")).toBe("2");
    expect(await response.text()).toMatch(/"system_fingerprint":"massif-[^"]*-w2"/);
  }
});

test("weights from tensors: the body, base64, or a file; some of them, all, or in parts; or nothing changes", async () => {
  expect(await send("/update_weights_from_tensor?weight_version=t1", bytes("b"))).toMatchObject({
    ...{ status: 200, success: true, weight_version: "t1" },
  });
  await answersLike("b");
  const serialized_named_tensors = [bytes("c").toString("base64")];
  expect(await admin("/update_weights_from_tensor", { serialized_named_tensors })).toMatchObject({ success: true });
  await answersLike("c");
  expect(await admin("/update_weights", { path: "a/model.safetensors" })).toMatchObject({ success: true, version: 3 });
  await answersLike("a");
  // In parts: nothing changes before the end.
  const parts = cut(bytes("b"), 3);
  expect(await admin("/start_weight_update")).toMatchObject({ success: true });
  for (const part of parts) expect(await send("/update_weights", part)).toMatchObject({ status: 200, version: 3 });
  await answersLike("a");
  expect(await admin("/finish_weight_update", { weight_version: "whole" })).toMatchObject({ weight_version: "whole" });
  await answersLike("b");
  expect(await admin("/finish_weight_update")).toMatchObject({ status: 409 });
  for (const wrong of [Buffer.from("nonsense"), rename(bytes("c"), "model.norm.weight", "model.mörm.weight")])
    expect(await send("/update_weights_from_tensor", wrong)).toMatchObject({ status: 400 });
  expect(await admin("/update_weights_from_tensor", { path: "../../etc/passwd" })).toMatchObject({ status: 400 });
  await answersLike("b");
});

test("checksums prove which weights these are", async () => {
  const of = async () => (await admin("/weight_checker", { action: "checksum" })) as unknown as Digest;
  type Digest = { checksum: string; tensors: Record<string, string> };
  const first = await of();
  expect(Object.keys(first.tensors)).toContain("model.layers.1.mlp.experts.0.gate_proj.weight");
  expect(await admin("/weights_checker", { action: "compare" })).toMatchObject({ status: 400 });
  await admin("/weights_checker", { action: "snapshot" });
  await admin("/update_weights_from_disk", { model_path: "b" });
  const compared = (await admin("/weight_checker", { action: "compare" })) as unknown as {
    equal: boolean;
    changed: string[];
  };
  expect(compared.equal).toBe(false);
  expect(compared.changed).toContain("lm_head.weight");
  await admin("/update_weights_from_disk", { model_path: "a" });
  expect(await admin("/weight_checker", { action: "compare" })).toMatchObject({ equal: true, changed: [] });
  expect((await of()).checksum).toBe(first.checksum);
});

test("pause keeps, retracts, waits or aborts; what is paused goes on, under new weights too", async () => {
  const long = { ...ask, max_tokens: 300 };
  for (const mode of ["keep", "in_place", "retract"]) {
    const running = served.client.chat.completions.create(long);
    await until(() => served.engine.metrics().generatedTokens > 0 && served.engine.metrics().running === 1);
    expect(await admin(`/pause?mode=${mode}`)).toMatchObject({ mode });
    expect(await get("/is_paused")).toEqual({ is_paused: true });
    expect(await admin("/update_weights_from_disk", { model_path: "b" })).toMatchObject({ status: 200 });
    expect((await fetch(`${served.server.url}/is_paused`, { headers })).status).toBe(200);
    await admin("/resume");
    expect((await running).usage!.completion_tokens).toBeGreaterThan(0);
  }
  const running = served.client.chat.completions.create(long);
  await until(() => served.engine.metrics().running === 1);
  await admin("/pause_generation", { mode: "wait" });
  expect((await running).choices).toHaveLength(1);
  const waiting = served.client.chat.completions.create(ask);
  await until(() => served.engine.metrics().waiting === 1);
  await admin("/continue_generation");
  await waiting;
  const doomed = expect(served.client.chat.completions.create(long)).rejects.toMatchObject({
    status: expect.any(Number),
  });
  await until(() => served.engine.metrics().running === 1);
  await admin("/pause");
  await doomed;
  await admin("/resume");
});

test("sleep gives memory back and says so; awake, the answers are the same", async () => {
  expect(await admin("/sleep?level=1")).toMatchObject({ asleep: ["kv_cache"] });
  expect(await get("/is_sleeping")).toEqual({ is_sleeping: true });
  await expect(served.client.chat.completions.create(ask)).rejects.toMatchObject({ status: 503, code: "asleep" });
  expect(await admin("/wake_up")).toMatchObject({ status: "awake" });
  await answersLike("a");
  expect(await admin("/release_memory_occupation", { tags: ["weights", "kv_cache"] })).toMatchObject({
    asleep: ["kv_cache", "weights"],
  });
  expect(served.model.parameter("lm_head.weight").nbytes).toBe(0);
  expect(await admin("/update_weights_from_disk", { model_path: "b" })).toMatchObject({ status: 503 });
  expect(await admin("/resume_memory_occupation", { tags: ["weights"] })).toMatchObject({ asleep: ["kv_cache"] });
  expect(await admin("/update_weights_from_disk", { model_path: "b" })).toMatchObject({ status: 200 });
  expect(await admin("/wake_up?tags=kv_cache")).toMatchObject({ status: "awake" });
  await answersLike("b");
});

test("an admin ends requests by their id, and all of this asks for an admin's key", async () => {
  const mine = { headers: { ...headers, "x-request-id": "long-one" } };
  const long = { ...ask, max_tokens: 900 };
  const running = post(`${served.server.url}/v1/chat/completions`, long, mine);
  await until(() => served.engine.metrics().running === 1);
  expect(await admin("/abort_request", { rid: "other" })).toMatchObject({ aborted: 0 });
  expect(await admin("/abort_request", { rid: "long-one" })).toMatchObject({ aborted: 1 });
  expect((await running).status).toBeGreaterThanOrEqual(400);
  expect(await admin("/abort_requests")).toMatchObject({ status: 400 });
  expect(await admin("/update_weights_from_distributed")).toMatchObject({ status: 400 });
  const paths = [
    "/pause",
    "/sleep",
    "/update_weights_from_tensor",
    "/weight_checker",
    "/flush_cache",
    "/abort_request",
  ];
  for (const path of paths)
    expect((await post(served.server.url + path, {}, { headers: { "x-api-key": "user-key-1" } })).status).toBe(403);
  expect(await admin("/pause?mode=sometimes")).toMatchObject({ status: 400 });
});

interface Header {
  [name: string]: { dtype: string; shape: number[]; data_offsets: [number, number] };
}
function pack(header: Header, data: Buffer): Buffer<ArrayBuffer> {
  const head = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(head.length));
  return Buffer.concat([size, head, data]);
}
function unpack(file: Buffer): { header: Header; data: Buffer } {
  const length = Number(file.readBigUInt64LE());
  const { __metadata__: _, ...header } = JSON.parse(file.subarray(8, 8 + length).toString()) as Header;
  return { header: header as Header, data: file.subarray(8 + length) };
}
/** Files of its tensors, so many. */
function cut(file: Buffer, parts: number): Buffer<ArrayBuffer>[] {
  const { header, data } = unpack(file);
  const all = Object.entries(header);
  return Array.from({ length: parts }, (_, i) => pack(Object.fromEntries(all.filter((_, j) => j % parts === i)), data));
}
function rename(file: Buffer, from: string, to: string): Buffer<ArrayBuffer> {
  const { header, data } = unpack(file);
  const { [from]: moved, ...rest } = header;
  return pack({ ...rest, [to]: moved! }, data);
}
