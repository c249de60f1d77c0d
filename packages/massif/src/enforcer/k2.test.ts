/** Walks over Kimi K2's own vocabulary: 163,840 tokens, of which many cut characters in two. */
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { loadTokenizer } from "../tokenizer/index.ts";
import { compileSchema, compileTurn, type Json, vocabularyOf } from "./index.ts";
import { allowed, hasShared, shared, textOf, walk, walleCases } from "./testing.ts";

const load = async () => {
  const folder = join(shared, "data/tokenizers");
  const config = join(folder, "kimi_tokenizer_config.json");
  return vocabularyOf(await loadTokenizer(join(folder, "kimi_tiktoken.model.xz"), { config }), 163_840);
};

test.skipIf(!hasShared)("tool schemas, forced calls and exact masks", { timeout: 60_000 }, async () => {
  const vocabulary = await load();
  const ajv = new Ajv2020({ strict: false });
  const { valid } = await walleCases();
  const schemas = valid
    .map((text): Json => JSON.parse(text))
    .filter((schema) => (schema as { type?: string }).type === "object");
  expect(schemas.length).toBeGreaterThan(90);
  for (const [i, schema] of schemas.entries()) {
    if (i % 8) continue;
    const random = new Random(i);
    const { $id: _, ...plain } = schema as Record<string, Json>;
    const tools = [{ name: "f", parameters: schema }];
    const options = { tools, toolChoice: "required", parallel: false, end: ["<|im_end|>"] } as const;
    const ids = walk(compileTurn(vocabulary, options).start({ maxTokens: 60 }), random);
    expect(ids.length).toBeLessThanOrEqual(60);
    const text = textOf(vocabulary, ids);
    expect(text.startsWith("functions.f:0"), text).toBe(true);
    expect(ajv.validate(plain, JSON.parse(text.slice("functions.f:0".length))), text).toBe(true);
  }

  const matcher = compileSchema(
    { type: "object", properties: { 城市: { type: "string", maxLength: 5 } } },
    vocabulary,
  ).start();
  const random = new Random(5);
  for (let step = 0; step < 12 && allowed(matcher.mask()).length; step++) {
    const mask = new Set(allowed(matcher.mask()));
    for (let id = step; id < vocabulary.vocabSize; id += 97) {
      let accepted = true;
      try {
        matcher.fork().accept(id);
      } catch {
        accepted = false;
      }
      expect([step, id, mask.has(id)]).toEqual([step, id, accepted]);
    }
    matcher.accept(random.pick([...mask]));
  }
});
