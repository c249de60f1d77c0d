import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Message, type TemplateName, trajectory } from "../../chat/index.ts";
import { loadConfig, Progress } from "../../common/index.ts";
import { Model, ModelConfig, saveModel } from "../../model/index.ts";
import { k2Specials, saveTokenizer, Tokenizer, tokenizerDigest } from "../../tokenizer/index.ts";
import { IGNORE } from "../data/index.ts";
import { CLOCK_KEYS, readRows } from "../run/index.ts";
import { type Example, examplesOf, layOut, PackedOrder, pack, readConversation, SftRecipe, sft } from "./index.ts";

const temporary = mkdtempSync(join(tmpdir(), "massif-sft-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const tokenizer = new Tokenizer({
  tokens: Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
  specials: k2Specials.map((token, i) => ({ ...token, id: 256 + i })),
});
const model = join(temporary, "model");
beforeAll(async () => {
  const config = ModelConfig.parse({
    ...{ vocabSize: tokenizer.vocabSize, hiddenSize: 32, numHiddenLayers: 2, intermediateSize: 48 },
    ...{ moeIntermediateSize: 16, numAttentionHeads: 2, qLoraRank: 16, kvLoraRank: 16, qkNopeHeadDim: 8 },
    ...{ qkRopeHeadDim: 8, vHeadDim: 8, nRoutedExperts: 4, numExpertsPerTok: 2, maxPositionEmbeddings: 512 },
  });
  const fresh = Model.init(config, 1);
  mkdirSync(model);
  saveModel(fresh, model);
  await saveTokenizer(tokenizer, model);
  fresh.dispose();
});

const call = (name: string, id: string, reasoning?: string): Message => ({
  role: "assistant",
  content: "",
  ...(reasoning && { reasoning_content: reasoning }),
  tool_calls: [{ id, type: "function", function: { name, arguments: "{}" } }],
});
const talk: Message[] = [
  { role: "system", content: "S" },
  { role: "user", content: "add" },
  call("look", "functions.look:0", "R1"),
  { role: "tool", tool_call_id: "functions.look:0", content: "T1" },
  { role: "assistant", content: "A1", reasoning_content: "R2" },
  { role: "user", content: "more" },
  { role: "assistant", content: "A2", reasoning_content: "R3" },
];

/** What is learned, and what is context, as text. */
function shown(row: unknown, template: TemplateName, keepReasoning = false): string[] {
  const options = { tokenizer, template, keepReasoning, seqLen: 4096 };
  return examplesOf(readConversation(row), options).map(({ ids, learn }) => {
    let text = "";
    for (let i = 0; i < ids.length; i++) {
      if (learn[i] !== (i ? learn[i - 1] : 0)) text += learn[i] ? "⟦" : "⟧";
      text += tokenizer.decode([ids[i]!]);
    }
    return learn.at(-1) ? `${text}⟧` : text;
  });
}

test("the loss is on what the model writes, up to its end; headers, results and users are context", () => {
  const [only, ...others] = shown({ messages: talk }, "instruct-v2");
  expect(others).toEqual([]);
  expect(only).toBe(
    "<|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>add<|im_end|>" +
      "<|im_assistant|>assistant<|im_middle|>⟦<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0" +
      "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|><|im_end|>⟧" +
      "<|im_system|>tool<|im_middle|>## Return of functions.look:0\nT1<|im_end|>" +
      "<|im_assistant|>assistant<|im_middle|>⟦A1<|im_end|>⟧<|im_user|>user<|im_middle|>more<|im_end|>" +
      "<|im_assistant|>assistant<|im_middle|>⟦A2<|im_end|>⟧",
  );
});

test("where reasoning is dropped from history, each chain of calls is an example in its own rendering", () => {
  const learned = (rows: string[]) => rows.map((row) => [...row.matchAll(/⟦(.*?)⟧/gs)].map(([, text]) => text));
  const look =
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|><|im_end|>";
  expect(learned(shown({ messages: talk }, "thinking"))).toEqual([
    [`<think>R1</think>${look}`, "<think>R2</think>A1<|im_end|>"],
    ["<think>R3</think>A2<|im_end|>"],
  ]);
  expect(shown({ messages: talk }, "thinking")[1]).not.toMatch(/R1|R2/);
  expect(learned(shown({ messages: talk }, "thinking", true))).toEqual([
    [`<think>R1</think>${look}`, "<think>R2</think>A1<|im_end|>", "<think>R3</think>A2<|im_end|>"],
  ]);
  // Without reasoning both renderings are one.
  const plain = talk.map((m) => (m.role === "assistant" ? { ...m, reasoning_content: undefined } : m));
  expect(learned(shown({ messages: plain }, "thinking"))).toEqual([
    [`<think></think>${look}`, "<think></think>A1<|im_end|>", "<think></think>A2<|im_end|>"],
  ]);
});

test("OpenAI's weight 0 makes a message context", () => {
  const messages = talk.map((m, i) => (i === 4 ? { ...m, weight: 0 } : m));
  const [only] = shown({ messages }, "instruct-v2");
  expect(only).toContain("<|im_middle|>A1<|im_end|>");
  expect(only).toContain("⟦A2<|im_end|>⟧");
});

