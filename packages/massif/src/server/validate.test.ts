import { expect, test } from "vitest";
import { weather } from "./testing.ts";
import { Validator } from "./validate.ts";

test("tools that are none, and a pattern that would never end", () => {
  const validator = new Validator();
  expect(validator.check([weather], "nope", "{}")).toMatch(/no tool/);
  expect(validator.check([weather], "get_weather", "[]")).toMatch(/must be object/);
  expect(validator.check([weather], "get_weather", '{"city":"Ulm"}')).toBeUndefined();
  const evil = {
    type: "function",
    function: { name: "f", parameters: { properties: { a: { type: "string", pattern: "^(a+)+$" } } } },
  };
  // Without the limit of time: longer than the universe has.
  expect(validator.check([evil], "f", JSON.stringify({ a: `${"a".repeat(60)}!` }))).toMatch(/pattern/);
  expect(validator.check([evil], "f", JSON.stringify({ a: "a".repeat(60) }))).toBeUndefined();
});
