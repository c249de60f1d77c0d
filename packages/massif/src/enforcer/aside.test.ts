import { expect, test } from "vitest";
import { Random } from "../common/index.ts";
import { compileAside } from "./aside.ts";
import { compileTurn, type TurnOptions } from "./index.ts";
import { smallVocabulary, walk } from "./testing.ts";

const vocabulary = smallVocabulary();
const end = ["<|im_end|>"];
const node = {
  type: "object" as const,
  properties: {
    id: { type: "string", pattern: "^[a-f]{2,4}$" },
    kind: { enum: ["a", "b", null] },
    at: { type: "number", minimum: 0, maximum: 9 },
    next: { anyOf: [{ $ref: "#/$defs/node" }, { type: "null" }] },
  },
  required: ["id", "next"],
};
const heavy: [string, TurnOptions][] = [
  ["a recursive schema", { end, format: { schema: { $ref: "#/$defs/node", $defs: { node } } as never } }],
  ["tools", { end, toolChoice: "required", tools: [{ name: "f", parameters: { ...node, $defs: { node } } as never }] }],
  ["a pattern", { end, format: { regex: "(a|b)*c{3,9}" } }],
  ["a grammar", { end, format: { grammar: 'root ::= "(" root ")" | [a-z]+' } }],
];

test.each(heavy)("read in another thread, %s allows the same tokens all the way", async (_, options) => {
  const [aside, here] = [await compileAside(vocabulary, options), compileTurn(vocabulary, options)];
  for (let seed = 0; seed < 10; seed++) {
    const [a, b] = [aside.start({ maxTokens: 60 }), here.start({ maxTokens: 60 })];
    const ids = walk(here.start({ maxTokens: 60 }), new Random(seed));
    for (const id of ids) {
      expect(a.mask()).toEqual(b.mask());
      a.accept(id);
      b.accept(id);
    }
    expect(a.finished).toBe(true);
  }
});

test("errors come over as they are", async () => {
  const tool = { name: "f", parameters: { type: "string", pattern: "(?=a)" } as never };
  const options: TurnOptions = { end, toolChoice: "required", tools: [tool] };
  const told = await compileAside(vocabulary, options).catch((error: unknown) => error);
  const thrown = (() => {
    try {
      return compileTurn(vocabulary, options);
    } catch (error) {
      return error;
    }
  })();
  expect(told).toMatchObject({ code: "schema.unsupported", message: (thrown as Error).message });
});

/** Every subset of the last eighteen letters is a state. */
const explosive: TurnOptions = { end, format: { regex: "(a|b)*a(a|b){18}" } };

test("a pattern that explodes is refused in time, while the event loop goes on, and the next one is read", async () => {
  let turns = 0;
  const timer = setInterval(() => turns++, 5);
  await expect(compileAside(vocabulary, explosive, { milliseconds: 150 })).rejects.toMatchObject({
    code: expect.stringMatching(/^schema\.(slow|pattern)$/),
  });
  clearInterval(timer);
  expect(turns).toBeGreaterThan(3);
  const [, pattern] = heavy[2]!;
  expect((await compileAside(vocabulary, pattern)).start().canEnd).toBe(false);
});
