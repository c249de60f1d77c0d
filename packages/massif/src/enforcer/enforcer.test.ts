import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MassifError, Random } from "../common/index.ts";
import { checkToolSchema, compileSchema, type Grammar, type Json, prepare } from "./index.ts";
import { allowed, hasShared, smallVocabulary, takes, textOf, walk, walleCases } from "./testing.ts";

const vocabulary = smallVocabulary();
const end = ["<|im_end|>"];
const ajv = new Ajv2020({ strict: false });
formats.default(ajv);

const hard: Record<string, Json> = {
  recursion: {
    type: "object",
    properties: { v: { type: "integer" }, next: { anyOf: [{ $ref: "#" }, { type: "null" }] } },
    required: ["v", "next"],
    additionalProperties: false,
  },
  tree: { $defs: { t: { type: "array", items: { $ref: "#/$defs/t" }, maxItems: 3 } }, $ref: "#/$defs/t" },
  mutual: {
    $defs: {
      a: { type: "object", properties: { b: { $ref: "#/$defs/b" } } },
      b: { type: "array", items: { $ref: "#/$defs/a" }, minItems: 1 },
    },
    $ref: "#/$defs/a",
  },
  prefixes: { enum: ["a", "ab", "abc", "abd", "世", "世界", "", '"', "\\"] },
  "mixed enum": { enum: [1, 10, 100, -1, 1.5, null, true, [1, "a"], { k: [] }] },
  keys: {
    type: "object",
    properties: {
      a: { type: "null" },
      ab: { type: "null" },
      "😊": { type: "null" },
      'q"': { type: "null" },
      "": { type: "null" },
    },
    required: ["ab", "😊"],
    additionalProperties: false,
  },
  "extra keys": {
    type: "object",
    properties: { na: { type: "integer" }, name: { type: "boolean" } },
    required: ["name"],
    additionalProperties: { type: "string", maxLength: 2 },
  },
  bounds: {
    type: "object",
    properties: {
      i: { type: "integer", minimum: -12, maximum: 345 },
      x: { type: "number", exclusiveMinimum: 0.5, maximum: 2.25 },
      m: { type: "integer", multipleOf: 7, minimum: 50 },
    },
    required: ["i", "x", "m"],
    additionalProperties: false,
  },
  strings: { type: "array", items: { type: "string", minLength: 2, maxLength: 3 }, minItems: 2, maxItems: 2 },
  pattern: {
    type: "object",
    properties: {
      p: { type: "string", pattern: "^[a-c]{2,}-\\d+$", maxLength: 8 },
      q: { type: "string", pattern: "世" },
    },
    required: ["p", "q"],
  },
  formats: {
    type: "array",
    prefixItems: [
      { type: "string", format: "date" },
      { type: "string", format: "uuid" },
      { type: "string", format: "ipv4" },
      { type: "string", format: "email" },
    ],
    items: false,
    minItems: 4,
  },
  tuple: {
    type: "array",
    prefixItems: [{ const: 1 }, { type: "string" }],
    items: { type: "boolean" },
    minItems: 1,
    maxItems: 4,
  },
  objects: {
    anyOf: [
      {
        type: "object",
        properties: { kind: { const: "a" }, x: { type: "integer" } },
        required: ["kind", "x"],
        additionalProperties: false,
      },
      { type: "object", properties: { kind: { const: "b" } }, required: ["kind"], additionalProperties: false },
    ],
  },
  tagged: {
    oneOf: [
      { type: "object", properties: { t: { const: 1 } }, required: ["t"] },
      { type: "object", properties: { t: { enum: [2, 3] } }, required: ["t"] },
    ],
  },
  anything: true,
  nullable: { type: ["string", "null"], enum: ["x", null] },
  "no type": { minimum: 3, maxLength: 1, maxItems: 1, required: ["k"] },
};

/** Random walks under random budgets end, within budget, in text that AJV accepts. */
function holds(grammar: Grammar, schema: Json, seed: number): void {
  const random = new Random(seed);
  const least = minimum(grammar);
  const maxTokens = least + random.int(random.pick([1, 5, 60]));
  const ids = walk(grammar.start({ maxTokens }), random);
  expect(ids.length).toBeLessThanOrEqual(maxTokens);
  const text = textOf(vocabulary, ids);
  const value = JSON.parse(text);
  const { $id: _, ...plain } = (typeof schema === "object" && schema ? schema : {}) as Record<string, Json>;
  const valid = typeof schema === "boolean" ? schema : ajv.validate(plain, value);
  expect(valid, `${text} ${ajv.errorsText()}`).toBe(true);
  // Spelled byte by byte, the same text is accepted.
  expect(takes(grammar.start(), text)).toBe(true);
}

/** The least budget that `start` accepts. */
function minimum(grammar: Grammar): number {
  try {
    grammar.start({ maxTokens: 0 });
  } catch (error) {
    if (error instanceof MassifError) return Number(/at least (\d+)/.exec(error.message)![1]);
    throw error;
  }
  return 0;
}

