import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import { events, type Scripted, scripted, until, weather } from "../testing.ts";

let server: Scripted;
let client: OpenAI;
beforeAll(async () => {
  server = await scripted(
    ({ messages, tools }) => {
      const asked = String(messages.at(-1)?.content);
      if (asked === "slow") return { text: "x".repeat(4000), pause: 5 };
      if (asked === "fail") return { text: "half", error: new Error("boom") };
      if (asked === "cut") return { text: "half", finish: "length" };
      if (tools) return { reasoning: "I ask.", calls: [{ name: "get_weather", arguments: { city: "Ulm" } }] };
      return { reasoning: "Hm.", text: `answer ${messages.filter(({ role }) => role === "user").length}` };
    },
    { cut: 3 },
  );
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
});
afterAll(() => server.close());

const tools = [{ type: "function" as const, ...weather.function, strict: true }];

test("a response, kept, gone on from, listed, deleted", async () => {
  const first = await client.responses.create({ model: "m", input: "one", instructions: "Be brief." });
  expect(first).toMatchObject({ object: "response", status: "completed", output_text: "answer 1", error: null });
  expect(first.output.map(({ type }) => type)).toEqual(["reasoning", "message"]);
  const second = await client.responses.create({ model: "m", input: "two", previous_response_id: first.id });
  expect(second.output_text).toBe("answer 2");
  // Instructions are not inherited; reasoning and text are one message again.
  expect(server.model.requests.at(-1)!.messages).toEqual([
    { role: "user", content: "one" },
    { role: "assistant", content: "answer 1", reasoning_content: "Hm." },
    { role: "user", content: "two" },
  ]);
  expect(await client.responses.retrieve(second.id)).toMatchObject({ id: second.id, status: "completed" });
  const items = await client.responses.inputItems.list(second.id);
  expect(items.data).toMatchObject([{ type: "message", role: "user", content: "two" }]);
  const input = ["a", "b", "c"].map((content) => ({ role: "user" as const, content }));
  const third = await client.responses.create({ model: "m", input });
  const pages = await Array.fromAsync(client.responses.inputItems.list(third.id, { limit: 2 }));
  expect(pages).toMatchObject([{ content: "c" }, { content: "b" }, { content: "a" }]);
  await client.responses.delete(second.id);
  await expect(client.responses.retrieve(second.id)).rejects.toMatchObject({ status: 404 });
  const forgotten = await client.responses.create({ model: "m", input: "x", store: false });
  await expect(client.responses.retrieve(forgotten.id)).rejects.toMatchObject({ status: 404 });
});

test("the stream's events in their order, numbered", async () => {
  const response = await server.post("/v1/responses", { model: "m", input: "one", stream: true });
  const told = await events(response);
  expect(told.map(({ sequence_number }) => sequence_number)).toEqual(told.map((_, i) => i));
  const names = told.map(({ type }) => String(type).slice(9)).filter((type, i, all) => type !== all[i - 1]);
  const item = (kind: string) => [
    ...["output_item.added", "content_part.added", `${kind}.delta`, `${kind}.done`],
    ...["content_part.done", "output_item.done"],
  ];
  expect(names).toEqual(["created", "in_progress", ...item("reasoning_text"), ...item("output_text"), "completed"]);
});

test("calls, their results, and the client's stream helper", async () => {
  const stream = client.responses.stream({ model: "m", input: "weather?", tools });
  const { output, id } = await stream.finalResponse();
  const call = output.find((item) => item.type === "function_call")!;
  expect(call).toMatchObject({ name: "get_weather", arguments: '{"city":"Ulm"}', call_id: "functions.get_weather:0" });
  const result = { type: "function_call_output" as const, call_id: call.call_id, output: "rain" };
  const answer = await client.responses.create({ model: "m", input: [result], previous_response_id: id });
  expect(answer.status).toBe("completed");
  expect(server.model.requests.at(-1)!.messages.slice(1)).toMatchObject([
    {
      role: "assistant",
      content: "",
      reasoning_content: "I ask.",
      tool_calls: [{ function: { name: "get_weather" } }],
    },
    { role: "tool", tool_call_id: "functions.get_weather:0", content: "rain" },
  ]);
});

test("in the background: asked for by its id, and cancelled", async () => {
  const begun = await client.responses.create({ model: "m", input: "one", background: true });
  expect(["queued", "in_progress"]).toContain(begun.status);
  await until(() => server.service.slots.held === 0);
  expect(await client.responses.retrieve(begun.id)).toMatchObject({ status: "completed" });
  const slow = await client.responses.create({ model: "m", input: "slow", background: true });
  await expect(
    client.responses.create({ model: "m", input: "x", previous_response_id: slow.id }),
  ).rejects.toMatchObject({
    status: 409,
  });
  await client.responses.cancel(slow.id);
  await until(() => server.service.slots.held === 0);
  expect(await client.responses.retrieve(slow.id)).toMatchObject({ status: "cancelled" });
});

test("cut short, and failed", async () => {
  expect(await client.responses.create({ model: "m", input: "cut" })).toMatchObject({
    ...{ status: "incomplete", incomplete_details: { reason: "max_output_tokens" } },
  });
  await expect(client.responses.create({ model: "m", input: "fail" })).rejects.toMatchObject({ status: 500 });
  const told = await events(await server.post("/v1/responses", { model: "m", input: "fail", stream: true }));
  expect(told.at(-1)).toMatchObject({ type: "response.failed", response: { status: "failed" } });
});

test.each<[string, object, string]>([
  ["conversation", { conversation: "c" }, "conversation"],
  ["a tool of theirs", { tools: [{ type: "web_search" }] }, "tools[0].type"],
  ["a previous one that is none", { previous_response_id: "resp_x" }, "previous_response_id"],
  ["truncation", { truncation: "auto" }, "truncation"],
  ["background and stream", { background: true, stream: true }, "background"],
  ["an item", { input: [{ type: "item_reference", id: "x" }] }, "input"],
])("refused by name: %s", async (_, body, field) => {
  const response = await server.post("/v1/responses", { model: "m", input: "x", ...body });
  expect([400, 404]).toContain(response.status);
  expect(((await response.json()) as { error: { param: string } }).error.param).toContain(field);
});
