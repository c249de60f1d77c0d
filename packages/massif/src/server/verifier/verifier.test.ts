import { expect, test } from "vitest";
import { LlmError, ScriptedModel, type Turn } from "../../llm/index.ts";
import { builtInSchemas, caseId, readBaseline, readCase, schemaCase } from "./cases.ts";
import { passes, verificationTable, verifyEndpoint } from "./verifier.ts";

const cases = [schemaCase(builtInSchemas[0]!), schemaCase(builtInSchemas[1]!)];
const call = (args: unknown): Turn => ({ calls: [{ name: "submit", arguments: args as object }] });
const run = (whole: Turn[], stream: Turn[] = whole) =>
  verifyEndpoint({ whole: new ScriptedModel(whole), stream: new ScriptedModel(stream), cases, concurrency: 1 });

test("a perfect endpoint passes", async () => {
  const good = [call({ city: "Ulm" }), call({ city: "Ulm", days: 3 })];
  const result = await run(good);
  expect(result.scores.stream).toEqual({
    ...{
      answered: { good: 2, of: 2 },
      refused: { good: 0, of: 2 },
      schemaAccuracy: { good: 2, of: 2 },
      forced: { good: 2, of: 2 },
    },
    ...{ nativeIds: { good: 2, of: 2 }, clean: { good: 2, of: 2 } },
  });
  expect(result.streamIsWhole).toEqual({ good: 2, of: 2 });
  expect(passes(result, 0.73)).toBe(true);
});

test("each fault is found, counted where it belongs, and named", async () => {
  const whole: Turn[] = [call({ city: 5 }), { text: "I will<|tool_calls_section_begin|>", finish: "stop" }];
  const stream: Turn[] = [{ error: new Error("cut") }, { calls: [{ name: "other", id: "call_1" }] }];
  const { scores, streamIsWhole, ...rest } = await run(whole, stream);
  expect(scores.whole).toMatchObject({
    schemaAccuracy: { good: 0, of: 1 },
    forced: { good: 1, of: 2 },
    clean: { good: 1, of: 2 },
  });
  expect(scores.stream).toMatchObject({
    answered: { good: 1, of: 2 },
    schemaAccuracy: { good: 0, of: 1 },
    nativeIds: { good: 0, of: 1 },
  });
  expect(streamIsWhole).toEqual({ good: 0, of: 1 });
  expect(passes({ scores, streamIsWhole, ...rest }, 0)).toBe(false);
  const table = verificationTable({ scores, streamIsWhole, ...rest });
  for (const said of ["arguments/city must be string", "leaked <|tool_calls_section_begin|>", 'no tool "other"', "cut"])
    expect(table).toContain(said);
});

test("a refusal because nothing legal fits is a column of its own, and no failure; any other is one", async () => {
  const said = (code: string): Turn => ({
    error: new LlmError("llm.http", { found: "400" }, { status: 400, error: { code, message: "no" } }),
  });
  const good = call({ city: "Ulm" });
  const budget = await run([good, said("schema_budget")]);
  expect(budget.scores.whole).toMatchObject({ answered: { good: 1, of: 1 }, refused: { good: 1, of: 2 } });
  expect(passes(budget, 0)).toBe(true);
  expect(verificationTable(budget)).toMatch(/refused: cannot fit +50\.0 % \(1\/2\)/);
  const other = await run([good, said("invalid_schema")]);
  expect(other.scores.whole).toMatchObject({ answered: { good: 1, of: 2 }, refused: { good: 0, of: 2 } });
  expect(passes(other, 0)).toBe(false);
});

test("F1 against a baseline: positives are answers that call", async () => {
  const bodies = Array.from({ length: 10 }, (_, i) => ({ messages: [{ role: "user", content: `${i}` }] }));
  const ours = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0];
  const theirs = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0];
  const rows = bodies.map((request, i) => ({ request, finish_reason: theirs[i] ? "tool_calls" : "stop" }));
  const model = new ScriptedModel(({ messages }) =>
    ours[Number(messages[0]!.content)] ? { finish: "tool_calls", text: "" } : { text: "no" },
  );
  const all = bodies.map((body) => readCase(body));
  const { scores } = await verifyEndpoint({ whole: model, stream: model, cases: all, baseline: readBaseline(rows) });
  expect(scores.whole.decision).toEqual({ precision: 0.75, recall: 0.6, f1: (2 * 0.75 * 0.6) / 1.35, of: 10 });
});

test("a request's key does not hang on the order of its keys", () => {
  expect(caseId({ b: [{ y: 1, x: 2 }], a: "é" })).toBe(caseId({ a: "é", b: [{ x: 2, y: 1 }] }));
  expect(caseId({ a: 1 })).not.toBe(caseId({ a: 2 }));
  expect(() => readBaseline([{ nothing: 1 }])).toThrow("finish_reason");
});
