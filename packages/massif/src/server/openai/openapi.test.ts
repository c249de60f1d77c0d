import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readText } from "../../common/index.ts";
import { events, type Scripted, scripted, weather } from "../testing.ts";
import { byteTokenizer } from "../testing-model.ts";

/** The document is OpenAPI 3.1, but some of its schemas still say `nullable` as 3.0 did. */
function modern(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(modern);
  if (typeof value !== "object" || value === null) return value;
  const { nullable, ...rest } = Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, modern(inner)]));
  return nullable === true ? { anyOf: [rest, { type: "null" }] } : rest;
}

// Every answer and every chunk against OpenAI's own specification.
const file = resolve(import.meta.dirname, "../../../../../../shared/data/serving/openai_openapi.json.xz");

describe.skipIf(!existsSync(file))("OpenAI's specification", () => {
  let ajv: Ajv2020;
  let server: Scripted;
  let state: string;
  beforeAll(async () => {
    const spec = JSON.parse(await readText(file)) as Record<string, unknown>;
    ajv = new Ajv2020({ strict: false, validateFormats: false, logger: false, discriminator: false });
    ajv.addSchema({ $id: "openai", ...(modern(spec) as object) });
    const usage = { promptTokens: 20, completionTokens: 9, cachedTokens: 16, reasoningTokens: 4 };
    const tokens = [{ id: 5, text: "Hi", bytes: [72, 105], logprob: -0.5, top: [{ text: "Hi", logprob: -0.5 }] }];
    server = await scripted(
      ({ tools }) =>
        tools
          ? { reasoning: "r", text: "t", calls: [{ name: "get_weather", arguments: { city: "Ulm" } }], usage }
          : { reasoning: "r", text: "Hi", usage },
      {
        state: (state = mkdtempSync(join(tmpdir(), "massif-state-"))),
        backend: {
          embed: async (inputs) => ({ vectors: inputs.map(() => Float32Array.of(0.6, 0.8)), tokens: 3 }),
          // Bare continuations of a backend of its own: the script knows conversations only.
          async *raw() {
            yield { type: "tokens", tokens };
            yield { type: "text", text: "Hi" };
            yield { type: "usage", usage };
            yield { type: "finish", reason: "stop" };
          },
          format: {
            template: "instruct-v2",
            tokenizer: byteTokenizer(),
          },
        },
      },
    );
  });
  afterAll(async () => {
    await server.close();
    rmSync(state, { recursive: true });
  });

  function fits(schema: string, values: unknown[]): void {
    const validate = ajv.getSchema(`openai#/components/schemas/${schema}`)!;
    expect(values.length).toBeGreaterThan(0);
    for (const value of values)
      expect(validate(value), `${JSON.stringify(value)}\n${ajv.errorsText(validate.errors)}`).toBe(true);
  }
  const ask = { model: "m", messages: [{ role: "user", content: "hi" }] };
  const json = async (path: string, body: object) => (await server.post(path, body)).json();
  const stream = async (path: string, body: object) => events(await server.post(path, { ...body, stream: true }));

  test("the specification refuses what is wrong", () => {
    const validate = ajv.getSchema("openai#/components/schemas/CreateChatCompletionResponse")!;
    expect(validate({ id: "x", object: "chat.completion", choices: [] })).toBe(false);
  });
  test("chat completions, with and without tools", async () => {
    for (const body of [ask, { ...ask, tools: [weather], n: 2, logprobs: true }]) {
      fits("CreateChatCompletionResponse", [await json("/v1/chat/completions", body)]);
      fits(
        "CreateChatCompletionStreamResponse",
        await stream("/v1/chat/completions", { ...body, stream_options: { include_usage: true } }),
      );
    }
  });
  test("completions", async () => {
    const body = { model: "m", prompt: "hi", logprobs: 1 };
    fits("CreateCompletionResponse", [await json("/v1/completions", body)]);
    // Their schema is that of a whole answer; in a stream they, too, send null until the end.
    const ended = ({ choices, ...chunk }: Record<string, unknown>) => ({
      ...chunk,
      choices: (choices as { finish_reason: string | null }[]).map((c) => ({
        ...c,
        finish_reason: c.finish_reason ?? "stop",
      })),
    });
    fits("CreateCompletionResponse", (await stream("/v1/completions", body)).map(ended));
  });
  test("responses and their events", async () => {
    const tool = { type: "function", ...weather.function, strict: true };
    for (const body of [
      { model: "m", input: "hi" },
      { model: "m", input: "hi", tools: [tool] },
    ]) {
      fits("Response", [await json("/v1/responses", body)]);
      fits("ResponseStreamEvent", await stream("/v1/responses", body));
    }
  });
  test("embeddings", async () => {
    for (const input of ["a", ["a", "b"], [1, 2]])
      fits("CreateEmbeddingResponse", [await json("/v1/embeddings", { model: "m", input })]);
  });
  const get = async (path: string) => (await fetch(server.url + path)).json();
  const remove = async (path: string) => (await fetch(server.url + path, { method: "DELETE" })).json();
  test("files and batches", async () => {
    const form = new FormData();
    const line = { custom_id: "a", method: "POST", url: "/v1/chat/completions", body: ask };
    form.set("file", new Blob([`${JSON.stringify(line)}\n`]), "in.jsonl");
    form.set("purpose", "batch");
    const file = (await (await fetch(`${server.url}/v1/files`, { method: "POST", body: form })).json()) as {
      id: string;
    };
    fits("OpenAIFile", [file]);
    const wanted = { input_file_id: file.id, endpoint: line.url, completion_window: "24h" };
    const batch = (await json("/v1/batches", wanted)) as { id: string };
    let now = batch as { id: string; status: string };
    while (now.status !== "completed") now = (await get(`/v1/batches/${batch.id}`)) as typeof now;
    fits("Batch", [batch, now]);
    fits("ListBatchesResponse", [await get("/v1/batches")]);
    fits("ListFilesResponse", [await get("/v1/files?purpose=batch")]);
    fits("DeleteFileResponse", [await remove(`/v1/files/${file.id}`)]);
  });
  test("stored completions", async () => {
    const stored = (await json("/v1/chat/completions", { ...ask, store: true, tools: [weather] })) as { id: string };
    const path = `/v1/chat/completions/${stored.id}`;
    fits("CreateChatCompletionResponse", [await get(path), await json(path, { metadata: { a: "b" } })]);
    fits("ChatCompletionList", [await get("/v1/chat/completions?metadata[a]=b")]);
    const messages = (await get(`${path}/messages`)) as { data: object[] };
    // Their schema knows the assistant's messages only, though what is listed is what was asked.
    const answers = messages.data.map((message) => ({ ...message, role: "assistant" }));
    fits("ChatCompletionMessageList", [{ ...messages, data: answers }]);
    fits("ChatCompletionDeleted", [await remove(path)]);
  });
  test("compaction", async () => {
    fits("CompactResource", [await json("/v1/responses/compact", { model: "m", input: "hello" })]);
  });
  test("models and errors", async () => {
    fits("ListModelsResponse", [await (await fetch(`${server.url}/v1/models`)).json()]);
    fits("ErrorResponse", [
      await json("/v1/chat/completions", { ...ask, n: 0 }),
      await json("/v1/chat/completions", { ...ask, model: "x" }),
    ]);
  });
});
