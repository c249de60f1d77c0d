import { expect, test } from "vitest";
import { type ChatRequest, ScriptedModel } from "../../llm/index.ts";
import { weather } from "../testing.ts";
import { VerifiedModel } from "./verified.ts";

const ask: ChatRequest = { messages: [{ role: "user", content: "hi" }] };
const tools = [
  {
    ...weather,
    function: { ...weather.function, parameters: { ...weather.function.parameters, additionalProperties: false } },
  },
];

test("wrong arguments are asked for once more, constrained; right ones stream through", async () => {
  const outcomes: string[] = [];
  const script = new ScriptedModel(({ toolChoice }, i) => {
    if (typeof toolChoice === "object")
      return {
        calls: [{ name: toolChoice.name, arguments: { city: "Ulm" } }],
        usage: { promptTokens: 5, completionTokens: 3 },
      };
    const wrong = [
      { name: "get_weather", arguments: '{"city":' },
      { name: "get_weather", arguments: { city: 3 } },
    ][i % 2]!;
    return {
      text: "I ask.",
      calls: [wrong, { name: "get_weather", arguments: { city: "Köln" } }],
      usage: { promptTokens: 5, completionTokens: 9 },
    };
  });
  const model = new VerifiedModel(script, { mode: "repair", onCall: (outcome) => outcomes.push(outcome) });
  const events = await Array.fromAsync(model.stream({ ...ask, tools }));
  const args = events.flatMap((event) => (event.type === "tool-call-delta" ? event.arguments : []));
  expect(args).toEqual(['{"city":"Ulm"}', '{"city":"Köln"}']);
  expect(outcomes).toEqual(["repaired", "valid"]);
  expect(events.slice(-2)).toEqual([
    { type: "usage", usage: { promptTokens: 10, completionTokens: 12 } },
    { type: "finish", reason: "tool_calls" },
  ]);
  expect(script.requests[1]).toMatchObject({ toolChoice: { name: "get_weather" }, parallelToolCalls: false });
});

test("what cannot be mended stands as it was written, and says so; what was cut short is not asked for again", async () => {
  const outcomes: string[] = [];
  const onCall = (outcome: string) => outcomes.push(outcome);
  const calls = [{ name: "get_weather", arguments: '{"town":1}' }];
  const events = await Array.fromAsync(
    new VerifiedModel(new ScriptedModel(() => ({ calls })), { mode: "repair", onCall }).stream({ ...ask, tools }),
  );
  expect(events).toContainEqual({ type: "problem", code: "arguments-invalid", text: "" });
  expect(events).toContainEqual({ type: "tool-call-delta", index: 0, arguments: '{"town":1}' });
  const script = new ScriptedModel(() => ({ calls, finish: "length" }));
  await Array.fromAsync(new VerifiedModel(script, { mode: "repair", onCall }).stream({ ...ask, tools }));
  expect(script.requests).toHaveLength(1);
  expect(outcomes).toEqual(["invalid", "invalid"]);
});