test("tokens that were sampled are learned as they are, and only by their own tokenizer and template", () => {
  const ids = [258, 65, 66, 67];
  const sources = (["template", "user", "assistant", "assistant"] as const).slice();
  const turns = [{ message: 1, start: 2, end: 4, finish: "stop" as const }];
  const row = (name: string, template = "instruct-v2") =>
    trajectory({ messages: talk, tools: [], tokens: { tokenizer: name, template, ids, sources, turns } });
  const options = { tokenizer, template: "instruct-v2", keepReasoning: false, seqLen: 3 } as const;
  const read = (row: unknown) => examplesOf(readConversation(row), options);
  expect(read(row(tokenizerDigest(tokenizer)))).toEqual([
    { ids: Int32Array.from(ids), learn: Uint8Array.of(0, 0, 1, 1) },
  ]);
  expect(() => read(row("sha256:other"))).toThrow(/tokens of the tokenizer sha256:other/);
  expect(() => read(row(tokenizerDigest(tokenizer), "thinking"))).toThrow(/tokens in the template thinking/);
});

const example = (length: number, first = 0): Example => ({
  ids: Int32Array.from({ length }, (_, i) => first + i),
  learn: Uint8Array.from({ length }, (_, i) => Number(i > 1)),
});

test("packing loses and repeats nothing, fits, and leaves no two rows that would fit into one", () => {
  const lengths = fc.array(fc.integer({ min: 2, max: 17 }), { minLength: 1, maxLength: 40 });
  fc.assert(
    fc.property(lengths, (sizes) => {
      const examples = sizes.map((n) => example(n));
      const rows = pack(examples, examples.keys(), 16);
      expect(rows.flat().sort((a, b) => a - b)).toEqual(sizes.map((_, i) => i));
      const used = rows.map((row) => row.reduce((sum, i) => sum + sizes[i]! - 1, 0)).sort((a, b) => a - b);
      expect(used.at(-1)!).toBeLessThanOrEqual(16);
      if (used.length > 1) expect(used[0]! + used[1]!).toBeGreaterThan(16);
    }),
  );
});

test("every epoch has each example once, in another order; a restored order goes on with the next row", () => {
  const examples = Array.from({ length: 20 }, (_, i) => example(3 + (i % 5), 10 * i));
  const order = () => new PackedOrder(examples, { seqLen: 8, seed: 3 });
  const whole = order();
  const epochs = [0, 1].map(() => whole.next(whole.rowsPerEpoch).examples);
  for (const epoch of epochs) expect(epoch.toSorted((a, b) => a - b)).toEqual(examples.map((_, i) => i));
  expect(epochs[0]).not.toEqual(epochs[1]);
  for (const drawn of [1, 7, whole.rowsPerEpoch, whole.rowsPerEpoch + 2]) {
    const [a, b] = [order(), order()];
    a.next(drawn);
    b.restore(JSON.parse(JSON.stringify(a.state)));
    expect(b.next(5)).toEqual(a.next(5));
  }
  const other = new PackedOrder(examples.slice(1), { seqLen: 8, seed: 3 });
  expect(() => other.restore(order().state)).toThrow(/not those that the checkpoint was trained on/);
});

const silent = new Progress({ silent: true });
function rowsFile(name: string, rows: readonly unknown[]): string {
  const file = join(temporary, `${name}.jsonl`);
  writeFileSync(file, rows.map((row) => (typeof row === "string" ? row : JSON.stringify(row))).join("\n"));
  return file;
}
/** A parrot: says back the letter it was given. */
const parrot = rowsFile(
  "parrot",
  Array.from({ length: 120 }, (_, i) => {
    const letter = String.fromCharCode(97 + (i % 26));
    const said = { role: "assistant", content: letter };
    return { messages: [{ role: "system", content: `${i}` }, { role: "user", content: letter }, said] };
  }),
);
const recipe = (...sets: string[]) =>
  loadConfig(SftRecipe, { model, data: [parrot] }, [
    ...["batch.rows=4", "batch.seqLen=192", "steps=24", "evaluation.every=12", "checkpoint.every=8"],
    ...["optimizer.learningRate=0.01", "logging.detailEvery=6", "schedule.warmupSteps=4", ...sets],
  ]);
const metricsOf = (dir: string) =>
  readRows(join(dir, "metrics.jsonl")).map((row) =>
    Object.fromEntries(Object.entries(row).filter(([key]) => !CLOCK_KEYS.includes(key))),
  );

