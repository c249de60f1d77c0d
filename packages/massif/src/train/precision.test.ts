import { usePlain } from "@massif/torch";
import { afterEach, expect, test } from "vitest";
import { computingFacts, precisionOf } from "./precision.ts";

afterEach(() => usePlain(false));

test("the fastest is bfloat16 where the device multiplies it: never by ATen's operators on the CPU, nor on MPS", () => {
  expect(precisionOf({ precision: "fastest", device: "cuda:1" })).toBe("bfloat16");
  expect(precisionOf({ precision: "fastest", device: "mps" })).toBe("float32");
  const { operators, precision } = computingFacts({ precision: "fastest", device: "cpu", seed: 1 });
  expect(precision).toBe(/as it is/.test(String(operators)) ? "bfloat16" : "float32");
  usePlain(true);
  expect(precisionOf({ precision: "fastest", device: "cpu" })).toBe("float32");
  expect(precisionOf({ precision: "bfloat16", device: "cpu" })).toBe("bfloat16");
});
