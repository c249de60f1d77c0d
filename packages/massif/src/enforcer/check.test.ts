import { expect, test } from "vitest";
import { checkToolSchema } from "./check.ts";
import { hasShared, walleCases } from "./testing.ts";

test.skipIf(!hasShared)("walle's 395 cases, with the fragments of its reasons", async () => {
  const { valid, invalid } = await walleCases();
  expect([valid.length, invalid.length]).toEqual([213, 182]);
  const wrong: unknown[] = [];
  for (const text of valid) {
    for (const schema of [text, JSON.parse(text)]) {
      const verdict = checkToolSchema(schema, { maxDepth: 5 });
      if (!verdict.accepted || verdict.reason) wrong.push([text, verdict]);
    }
  }
  for (const { schema, expect: fragment } of invalid) {
    const { accepted, reason } = checkToolSchema(schema, { maxDepth: 5 });
    if (accepted || !reason.toLowerCase().includes(fragment.toLowerCase())) wrong.push([schema, reason, fragment]);
  }
  expect(wrong).toEqual([]);
});

test("a reason names its path", () => {
  const schema = { type: "object", properties: { list: { type: "array", items: { type: "string", minimum: 1 } } } };
  expect(checkToolSchema(schema)).toEqual({
    accepted: false,
    reason: "invalid keywords: minimum (at #/properties/list/items)",
  });
});

test("depth is 30 unless told", () => {
  const nest = (n: number): object => (n ? { type: "object", properties: { a: nest(n - 1) } } : { type: "string" });
  expect(checkToolSchema(nest(30)).accepted).toBe(true);
  expect(checkToolSchema(nest(31)).reason).toMatch("depth exceeds maximum limit of 30");
});

test("a description beside a reference to what has one is a conflict", () => {
  const schema = {
    type: "object",
    properties: { a: { $ref: "#/$defs/d", description: "mine" } },
    $defs: { d: { type: "string", description: "its own" } },
  };
  expect(checkToolSchema(schema).reason).toMatch(/conflicting keywords .*description.*#\/properties\/a/);
});