const seeds = fc.integer({ min: 0, max: 2 ** 31 });

describe("random walks", () => {
  test.each(Object.entries(hard))("%s", (_, schema) => {
    const grammar = compileSchema(schema, vocabulary, { end });
    fc.assert(
      fc.property(seeds, (seed) => holds(grammar, schema, seed)),
      { numRuns: 25 },
    );
    const spaced = compileSchema(schema, vocabulary, { end, whitespace: 2 });
    fc.assert(
      fc.property(seeds, (seed) => holds(spaced, schema, seed)),
      { numRuns: 5 },
    );
  });

  test.skipIf(!hasShared)("every schema that walle accepts", async () => {
    const { valid } = await walleCases();
    const refused: [string, string][] = [];
    for (const text of valid) {
      const schema: Json = JSON.parse(text);
      expect(checkToolSchema(schema).accepted).toBe(true);
      let grammar: Grammar;
      try {
        grammar = compileSchema(schema, vocabulary, { end });
      } catch (error) {
        refused.push([text, (error as MassifError).code]);
        continue;
      }
      if (minimum(grammar) > 1000) continue; // minLength 999999999999
      for (let seed = 0; seed < 3; seed++) holds(grammar, schema, seed);
    }
    expect(refused).toEqual([]);
  });
});

describe("exactness", () => {
  test.each(Object.entries(hard))("mask ⇔ accept, for every token: %s", (_, schema) => {
    const grammar = compileSchema(schema, vocabulary, { end });
    for (let seed = 0; seed < 4; seed++) {
      const random = new Random(seed);
      const matcher = grammar.start({ maxTokens: minimum(grammar) + (seed % 2 ? 2 : 40) });
      // A second grammar, whose states were never asked for a mask.
      const plain = compileSchema(schema, vocabulary, { end }).start({ maxTokens: Infinity });
      for (let step = 0; step < 25 && !matcher.finished; step++) {
        const mask = new Set(allowed(matcher.mask()));
        for (let id = 0; id < vocabulary.vocabSize; id++) {
          const accepted = tried(() => matcher.fork().accept(id));
          expect([id, mask.has(id)]).toEqual([id, accepted]);
          if (mask.has(id) || seed % 2) continue;
          // Away from the budget only the bytes decide.
          if (step < 10) expect([id, tried(() => plain.fork().accept(id))]).toEqual([id, false]);
        }
        const id = random.pick([...mask]);
        matcher.accept(id);
        plain.accept(id);
      }
    }
  });
});

function tried(act: () => void): boolean {
  try {
    act();
    return true;
  } catch {
    return false;
  }
}

describe("budget", () => {
  test("the least budget is honoured, one less is refused with its number", () => {
    for (const [name, schema] of Object.entries(hard)) {
      const grammar = compileSchema(schema, vocabulary, { end });
      const least = minimum(grammar);
      expect(walk(grammar.start({ maxTokens: least }), new Random(1)).length, name).toBeLessThanOrEqual(least);
    }
  });

  test("a shorter way than the shortest text is found", () => {
    // “zz” has fewer bytes, “aaaaaaaa” fewer tokens.
    const grammar = compileSchema({ enum: ["zyxw", "aaaaaaaa"] }, vocabulary, { end });
    expect(textOf(vocabulary, walk(grammar.start({ maxTokens: 4 }), new Random(0)))).toBe('"aaaaaaaa"');
    expect(() => grammar.start({ maxTokens: 3 })).toThrow(/at least 4 tokens/);
  });

  test("what cannot fit is refused at once", () => {
    const grammar = compileSchema({ type: "string", minLength: 999999999999 }, vocabulary, { end });
    expect(() => grammar.start({ maxTokens: 4096 })).toThrow(/schema|no complete answer.*4096/);
    expect(takes(grammar.start(), '"abc')).toBe(false);
  });
});

