/** The tool loops of others over our server. The model is a script that writes K2's own format, cut into pieces of three
 *  characters: it thinks, asks two cities at once, reads what came back, asks for a third, and answers. */
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import { ChatAnthropic } from "@langchain/anthropic";
import { type AIMessage, type BaseMessage, HumanMessage, type ToolMessage } from "@langchain/core/messages";
import { tool as langchainTool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, isStepCount, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import type { RunnableToolFunctionWithParse } from "openai/lib/RunnableFunction";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { z } from "zod";
import type { ChatRequest, Turn } from "../llm/index.ts";
import { type Scripted, scripted } from "./testing.ts";

const call = (city: string, index: number) =>
  `<|tool_call_begin|>functions.get_weather:${index}<|tool_call_argument_begin|>{"city": "${city}"}<|tool_call_end|>`;
const section = (...calls: string[]) => `<|tool_calls_section_begin|>${calls.join("")}<|tool_calls_section_end|>`;

function script({ messages, responseFormat, tools }: ChatRequest): Turn {
  // How Vercel's Anthropic provider asks for an object of a model whose name it does not know.
  if (tools?.[0]?.function?.name === "json")
    return { calls: [{ name: "json", arguments: { city: "Ulm", celsius: 7 } }] };
  if (responseFormat?.type === "json_schema") return { text: '{"city":"Ulm","celsius":7}' };
  const results = messages.filter(({ role }) => role === "tool").map(({ content }) => String(content));
  if (!results.length)
    return { tokens: `<think>Two cities.</think>I look.${section(call("Köln", 0), call("北京", 1))}` };
  // A call that begins within thinking ends it.
  if (results.length === 2) return { tokens: `<think>One more.${section(call("Ulm", 2))}` };
  return { tokens: `<think>Enough.</think>${results.join(", ")}.` };
}
const answer = "rain in Köln, rain in 北京, rain in Ulm.";
const asked: string[] = [];
const execute = async ({ city }: { city: string }) => {
  asked.push(city);
  return `rain in ${city}`;
};
const City = z.object({ city: z.string() });
const properties = { city: { type: "string" as const } };
const cityJson = { type: "object" as const, properties, required: ["city"] };
const description = "weather of a city";
const Report = z.object({ city: z.string(), celsius: z.number() });

Object.assign(globalThis, { AI_SDK_LOG_WARNINGS: false });
let server: Scripted;
beforeAll(async () => {
  server = await scripted(script, { cut: 3 });
});
afterAll(() => server.close());
beforeEach(() => {
  asked.length = 0;
});

/** What every loop must have led to: three requests, the cities in order, each result under its call's id. */
function expectLoop(text: string, reasoningComesBack: boolean): void {
  expect(text).toBe(answer);
  expect(asked).toEqual(["Köln", "北京", "Ulm"]);
  const last = server.model.requests.at(-1)!.messages;
  const calls = last.flatMap((message) => (message.role === "assistant" ? (message.tool_calls ?? []) : []));
  const results = last.flatMap((message) => (message.role === "tool" ? [message.tool_call_id] : []));
  expect(calls.map(({ id }) => id)).toEqual(results);
  expect(new Set(results).size).toBe(3);
  const reasoning = last.flatMap((m) => (m.role === "assistant" ? (m.reasoning_content ?? "") : []));
  if (reasoningComesBack) expect(reasoning).toEqual(["Two cities.", "One more."]);
}

test("OpenAI: runTools, whole and streamed", async () => {
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "x", maxRetries: 0 });
  const tools: RunnableToolFunctionWithParse<{ city: string }>[] = [
    {
      type: "function",
      function: {
        name: "get_weather",
        description,
        parameters: cityJson,
        parse: (text: string) => City.parse(JSON.parse(text)),
        function: execute,
      },
    },
  ];
  const body = { model: "m", messages: [{ role: "user" as const, content: "weather?" }], tools };
  expectLoop((await client.chat.completions.runTools(body).finalContent())!, false);
  asked.length = 0;
  expectLoop((await client.chat.completions.runTools({ ...body, stream: true }).finalContent())!, false);
});

test("OpenAI: Responses, by previous_response_id; reasoning stays in the chain", async () => {
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "x", maxRetries: 0 });
  const tools = [{ type: "function" as const, name: "get_weather", parameters: cityJson, strict: true, description }];
  let response = await client.responses.create({ model: "m", input: "weather?", tools });
  for (let turn = 0; turn < 5; turn++) {
    const calls = response.output.filter((item) => item.type === "function_call");
    if (!calls.length) break;
    const input: OpenAI.Responses.ResponseInputItem[] = [];
    for (const { call_id, arguments: args } of calls)
      input.push({ type: "function_call_output", call_id, output: await execute(JSON.parse(args)) });
    const next = client.responses.stream({ model: "m", input, tools, previous_response_id: response.id });
    response = await next.finalResponse();
  }
  expectLoop(response.output_text, true);
});

test("Responses: an item that the server has made may be sent by its id; no other", async () => {
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "x", maxRetries: 0 });
  const first = await client.responses.create({ model: "m", input: "weather?" });
  const input = (id: string): OpenAI.Responses.ResponseInputItem[] => [
    { role: "user", content: "weather?" },
    { type: "item_reference", id },
    { role: "user", content: "and?" },
  ];
  const said = first.output.find(({ type }) => type === "message")!;
  await client.responses.create({ model: "m", input: input(said.id!) });
  expect(server.model.requests.at(-1)!.messages).toMatchObject([{}, { role: "assistant", content: "I look." }, {}]);
  await expect(client.responses.create({ model: "m", input: input("msg_other") })).rejects.toMatchObject({
    ...{ status: 404, param: "input[1].id" },
  });
});

