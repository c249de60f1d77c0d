import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import Anthropic from "@anthropic-ai/sdk";
import { expect, test } from "vitest";
import { listen } from "../listen.ts";
import { Service } from "../service.ts";
import { post, weather } from "../testing.ts";
import { openGateway } from "./gateway.ts";

/** An upstream as engines are: another name for reasoning, no usage, foreign ids, a reason that does not fit. */
async function oddEngine(answer: (response: ServerResponse, body: Record<string, unknown>) => void) {
  const server = createServer((request, response) => {
    if (request.url === "/v1/models") return response.end(JSON.stringify({ data: [{ id: "odd" }] }));
    let text = "";
    request.on("data", (piece) => (text += piece));
    request.on("end", () => answer(response, JSON.parse(text)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}
const chunk = (delta: object, finish_reason: string | null = null) =>
  `data: ${JSON.stringify({ id: "x", choices: [{ index: 0, delta, finish_reason }] })}\n\n`;

test("OpenAI upstream, Anthropic client: translated while streaming, and normalised", async () => {
  await using engine = await oddEngine((response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(chunk({ role: "assistant", reasoning: "thinking" }));
    response.write(chunk({ content: "Hello" }));
    response.write(
      chunk({ tool_calls: [{ index: 0, id: "call_abc", function: { name: "get_weather", arguments: '{"ci' } }] }),
    );
    response.write(chunk({ tool_calls: [{ index: 0, function: { arguments: 'ty":"Ulm"}' } }] }));
    response.end(`${chunk({}, "stop")}data: [DONE]\n\n`);
  });
  const service = new Service();
  using gateway = await openGateway({ urls: [engine.url], metrics: service.metrics });
  service.add(gateway.backend);
  await using server = await listen({ service, grace: 100 });
  const client = new Anthropic({ baseURL: server.url, apiKey: "x", maxRetries: 0 });
  const message = await client.messages
    .stream({
      model: "odd",
      max_tokens: 99,
      messages: [{ role: "user", content: "hi" }],
      tools: [{ name: "get_weather", input_schema: { type: "object" } }],
    })
    .finalMessage();
  expect(message.content).toMatchObject([
    { type: "thinking", thinking: "thinking" },
    { type: "text", text: "Hello" },
    { type: "tool_use", id: "call_abc", name: "get_weather", input: { city: "Ulm" } },
  ]);
  expect(message.stop_reason).toBe("tool_use");
  expect(message.usage.output_tokens).toBeGreaterThan(0);
  expect(service.metrics.value("massif:tool_calls_total", { model_name: "odd", outcome: "valid" })).toBe(1);
});

test("an upstream's errors become the client's, without its secrets", async () => {
  await using engine = await oddEngine((response, { messages }) => {
    const asked = (messages as { content: string }[])[0]!.content;
    const status = Number(asked);
    response.writeHead(status, { "content-type": "application/json", "retry-after": "7" });
    response.end(JSON.stringify({ object: "error", message: "flat, as SGLang tells it", code: status }));
  });
  const service = new Service();
  using gateway = await openGateway({
    urls: [engine.url],
    apiKey: "sk-upstream",
    metrics: service.metrics,
    http: { retries: { most: 0 } },
  });
  service.add(gateway.backend);
  await using server = await listen({ service, grace: 100 });
  for (const [status, told] of [
    [400, 400],
    [401, 502],
    [429, 429],
    [500, 502],
  ] as const) {
    const messages = [{ role: "user", content: `${status}` }];
    const response = await post(`${server.url}/v1/chat/completions`, { model: "odd", messages });
    expect([status, response.status]).toEqual([status, told]);
    if (told === 429) expect(response.headers.get("retry-after")).toBe("7");
    expect(await response.text()).not.toContain("sk-upstream");
  }
});

test("bare completions upstream: K2's format is made and read here", async () => {
  const prompts: string[] = [];
  await using engine = await oddEngine((response, { prompt }) => {
    prompts.push(String(prompt));
    response.writeHead(200, { "content-type": "text/event-stream" });
    const text =
      'Hm.</think>I ask.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city":"Ulm"}<|tool_call_end|><|tool_calls_section_end|>';
    for (const piece of `<think>${text}`.match(/.{1,7}/gs)!)
      response.write(`data: ${JSON.stringify({ id: "x", choices: [{ index: 0, text: piece }] })}\n\n`);
    response.end(
      `data: ${JSON.stringify({ id: "x", choices: [{ index: 0, text: "", finish_reason: "stop" }] })}\n\ndata: [DONE]\n\n`,
    );
  });
  const service = new Service();
  using gateway = await openGateway({
    urls: [engine.url],
    raw: { format: { template: "thinking" } },
    metrics: service.metrics,
  });
  service.add(gateway.backend);
  await using server = await listen({ service, grace: 100 });
  const response = await post(`${server.url}/v1/chat/completions`, {
    model: "odd",
    messages: [{ role: "user", content: "hi" }],
    tools: [weather],
  });
  const { choices } = (await response.json()) as { choices: { message: object; finish_reason: string }[] };
  expect(choices[0]).toMatchObject({
    finish_reason: "tool_calls",
    message: { content: "I ask.", reasoning_content: "Hm.", tool_calls: [{ id: "functions.get_weather:0" }] },
  });
  expect(prompts[0]).toMatch(
    /^<\|im_system\|>tool_declare<\|im_middle\|>.*<\|im_assistant\|>assistant<\|im_middle\|>$/s,
  );
});