describe("matcher", () => {
  test("fork and rollback", () => {
    const grammar = compileSchema(hard.objects!, vocabulary, { end });
    const matcher = grammar.start({ maxTokens: 60 });
    const random = new Random(3);
    const masks: number[][] = [];
    const ids: number[] = [];
    while (!matcher.finished) {
      masks.push(allowed(matcher.mask()));
      ids.push(random.pick(masks.at(-1)!));
      const fork = matcher.fork();
      fork.accept(random.pick(masks.at(-1)!));
      matcher.accept(ids.at(-1)!);
    }
    for (let i = ids.length - 1; i >= 0; i--) {
      matcher.rollback(1);
      expect(allowed(matcher.mask())).toEqual(masks[i]);
    }
    for (const id of ids) matcher.accept(id);
    expect([matcher.finished, matcher.canEnd, matcher.tokens]).toEqual([true, true, ids.length]);
    matcher.rollback(ids.length);
    expect(matcher.tokens).toBe(0);
    expect(() => matcher.rollback(1)).toThrow(RangeError);
  });

  test("work done ahead changes no mask", () => {
    const ahead = smallVocabulary();
    prepare(ahead);
    for (const schema of [hard["extra keys"]!, true, { type: "array", items: { type: "number" } }]) {
      const [one, two] = [vocabulary, ahead].map((v) => compileSchema(schema, v, { end }).start({ maxTokens: 40 }));
      const random = new Random(9);
      while (!one!.finished) {
        const choices = allowed(one!.mask());
        expect(allowed(two!.mask())).toEqual(choices);
        const id = random.pick(choices);
        one!.accept(id);
        two!.accept(id);
      }
    }
  });

  test("a forbidden token throws and changes nothing", () => {
    const matcher = compileSchema({ type: "boolean" }, vocabulary, { end }).start();
    expect(() => matcher.accept("x".charCodeAt(0))).toThrow(/not allowed/);
    expect(() => matcher.accept(vocabulary.special!.get("</think>")!)).toThrow(/not allowed/);
    expect(takes(matcher, "true")).toBe(true);
  });

  test("control tokens are never text, whatever their bytes", () => {
    const matcher = compileSchema({ type: "string" }, vocabulary, { end }).start();
    matcher.accept(0x22);
    const control = new Set(vocabulary.special!.values());
    expect(allowed(matcher.mask()).filter((id) => control.has(id))).toEqual([]);
  });
});

describe("refusals name the path", () => {
  const cases: [Json, RegExp][] = [
    [{ type: "object", properties: { a: { type: "array", uniqueItems: true } } }, /#\/properties\/a\/uniqueItems/],
    [{ allOf: [{}, {}] }, /#\/allOf/],
    [{ type: "object", patternProperties: {} }, /#\/patternProperties/],
    [{ $defs: { x: { not: {} } }, $ref: "#/$defs/x" }, /#\/\$defs\/x\/not/],
    [{ type: "string", format: "uri" }, /#\/format: the format "uri"/],
    [{ type: "string", pattern: "(a)\\1" }, /#\/pattern/],
    [{ type: "string", pattern: "(a|b)*a(a|b){20}$" }, /#\/pattern: an automaton this large/],
    [{ $ref: "http://example.com/" }, /#\/\$ref/],
    [{ anyOf: [{ type: "string" }], minLength: 2 }, /#\/minLength: “minLength” beside “anyOf”/],
    [{ oneOf: [{ type: "integer" }, { type: "number" }] }, /#\/oneOf: branches 0 and 1/],
    [{ type: "number", multipleOf: 0.01 }, /#\/multipleOf/],
    [{ type: "object", properties: { a: { propertys: {} } } }, /#\/properties\/a\/propertys[\s\S]*“properties”/],
  ];
  test.each(cases)("%j", (schema, message) => {
    expect(() => compileSchema(schema, vocabulary)).toThrow(message);
  });

  test("a schema that no finite value satisfies", () => {
    expect(() =>
      compileSchema({ type: "object", properties: { a: { $ref: "#" } }, required: ["a"] }, vocabulary),
    ).toThrow(/allows no value/);
    expect(() => compileSchema({ anyOf: [{ $ref: "#" }] }, vocabulary)).toThrow(/allows no value/);
    expect(() => compileSchema(false, vocabulary)).toThrow(/allows no value/);
  });
});

describe("hostile schemas", () => {
  test("branches that stay alike are stopped before they explode", () => {
    const list = (maxItems: number) => ({ type: "array", items: { $ref: "#" }, maxItems });
    const matcher = compileSchema({ anyOf: [list(1), list(2), { type: "null" }] }, vocabulary).start();
    expect(takes(matcher.fork(), "[[[null]]]")).toBe(true);
    expect(() => {
      for (let depth = 0; depth < 40; depth++) matcher.accept("[".charCodeAt(0));
    }).toThrow(/ways to read the same text/);
  });

  test("three thousand properties, deep nesting, long enums", () => {
    const names = Array.from({ length: 3000 }, (_, i) => `property_${i}`);
    const wide = {
      type: "object",
      properties: Object.fromEntries(names.map((name) => [name, { type: "null" }])),
      required: names.slice(0, 20),
    };
    const random = new Random(1);
    const text = textOf(vocabulary, walk(compileSchema(wide, vocabulary, { end }).start({ maxTokens: 500 }), random));
    expect(Object.keys(JSON.parse(text))).toEqual(expect.arrayContaining(names.slice(0, 20)));
    const deep = (n: number): Json => (n ? { type: "array", items: deep(n - 1) } : {});
    expect(() => compileSchema(deep(200), vocabulary)).toThrow(/nested more than 64 deep/);
    const values = compileSchema({ enum: names }, vocabulary);
    expect([takes(values.start(), '"property_2999"'), takes(values.start(), '"property_3000"')]).toEqual([true, false]);
  });
});
