import { expect, test } from "vitest";
import { type ChatRequest, type ModelEvent, mergeModelEvents, type Script, ScriptedModel } from "../../llm/index.ts";
import { weather } from "../testing.ts";
import { VerifiedModel } from "./verified.ts";
import { tightened } from "./written-call.ts";

const clock = { type: "function" as const, function: { name: "get_time", parameters: { type: "object" } } };
const request: ChatRequest = {
  messages: [{ role: "user", content: "Weather?" }],
  tools: [weather],
  toolChoice: { name: "get_weather" },
  sampling: { temperature: 0, stop: ["}"], maxTokens: 50 },
};
const usage = { promptTokens: 10, completionTokens: 5 };
/** An engine that hears response formats, and no choice of tools. */
const deaf =
  (written: (name: string) => string): Script =>
  ({ responseFormat }) =>
    responseFormat?.type === "json_schema"
      ? { text: written(responseFormat.name), usage }
      : { text: "Sunny, I think.", usage };

const ask = async (script: Script, more: Partial<ChatRequest> = {}) => {
  const outcomes: string[] = [];
  const upstream = new ScriptedModel(script);
  const model = new VerifiedModel(upstream, { mode: "repair", onCall: (outcome) => outcomes.push(outcome) });
  const events = await Array.fromAsync<ModelEvent>(model.stream({ ...request, ...more }));
  return { model, upstream, outcomes, events: mergeModelEvents(events).filter(({ type }) => type !== "start") };
};
const called = (name: string, args: string, index = 0): ModelEvent[] => [
  { type: "tool-call-begin", index: 0, id: `functions.${name}:${index}`, name },
  { type: "tool-call-delta", index: 0, arguments: args },
  { type: "tool-call-end", index: 0 },
];

test("a forced call that did not come is asked for as JSON; the next one at once", async () => {
  const { model, upstream, outcomes, events } = await ask(deaf(() => '{"city":"Ulm"}'));
  expect(events).toEqual([
    ...called("get_weather", '{"city":"Ulm"}'),
    { type: "usage", usage: { promptTokens: 20, completionTokens: 10 } },
    { type: "finish", reason: "tool_calls" },
  ]);
  const { responseFormat, tools, toolChoice, sampling, messages } = upstream.requests[1]!;
  expect([tools, toolChoice, sampling]).toEqual([undefined, undefined, { temperature: 0, stop: [], maxTokens: 50 }]);
  expect(responseFormat).toMatchObject({ name: "get_weather", schema: weather.function.parameters, strict: true });
  // One user's turn, as templates want it.
  expect(messages).toMatchObject([{ role: "user", content: expect.stringMatching(/^Weather\?\n\nCall the tool/) }]);
  await Array.fromAsync(model.stream(request));
  expect(upstream.requests.map(({ toolChoice }) => toolChoice !== undefined)).toEqual([true, false, false]);
  expect(outcomes).toEqual(["repaired", "repaired"]);
});

test("of several tools the model chooses one first; ids count on", async () => {
  const { upstream, events } = await ask(
    deaf((name) => (name === "choose_tool" ? '{"name":"get_time"}' : "{}")),
    {
      ...{ tools: [weather, clock], toolChoice: "required" },
      messages: [
        ...request.messages,
        {
          role: "assistant",
          content: null,
          tool_calls: [{ id: "x", type: "function", function: clock.function as never }],
        },
        { role: "tool", tool_call_id: "x", content: "12:00" },
      ],
    },
  );
  expect(events.slice(0, 3)).toEqual(called("get_time", "{}", 1));
  expect(events.at(-2)).toEqual({ type: "usage", usage: { promptTokens: 30, completionTokens: 15 } });
  expect(upstream.requests[1]!.responseFormat).toMatchObject({
    schema: { properties: { name: { enum: ["get_weather", "get_time"] } } },
  });
});

test("what no asking brings stands as it came; text beside a call that came is kept", async () => {
  const { events, outcomes } = await ask(deaf(() => "no JSON"));
  expect(events).toMatchObject([
    { type: "text", text: "Sunny, I think." },
    { type: "usage" },
    { type: "finish", reason: "stop" },
  ]);
  expect(outcomes).toEqual(["invalid"]);
  const spoken = await ask(() => ({ text: "I ask.", calls: [{ name: "get_weather", arguments: { city: "Ulm" } }] }));
  expect(spoken.events[0]).toEqual({ type: "text", text: "I ask." });
  expect(spoken.outcomes).toEqual(["valid"]);
});

test("one that the limit cuts is asked for again, shorter, and told as cut where that is too long too", async () => {
  const bounded: unknown[] = [];
  const endless = await ask(({ responseFormat }) => {
    if (responseFormat?.type !== "json_schema") return { text: "Well.", usage };
    bounded.push(responseFormat.schema);
    return { text: '{"city":"aaaa', finish: "length", usage };
  });
  expect(bounded).toEqual([
    weather.function.parameters,
    { ...weather.function.parameters, properties: { city: { type: "string", maxLength: 64 } } },
  ]);
  expect(endless.events.at(-1)).toEqual({ type: "finish", reason: "length" });
  expect(endless.events).toContainEqual({ type: "tool-call-delta", index: 0, arguments: '{"city":"aaaa' });
  expect(endless.outcomes).toEqual(["invalid"]);
});

test("a tightened schema bounds what is unbounded, and nothing that has a meaning", () => {
  const node = { type: "object", properties: { children: { type: "array", items: { $ref: "#/$defs/node" } } } };
  expect(
    tightened({
      type: "object",
      properties: {
        type: { type: "string", minLength: 100, maxLength: 200 },
        unit: { type: "string", enum: ["celsius"] },
        day: { type: "string", pattern: "^[A-Z]+$" },
        tags: { type: "array", items: { type: "string" }, minItems: 6 },
        maybe: { anyOf: [{ type: "string" }, { type: "null" }] },
      },
      required: ["type"],
      additionalProperties: false,
      $defs: { node },
    }),
  ).toEqual({
    type: "object",
    properties: {
      type: { type: "string", minLength: 100, maxLength: 100 },
      unit: { type: "string", enum: ["celsius"] },
      day: { type: "string", pattern: "^[A-Z]+$" },
      tags: { type: "array", items: { type: "string", maxLength: 64 }, minItems: 6, maxItems: 6 },
      maybe: { anyOf: [{ type: "string", maxLength: 64 }, { type: "null" }] },
    },
    required: ["type"],
    additionalProperties: false,
    $defs: { node: { ...node, properties: { children: { ...node.properties.children, maxItems: 0 } } } },
  });
});
