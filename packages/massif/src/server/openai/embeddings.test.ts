import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Engine, openEngine } from "../../engine/index.ts";
import type { Model } from "../../model/index.ts";
import { engineBackend } from "../engine.ts";
import { openGateway } from "../gateway/gateway.ts";
import { Keys } from "../keys.ts";
import { type Listening, listen } from "../listen.ts";
import { Service } from "../service.ts";
import { scripted } from "../testing.ts";
import { byteTokenizer, tinyModel } from "../testing-model.ts";

let engine: Engine;
let model: Model;
let service: Service;
let server: Listening;
let client: OpenAI;
beforeAll(async () => {
  model = tinyModel();
  engine = openEngine({ model, tokenizer: byteTokenizer(), cacheBytes: 1 << 20 });
  service = new Service({ running: 2 });
  service.add(await engineBackend(engine, { names: ["k2"], template: "instruct-v2" }));
  const keys = new Keys([{ key: "a-key-of-mine", name: "mine", tokens: 2000 }]);
  server = await listen({ service, keys });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "a-key-of-mine", maxRetries: 0 });
});
afterAll(async () => {
  await server.close();
  engine[Symbol.dispose]();
  model.dispose();
});
const embed = (input: OpenAI.EmbeddingCreateParams["input"], more: object = {}) =>
  client.embeddings.create({ model: "k2", input, ...more });
const close = (a: readonly number[], b: readonly number[]) => {
  expect(a).toHaveLength(b.length);
  for (const [i, x] of a.entries()) expect(x).toBeCloseTo(b[i]!, 5);
};

test("texts, ids and lists of either are vectors of the model; usage counts their tokens", async () => {
  const one = await embed("abc");
  const vector = one.data[0]!.embedding;
  expect(vector).toHaveLength(32);
  expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
  expect(one.usage).toEqual({ prompt_tokens: 3, total_tokens: 3 });
  close(vector, Array.from(engine.embed([97, 98, 99])));
  const many = await embed(["abc", "xyzw", "abc"]);
  expect(many.data.map(({ index }) => index)).toEqual([0, 1, 2]);
  expect(many.usage.total_tokens).toBe(10);
  close(many.data[0]!.embedding, vector);
  close(many.data[2]!.embedding, vector);
  expect(many.data[1]!.embedding).not.toEqual(vector);
  close((await embed([97, 98, 99])).data[0]!.embedding, vector);
  const ids = await embed([[97, 98, 99], [120]]);
  close(ids.data[0]!.embedding, vector);
  expect(service.metrics.value("vllm:prompt_tokens_total", { model_name: "k2", engine: "0" })).toBe(20);
});

test("base64 is the same numbers, and fewer dimensions are the first ones at unit length", async () => {
  const full = (await embed("abc", { encoding_format: "float" })).data[0]!.embedding;
  // The client asks for base64 where nothing is said, and decodes it.
  close((await embed("abc")).data[0]!.embedding, full);
  const cut = (await embed("abc", { dimensions: 8, encoding_format: "float" })).data[0]!.embedding;
  const length = Math.hypot(...full.slice(0, 8));
  close(
    cut,
    full.slice(0, 8).map((x) => x / length),
  );
});

test("what cannot be is a 400 that names its field; a key's tokens are counted", async () => {
  for (const [body, param] of [
    [{ input: "" }, "input"],
    [{ input: [] }, "input"],
    [{ input: ["a", ""] }, "input[1]"],
    [{ input: [999_999] }, "input[0]"],
    [{ input: "x".repeat(1025) }, "input[0]"],
    [{ input: Array(2049).fill("x") }, "input"],
    [{ input: "abc", dimensions: 33 }, "dimensions"],
    [{ input: "abc", encoding_format: "hex" }, "encoding_format"],
    [{ input: "abc", colour: 1 }, "colour"],
  ] as const)
    await expect(embed(body.input as string, body)).rejects.toMatchObject({ status: 400, param });
  await embed(["x".repeat(1000), "x".repeat(1000)]);
  await expect(embed("x")).rejects.toMatchObject({ status: 429, code: "insufficient_quota" });
});

test("a gateway passes on to an upstream that has them, and names the model where it has not", async () => {
  const asked: unknown[] = [];
  const upstream = await import("node:http").then(({ createServer }) =>
    createServer(async (request, response) => {
      asked.push(JSON.parse(Buffer.concat(await Array.fromAsync(request)).toString()));
      const data = [
        { index: 1, embedding: [0, 1] },
        { index: 0, embedding: [1, 0] },
      ];
      response.end(JSON.stringify({ data, usage: { prompt_tokens: 7, total_tokens: 7 } }));
    }),
  );
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(upstream.address() as { port: number }).port}/v1`;
  const over = async (url: string, use: (client: OpenAI) => Promise<void>) => {
    const service = new Service();
    using gateway = await openGateway({ urls: [url], model: "there", names: ["here"], metrics: service.metrics });
    service.add(gateway.backend);
    await using listening = await listen({ service, grace: 100 });
    await use(new OpenAI({ baseURL: `${listening.url}/v1`, apiKey: "x", maxRetries: 0 }));
  };
  await over(url, async (client) => {
    const answer = await client.embeddings.create({ model: "here", input: ["a", "b"], dimensions: 2 });
    expect(answer.data.map(({ embedding }) => [...embedding])).toEqual([
      [1, 0],
      [0, 1],
    ]);
    expect(answer.usage.total_tokens).toBe(7);
    expect(asked).toEqual([{ model: "there", input: ["a", "b"], encoding_format: "float", dimensions: 2 }]);
  });
  upstream.close();
  await using bare = await scripted(() => ({ text: "" }));
  await over(`${bare.url}/nowhere`, async (client) => {
    const wanted = { status: 400, param: "model", code: "unsupported_model" };
    await expect(client.embeddings.create({ model: "here", input: "a" })).rejects.toMatchObject(wanted);
  });
});
