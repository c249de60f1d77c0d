/** The JSON-Schema-Test-Suite (draft 2020-12): what compiles must accept every valid instance and no invalid one.
 *
 *  Schemas that ask for more than the enforcer does are refused, and counted by what they ask for. Instances are spelled
 *  as `JSON.stringify` does. Left out: “only an annotation by default”, since here a format is enforced. */
import { expect, test } from "vitest";
import { MassifError } from "../common/index.ts";
import { formats } from "./formats.ts";
import { compileSchema, type Json } from "./index.ts";
import { hasShared, readTar, smallVocabulary, takes } from "./testing.ts";

interface Group {
  description: string;
  schema: Json;
  tests: { description: string; data: Json; valid: boolean }[];
}

const FILES =
  "additionalProperties anyOf boolean_schema const default defs enum exclusiveMaximum exclusiveMinimum format infinite-loop-detection items maxItems maxLength maximum minItems minLength minimum multipleOf oneOf pattern prefixItems properties ref required type".split(
    " ",
  );

test.skipIf(!hasShared)("groups for the supported keywords", async () => {
  const vocabulary = smallVocabulary();
  const files = await readTar("json_schema_test_suite.tar.xz");
  const wrong: string[] = [];
  const refused: Record<string, number> = {};
  let [instances, groups] = [0, 0];
  for (const file of FILES) {
    for (const { description, schema, tests } of JSON.parse(files.get(`tests/draft2020-12/${file}.json`)!) as Group[]) {
      let grammar: ReturnType<typeof compileSchema>;
      try {
        grammar = compileSchema(schema, vocabulary);
      } catch (error) {
        if (!(error instanceof MassifError)) throw error;
        if (error.code === "schema.empty") {
          if (tests.some((one) => one.valid)) wrong.push(`${file}: ${description}: called empty`);
        } else {
          expect(error.code).toBe("schema.unsupported");
          const what = /: (.*) cannot be enforced/
            .exec(error.message)![1]!
            .replace(/reference .*|branches .*|format .*/, (text) => text.split(" ")[0]!);
          refused[what] = (refused[what] ?? 0) + 1;
        }
        continue;
      }
      groups++;
      for (const { description: which, data, valid } of tests) {
        if (which.includes("only an annotation")) continue;
        instances++;
        if (takes(grammar.start(), JSON.stringify(data)) !== valid)
          wrong.push(`${file}: ${description}: ${which} ${JSON.stringify(data)} ${valid}`);
      }
    }
  }
  expect(wrong).toEqual([]);
  expect({ groups, instances, refused }).toEqual({
    groups: 125,
    instances: 457,
    refused: {
      "a step that is no whole number up to 2000": 4,
      branches: 6,
      "the format": 10,
      "the keyword “dependentSchemas”": 1,
      "the keyword “else”": 1,
      "the keyword “if”": 1,
      "the keyword “patternProperties”": 3,
      "the keyword “propertyNames”": 1,
      "the keyword “then”": 1,
      "the reference": 12,
      "“additionalProperties” beside “allOf”": 1,
      "“allOf” with more than one schema": 1,
      "“items” beside “allOf”": 1,
      "“maxItems” beside “$ref”": 1,
      "“properties” beside “$ref”": 3,
      "“type” beside “anyOf”": 1,
      "“type” beside “oneOf”": 2,
    },
  });
});

test.skipIf(!hasShared)("formats: no invalid string is accepted, and the rarer forms alone are missing", async () => {
  const vocabulary = smallVocabulary();
  const files = await readTar("json_schema_test_suite.tar.xz");
  const wrong: string[] = [];
  const missing: Record<string, number> = {};
  for (const format of Object.keys(formats)) {
    const grammar = compileSchema({ type: "string", format }, vocabulary);
    for (const { tests } of JSON.parse(files.get(`tests/draft2020-12/optional/format/${format}.json`)!) as Group[]) {
      for (const { data, valid, description } of tests) {
        if (typeof data !== "string") continue;
        const taken = takes(grammar.start(), JSON.stringify(data));
        if (taken && !valid) wrong.push(`${format}: ${description}: ${data}`);
        if (!taken && valid) missing[format] = (missing[format] ?? 0) + 1;
      }
    }
  }
  expect(wrong).toEqual([]);
  // Leap seconds and small “z”; many digits; quoted names and literals; long or internationalized labels; mixed forms.
  expect(missing).toEqual({ time: 7, "date-time": 4, duration: 1, email: 8, hostname: 17, ipv6: 5 });
});
