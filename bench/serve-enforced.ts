/** Decoding that a schema holds, against free decoding: the same engine, prompts and numbers of tokens.
 *
 *    node bench/serve-enforced.ts [--preset small|base] [--batch 1,16] [--new 256] [--temperature 0] [--rounds 9]
 *      [--threads 2] [--json FILE]
 *
 *  The schema is an object of texts without bounds, a number and a list; random weights end texts where they like, or where
 *  the budget does. “ours” is enforced;
 *  “peer” takes as many tokens of each answer as the enforced one has. Every enforced answer must be complete. */
import { Random } from "../packages/massif/src/common/index.ts";
import { compileSchema, vocabularyOf } from "../packages/massif/src/enforcer/index.ts";
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { alternate, begin, introduce } from "./harness.ts";
import { served } from "./serve-parts.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  batch: { type: "string", default: "1,16" },
  new: { type: "string", default: "256" },
  temperature: { type: "string", default: "0" },
});
const [maxTokens, temperature] = [Number(own.new), Number(own.temperature)];
const { model, tokenizer } = served(own.preset);
const random = new Random(7);
using engine = openEngine({ model, tokenizer, maxRunning: 64, tokenBudget: 4096, cacheBytes: 256 << 20 });
const schema = {
  type: "object",
  properties: {
    title: { type: "string" },
    body: { type: "string" },
    score: { type: "number" },
    tags: { type: "array", items: { type: "string" }, minItems: 2 },
  },
  required: ["title", "body", "score", "tags"],
  additionalProperties: false,
};
const end = tokenizer.idOf("<|im_end|>");
const grammar = compileSchema(schema, vocabularyOf(tokenizer, model.config.vocabSize), { end: [end] });

introduce(settings);
for (const batch of own.batch.split(",").map(Number)) {
  const next = () =>
    Array.from({ length: batch }, () => Array.from({ length: 64 }, () => random.int(tokenizer.vocabulary.size)));
  let prompts = next();
  /** Tokens of each answer; known once the enforced side has run. */
  let lengths: number[] | undefined;
  const enforced = () =>
    Promise.all(
      prompts.map(async (prompt, seed) => {
        let [said, tokens] = ["", 0];
        const asked = { prompt, maxTokens, temperature, seed, grammar, stopIds: [end], salt: "enforced" };
        for await (const { text } of engine.generate(asked)) {
          said += text;
          tokens++;
        }
        JSON.parse(said);
        return tokens;
      }),
    );
  const free = (lengths: readonly number[]) =>
    Promise.all(
      prompts.map(async (prompt, i) => {
        let tokens = 0;
        const asked = { prompt, maxTokens: lengths[i]!, temperature, seed: i, salt: "free" };
        for await (const _ of engine.generate(asked)) tokens++;
        return tokens;
      }),
    );
  const rates: number[] = [];
  await alternate(settings, {
    name: `enforced decoding ${own.preset}, batch ${batch}`,
    peer: process,
    amount: batch * maxTokens,
    unit: "tokens/s",
    ours: async () => {
      const began = performance.now();
      lengths = await enforced();
      const seconds = (performance.now() - began) / 1e3;
      const tokens = lengths.reduce((a, b) => a + b, 0);
      rates.push(tokens / batch);
      return [(seconds * batch * maxTokens) / tokens];
    },
    theirs: async () => {
      const asked = lengths!;
      const began = performance.now();
      const tokens = (await free(asked)).reduce((a, b) => a + b, 0);
      const seconds = (performance.now() - began) / 1e3;
      prompts = next();
      return [(seconds * batch * maxTokens) / tokens];
    },
    more: () => ({ tokens: rates }),
  });
  console.log(`${Math.round(rates.at(-1)!)} tokens an answer`);
}
model.dispose();
