/** The tool loops of others over our own engine and random weights: a model that knows nothing, whose every forced call
 *  nevertheless parses, fits its schema and ends within the limit of tokens. */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { tool as langchainTool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { type Engine, openEngine } from "../engine/index.ts";
import type { Model } from "../model/index.ts";
import { engineBackend } from "./engine.ts";
import { type Listening, listen } from "./listen.ts";
import { Service } from "./service.ts";
import { byteTokenizer, tinyModel } from "./testing-model.ts";

/** What a call must hold; the longest that fits is shorter than the limit. */
const Order = z.strictObject({
  item: z.string().max(6),
  count: z.int().min(1).max(9),
  size: z.enum(["S", "M", "L"]),
  tags: z.array(z.enum(["a", "b"])).max(2),
});
const LIMIT = 120;
const SEEDS = [1, 2, 3];

let engine: Engine;
let model: Model;
let server: Listening;
beforeAll(async () => {
  model = tinyModel(3, 4096);
  engine = openEngine({ model, tokenizer: byteTokenizer(), cacheBytes: 8 << 20, maxRunning: 2, maxWaiting: 8 });
  const service = new Service();
  service.add(await engineBackend(engine, { names: ["instruct"], template: "instruct-v2" }));
  service.add(await engineBackend(engine, { names: ["thinking"], template: "thinking" }));
  server = await listen({ service, grace: 500 });
});
afterAll(async () => {
  await server.close();
  expect(engine.metrics().blocks.held).toBe(0);
  engine[Symbol.dispose]();
  model.dispose();
});

describe.each(["instruct", "thinking"])("random weights, %s", (name) => {
  const orders: z.output<typeof Order>[] = [];
  const execute = (input: unknown) => {
    orders.push(Order.parse(input));
    return "taken";
  };

  test.each(["whole", "streamed"])("Vercel: two forced steps, then an answer without tools, %s", async (how) => {
    const options = {
      model: createOpenAICompatible({ name: "massif", baseURL: `${server.url}/v1` })(name),
      tools: { order: tool({ inputSchema: Order, execute }) },
      prompt: "Order something.",
      maxOutputTokens: LIMIT,
      maxRetries: 0,
      stopWhen: ({ steps }: { steps: unknown[] }) => steps.length >= 3,
      prepareStep: ({ stepNumber }: { stepNumber: number }) => ({
        toolChoice: stepNumber < 2 ? ("required" as const) : ("none" as const),
      }),
    };
    for (const seed of SEEDS) {
      orders.length = 0;
      const result = how === "whole" ? await generateText({ ...options, seed }) : streamText({ ...options, seed });
      const steps = await result.steps;
      expect(steps.map(({ toolCalls }) => toolCalls.length > 0)).toEqual([true, true, false]);
      expect(orders.length).toBe(steps.flatMap(({ toolCalls }) => toolCalls).length);
      expect(steps.flatMap(({ toolCalls }) => toolCalls.map(({ invalid }) => invalid ?? false))).not.toContain(true);
      expect(steps.slice(0, 2).map(({ finishReason }) => finishReason)).toEqual(["tool-calls", "tool-calls"]);
    }
  });

  test("LangChain: bindTools and withStructuredOutput, each answer of the form", async () => {
    const order = langchainTool(async (input) => execute(input), { name: "order", description: "buys", schema: Order });
    for (const seed of SEEDS) {
      const chat = new ChatOpenAI({
        ...{ model: name, apiKey: "x", maxRetries: 0, maxTokens: LIMIT, modelKwargs: { seed } },
        configuration: { baseURL: `${server.url}/v1` },
      });
      const { tool_calls = [], invalid_tool_calls = [] } = await chat
        .bindTools([order], { tool_choice: "order" })
        .invoke("Order something.");
      expect([tool_calls.length > 0, invalid_tool_calls]).toEqual([true, []]);
      for (const call of tool_calls) Order.parse(call.args);
      const form = { method: "jsonSchema", strict: true } as const;
      Order.parse(await chat.withStructuredOutput(Order, form).invoke("An order."));
    }
  });

  test("OpenAI: runTools and parsed answers; Anthropic: a forced tool", async () => {
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "x", maxRetries: 0 });
    const anthropic = new Anthropic({ baseURL: server.url, apiKey: "x", maxRetries: 0 });
    for (const seed of SEEDS) {
      const asked = { model: name, messages: [{ role: "user" as const, content: "An order." }], seed };
      const parsed = await client.chat.completions.parse({
        ...{ ...asked, max_completion_tokens: LIMIT },
        response_format: zodResponseFormat(Order, "order"),
      });
      Order.parse(parsed.choices[0]!.message.parsed);
      orders.length = 0;
      const runner = client.chat.completions.runTools(
        {
          ...{ ...asked, max_tokens: LIMIT, tool_choice: { type: "function", function: { name: "order" } } },
          tools: [
            {
              type: "function",
              function: {
                name: "order",
                description: "buys",
                parameters: z.toJSONSchema(Order) as object,
                parse: JSON.parse,
                function: execute,
              },
            },
          ],
        },
        { maxChatCompletions: 1 },
      );
      await runner.done();
      expect(orders.length).toBeGreaterThan(0);
      const { content, stop_reason } = await anthropic.messages
        .stream({
          ...{ model: name, max_tokens: LIMIT, messages: asked.messages },
          tools: [{ name: "order", input_schema: z.toJSONSchema(Order) as Anthropic.Tool.InputSchema }],
          tool_choice: { type: "tool", name: "order" },
        })
        .finalMessage();
      expect(stop_reason).toBe("tool_use");
      for (const block of content) if (block.type === "tool_use") Order.parse(block.input);
    }
  });

  test("Vercel: an object of the schema", async () => {
    const provider = createOpenAICompatible({
      name: "massif",
      baseURL: `${server.url}/v1`,
      supportsStructuredOutputs: true,
    });
    for (const seed of SEEDS) {
      const { output } = await generateText({
        ...{ model: provider(name), prompt: "An order.", seed, maxOutputTokens: LIMIT, maxRetries: 0 },
        output: Output.object({ schema: Order }),
      });
      Order.parse(output);
    }
  });
});