test("Anthropic: the tool runner, whole and streamed; thinking comes back", async () => {
  const client = new Anthropic({ baseURL: server.url, apiKey: "x", maxRetries: 0 });
  const get_weather = betaTool({
    name: "get_weather",
    description,
    inputSchema: cityJson,
    run: (input) => execute(City.parse(input)),
  });
  const body = {
    model: "m",
    max_tokens: 500,
    messages: [{ role: "user" as const, content: "weather?" }],
    tools: [get_weather],
  };
  const said = ({ content }: Anthropic.Beta.BetaMessage) =>
    content.map((block) => (block.type === "text" ? block.text : "")).join("");
  expectLoop(said(await client.beta.messages.toolRunner(body).runUntilDone()), true);
  asked.length = 0;
  expectLoop(said(await client.beta.messages.toolRunner({ ...body, stream: true }).runUntilDone()), true);
});

const providers = {
  "openai-compatible": () =>
    createOpenAICompatible({ name: "massif", baseURL: `${server.url}/v1`, supportsStructuredOutputs: true })("m"),
  "openai chat": () => createOpenAI({ baseURL: `${server.url}/v1`, apiKey: "x" }).chat("m"),
  "openai responses": () => createOpenAI({ baseURL: `${server.url}/v1`, apiKey: "x" }).responses("m"),
  anthropic: () => createAnthropic({ baseURL: `${server.url}/v1`, apiKey: "x" })("m"),
};

test.each(Object.keys(providers) as (keyof typeof providers)[])(
  "Vercel's AI SDK over %s: generateText and streamText with tools, and an object",
  async (name) => {
    const model = providers[name]();
    const tools = { get_weather: tool({ description, inputSchema: City, execute }) };
    const loop = { model, prompt: "weather?", tools, stopWhen: isStepCount(5), maxRetries: 0 };
    const whole = await generateText(loop);
    // OpenAI's own chat provider drops reasoning (vercel/ai#11682); the others bring it back.
    const keeps = name !== "openai chat";
    expectLoop(whole.text, keeps);
    expect(whole.steps.map(({ finishReason }) => finishReason)).toEqual(["tool-calls", "tool-calls", "stop"]);
    // Of Responses it shows summaries only; the reasoning itself stays with us, and in the chain.
    if (keeps && name !== "openai responses") expect(whole.reasoningText).toBe("Enough.");
    asked.length = 0;
    const streamed = streamText(loop);
    let text = "";
    for await (const delta of streamed.textStream) text += delta;
    expect(text).toBe(`I look.${answer}`);
    expectLoop(await streamed.text, keeps);
    const { output } = await generateText({
      model,
      prompt: "Ulm?",
      output: Output.object({ schema: Report }),
      maxRetries: 0,
    });
    expect(output).toEqual({ city: "Ulm", celsius: 7 });
  },
);

const langchain = {
  openai: () =>
    new ChatOpenAI({ model: "m", apiKey: "x", maxRetries: 0, configuration: { baseURL: `${server.url}/v1` } }),
  "openai responses": () =>
    new ChatOpenAI({
      ...{ model: "m", apiKey: "x", maxRetries: 0, useResponsesApi: true },
      configuration: { baseURL: `${server.url}/v1` },
    }),
  anthropic: () =>
    new ChatAnthropic({ model: "m", apiKey: "x", maxRetries: 0, maxTokens: 500, anthropicApiUrl: server.url }),
};

test.each(Object.keys(langchain) as (keyof typeof langchain)[])(
  "LangChain over %s: bindTools, streaming, withStructuredOutput",
  async (name) => {
    const get_weather = langchainTool(execute, { name: "get_weather", description, schema: City });
    const model = langchain[name]().bindTools([get_weather]);
    const loop = async (ask: (messages: BaseMessage[]) => Promise<AIMessage>) => {
      const messages: BaseMessage[] = [new HumanMessage("weather?")];
      for (let turn = 0; turn < 5; turn++) {
        const said = await ask(messages);
        messages.push(said);
        if (!said.tool_calls?.length) return said;
        for (const call of said.tool_calls) messages.push((await get_weather.invoke(call)) as ToolMessage);
      }
      throw new Error("it never ended");
    };
    const whole = await loop((messages) => model.invoke(messages) as Promise<AIMessage>);
    expectLoop(whole.text, false);
    expect(whole.usage_metadata!.total_tokens).toBeGreaterThan(0);
    asked.length = 0;
    const streamed = await loop(async (messages) => {
      const [first, ...chunks] = await Array.fromAsync(await model.stream(messages));
      return chunks.reduce((sum, chunk) => sum.concat(chunk), first!) as unknown as AIMessage;
    });
    expectLoop(streamed.text, false);
    if (name !== "anthropic") {
      const structured = langchain[name]().withStructuredOutput(Report, { method: "jsonSchema", strict: true });
      expect(await structured.invoke("Ulm?")).toEqual({ city: "Ulm", celsius: 7 });
    }
  },
);