test("it learns; a run that stops and is resumed equals the uninterrupted one to the bit", async () => {
  const whole = join(temporary, "whole");
  const result = await sft(recipe(), { base: temporary, dir: whole, progress: silent });
  expect(result).toMatchObject({ step: 24, finished: true });
  const [first, last] = [metricsOf(whole)[0]!, metricsOf(whole).at(-1)!];
  expect(first.evalLoss).toBeCloseTo(Math.log(tokenizer.vocabSize), 0);
  expect(last.evalLoss).toBeLessThan((first.evalLoss as number) - 2);
  expect(readFileSync(join(whole, "report.md"), "utf8")).toContain("held-out loss");

  const dir = join(temporary, "stopped");
  for (const stopAt of [5, 13]) {
    const controller = new AbortController();
    const evaluate = async () => ({});
    const watch = setInterval(() => {
      const file = join(dir, "metrics.jsonl");
      if (existsSync(file) && readFileSync(file, "utf8").includes(`"step":${stopAt},`)) controller.abort();
    }, 1);
    const part = await sft(recipe(), {
      base: temporary,
      dir,
      resume: "auto",
      progress: silent,
      signal: controller.signal,
      evaluate,
    });
    clearInterval(watch);
    expect(part.finished).toBe(false);
  }
  await sft(recipe(), { base: temporary, dir, resume: true, progress: silent });
  expect(metricsOf(dir)).toEqual(metricsOf(whole));
  const weights = (dir: string) => readFileSync(join(dir, "checkpoints/step-24/model.safetensors"));
  expect(weights(dir).equals(weights(whole))).toBe(true);
});

test("a run killed and resumed equals the uninterrupted one to the bit", async () => {
  const dir = join(temporary, "killed");
  const main = resolve(import.meta.dirname, "../../cli/main.ts");
  const args = ["sft", parrot, "--model", model, "--run", dir];
  const sets = ["batch.rows=4", "batch.seqLen=192", "steps=24", "evaluation.every=12", "checkpoint.every=8"].concat([
    "optimizer.learningRate=0.01",
    "logging.detailEvery=6",
    "schedule.warmupSteps=4",
  ]);
  const start = (...more: string[]): ChildProcess =>
    spawn(process.execPath, [main, ...args, ...sets.flatMap((set) => ["--set", set]), ...more], { stdio: "ignore" });
  const first = start();
  const ended = once(first, "exit");
  const file = join(dir, "metrics.jsonl");
  while (first.exitCode === null && !(existsSync(file) && readFileSync(file, "utf8").includes('"step":11,')))
    await new Promise((r) => setTimeout(r, 3));
  first.kill("SIGKILL");
  await ended;
  expect(existsSync(join(dir, "checkpoints/step-24"))).toBe(false);
  const [code] = (await once(start("--resume"), "exit")) as [number];
  expect(code).toBe(0);
  expect(metricsOf(dir)).toEqual(metricsOf(join(temporary, "whole")));
});

test("rows that cannot be learned are named by file and line", async () => {
  const file = rowsFile("bad", [
    {
      messages: [
        { role: "user", content: "a" },
        { role: "assistant", content: "b" },
      ],
    },
    "",
    { messages: [{ role: "user", content: "nobody answers" }] },
    {
      messages: [
        { role: "user", content: "a" },
        { role: "assistant", content: "x".repeat(300) },
      ],
    },
    "{",
    { prompt: "no messages" },
    trajectory({
      messages: [{ role: "assistant", content: "x" }],
      tools: [],
      tokens: {
        tokenizer: "sha256:other",
        template: "instruct-v2",
        ids: [1, 2],
        sources: ["user", "assistant"],
        turns: [],
      },
    }),
  ]);
  const run = sft(recipe(`data=["${file}"]`), { base: temporary, dir: join(temporary, "bad"), progress: silent });
  const error = await run.catch((e: unknown) => e);
  expect(error).toMatchObject({ code: "sft.rows" });
  const text = String(error);
  expect(text).toContain("5 of 6 rows cannot be learned");
  expect(text).toContain(`${file}:3: nothing that the model must write`);
  expect(text).toMatch(/bad\.jsonl:4: \d+ tokens \(expected: at most 193/);
  expect(text).toContain(`${file}:5: not JSON`);
  expect(text).toContain(`${file}:6: no messages`);
  expect(text).toContain(`${file}:7: tokens of the tokenizer sha256:other`);
});

test("trajectories below the wanted reward are passed over; with none left that is said", async () => {
  const of = (total: number) =>
    trajectory({
      messages: [
        { role: "user", content: `${total}` },
        { role: "assistant", content: "b" },
      ],
      tools: [],
      reward: { total, components: {} },
    });
  const none = rowsFile("none", [of(0), of(0.5)]);
  const run = sft(recipe(`data=["${none}"]`, "minReward=1"), {
    base: temporary,
    dir: join(temporary, "none"),
    progress: silent,
  });
  await expect(run).rejects.toMatchObject({ code: "sft.empty" });
});

test("padding and context carry no loss: the same rows with other context give the same targets", () => {
  const options = { tokenizer, template: "instruct-v2", keepReasoning: false, seqLen: 256 } as const;
  const of = (user: string) =>
    examplesOf(
      readConversation({
        messages: [
          { role: "user", content: user },
          { role: "assistant", content: "yes" },
        ],
      }),
      options,
    );
  const targets = (user: string) =>
    [...layOut(of(user), [0], { rows: 1, seqLen: 256 })[0]!.rows.targets].filter((t) => t !== IGNORE);
  expect(targets("a")).toEqual(targets("quite another question"));
  expect(tokenizer.decode(targets("a"))).toBe("yes<|im_end|>");
});
