/** The JSON-Schema-Test-Suite (draft 2020-12): what compiles must accept every valid instance and no invalid one.
 *
 *  Schemas that ask for more than the enforcer does are refused with their path, and counted here. Instances are
 *  spelled as `JSON.stringify` does. Three kinds of valid instance are left out, by name, because the enforcer writes
 *  numbers and texts in fewer forms than JSON has. */
import { expect, test } from "vitest";
import { MassifError } from "../../common/index.ts";
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
  const refused: string[] = [];
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
        } else refused.push(`${file}: ${description}: ${error.code} ${error.message.split("\n")[0]}`);
        continue;
      }
      groups++;
      for (const { description: which, data, valid } of tests) {
        instances++;
        if (takes(grammar.start(), JSON.stringify(data)) !== valid) wrong.push(`${file}: ${description}: ${which} ${JSON.stringify(data)} ${valid}`);
      }
    }
  }
  console.log(groups, instances, refused.length, refused);
  expect(wrong).toEqual([]);
});
