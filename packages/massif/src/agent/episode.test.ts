import { torch } from "@massif/torch";
import { expect, test } from "vitest";
import { ChatParser, controls, encodeSegments, nativeId, render, TrajectorySchema, textOf } from "../chat/index.ts";
import { engineModel, openEngine } from "../engine/index.ts";
import { type ChatRequest, type LanguageModel, ScriptedModel, type Turn } from "../llm/index.ts";
import { openWorld, oracle, Replayer, WorldEnvironment } from "../worlds/index.ts";
import { type EpisodeEvent, runEpisode, runEpisodes } from "./index.ts";
import { byteTokenizer, tinyModel } from "./testing.ts";

const world = openWorld("ledger");
const replayer = new Replayer((name) => (name === world.name ? world : undefined));

/** A scripted model that says what the oracle of an environment would. */
function clerk(env: WorldEnvironment, ids: (name: string, n: number) => string | undefined): ScriptedModel {
  let turn: ReturnType<typeof oracle.start> | undefined;
  let calls = 0;
  return new ScriptedModel((request): Turn => {
    turn ??= oracle.start(env, []);
    const { content, tool_calls = [] } = turn(request.messages);
    return {
      text: textOf(content),
      calls: tool_calls.map(({ function: f }) => {
        const id = ids(f.name, calls++);
        return { name: f.name, arguments: f.arguments, ...(id && { id }) };
      }),
    };
  });
}

test("an oracle behind a model is accepted by replay, whatever ids its system gives to calls", async () => {
  for (const ids of [nativeId, (_: string, n: number) => `call_${n}_x`]) {
    for (let seed = 0; seed < 20; seed++) {
      const env = new WorldEnvironment(world);
      const row = await runEpisode(clerk(env, ids), env, seed);
      expect(row).toMatchObject({ ended: "done", reward: { total: 1 }, task: { world: "ledger", seed } });
      expect(row.tokens).toBeUndefined();
      expect(TrajectorySchema.parse(row)).toEqual(row);
      expect(replayer.verify(row)).toEqual({ accepted: true });
    }
  }
});

test("events tell the episode as it goes", async () => {
  const env = new WorldEnvironment(world);
  const events: EpisodeEvent[] = [];
  const row = await runEpisode(clerk(env, nativeId), env, 3, { onEvent: (event) => events.push(event) });
  const kinds = events.filter(({ type }) => type !== "model").map(({ type }) => type);
  const answers = row.messages.filter(({ role }) => role === "assistant").length;
  expect(answers).toBeGreaterThan(1);
  expect(kinds).toEqual([
    "begin",
    ...Array.from({ length: answers - 1 }, () => ["action", "observations"]).flat(),
    "action",
    "end",
  ]);
  expect(events.at(-1)).toMatchObject({ ended: "done", verdict: { success: true } });
  expect(events.find(({ type }) => type === "model")).toMatchObject({ turn: 0 });
});

test("limits end an episode and are its reason; a cut message never reaches the world", async () => {
  const endless = () => new ScriptedModel(() => ({ calls: [{ name: "read", arguments: { account: "anna" } }] }));
  const run = (model: LanguageModel, options = {}) => runEpisode(model, new WorldEnvironment(world), 1, options);
  expect(await run(endless(), { maxSteps: 2 })).toMatchObject({
    ended: "steps",
    reward: { total: 0, why: "ended: the episode was cut before an answer" },
  });
  expect((await run(endless(), { maxSteps: 2 })).messages.filter((m) => m.role === "tool")).toHaveLength(2);

  const usage = { promptTokens: 1, completionTokens: 10 };
  const talker = new ScriptedModel(() => ({ calls: [{ name: "read", arguments: { account: "anna" } }], usage }));
  const budgeted = await run(talker, { maxTokens: 25, sampling: { maxTokens: 20 } });
  expect(budgeted.ended).toBe("tokens");
  expect(talker.requests.map(({ sampling }) => sampling?.maxTokens)).toEqual([20, 15, 5]);

  const cut = new ScriptedModel([{ text: "I will", finish: "length" }]);
  const row = await run(cut, { sampling: { maxTokens: 2 } });
  expect(row).toMatchObject({ ended: "length", reward: { total: 0 } });
  expect(row.messages.at(-1)).toMatchObject({ role: "assistant", content: "I will" });
});

test("every message has its own seed, the same for the same episode", async () => {
  const seeds = async (episode: number) => {
    const model = new ScriptedModel(() => ({ calls: [{ name: "read", arguments: { account: "anna" } }] }));
    await runEpisode(model, new WorldEnvironment(world), episode, { maxSteps: 3, sampling: { seed: 7 } });
    return model.requests.map(({ sampling }) => sampling?.seed);
  };
  const [first, again, other] = [await seeds(1), await seeds(1), await seeds(2)];
  expect(first).toEqual(again);
  expect(new Set([...first, ...other]).size).toBe(6);
});

test("many episodes keep their order; an error ends all and is thrown; an environment plays once at a time", async () => {
  const model = new ScriptedModel(() => ({ text: "Refused." }));
  const tasks = Array.from({ length: 10 }, (_, seed) => ({ env: new WorldEnvironment(world), seed }));
  let [running, most] = [0, 0];
  const rows = await runEpisodes(model, tasks, {
    concurrency: 3,
    onEvent: ({ type }) => {
      running += type === "begin" ? 1 : type === "end" ? -1 : 0;
      most = Math.max(most, running);
    },
  });
  expect(rows.map(({ task }) => task?.seed)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(most).toBe(3);

  const failing = new ScriptedModel((_: ChatRequest, i) =>
    i === 4 ? { error: new Error("broken") } : { text: "Done." },
  );
  await expect(runEpisodes(failing, tasks, { concurrency: 2 })).rejects.toThrow("broken");
  expect(failing.requests.length).toBeLessThan(8);
  await expect(runEpisodes(model, [tasks[0]!, tasks[0]!])).rejects.toMatchObject({ code: "agent.environment" });
});

test.each(["instruct-v2", "thinking"] as const)(
  "%s: ids are kept as the engine sampled them, with the log-probabilities that a forward pass gives",
  async (template) => {
    const tokenizer = byteTokenizer();
    const model = tinyModel(tokenizer);
    using engine = openEngine({ model, tokenizer, cacheBytes: 16 << 20 });
    // Held to calls, a random model has episodes of several turns.
    const request = { toolChoice: "required" } as const;
    const player = engineModel(engine, { template });
    const tasks = Array.from({ length: 6 }, (_, seed) => ({ env: new WorldEnvironment(world), seed }));
    const sampling = { temperature: 1, maxTokens: 160, seed: 5 };
    const rows = await runEpisodes(player, tasks, {
      tokenizer,
      template,
      sampling,
      request,
      maxSteps: 4,
      concurrency: 4,
    });
    const end = tokenizer.idOf(controls.end);
    expect(rows.some(({ messages }) => messages.length > 3)).toBe(true);
    for (const row of rows) {
      const { ids, sources, logprobs, turns } = row.tokens!;
      expect(turns).toHaveLength(row.messages.filter(({ role }) => role === "assistant").length);
      // What others said is rendered; together with what the model wrote nothing is missing, nothing is twice.
      const first = render({
        template,
        messages: row.messages.slice(0, 2),
        tools: row.tools,
        addGenerationPrompt: true,
      });
      const prompt = encodeSegments(first, tokenizer).ids;
      expect(ids.slice(0, prompt.length)).toEqual(prompt);
      for (const { message, start, end: stop, finish, weights } of turns) {
        expect(weights).toBe(0);
        expect(sources.slice(start, stop).every((source) => source === "assistant")).toBe(true);
        if (finish !== "length") expect(ids[stop - 1]).toBe(end);
        const parser = new ChatParser({ tokenizer, tools: ["read", "transfer"] });
        // The engine may open the think block of an enforced answer itself.
        const opened = ids[start - 1] === tokenizer.special.get(controls.think) ? [ids[start - 1]!] : [];
        const events = [...parser.push([...opened, ...ids.slice(start, stop)]), ...parser.end()];
        const said = events.flatMap((event) => (event.type === "text" ? event.text : [])).join("");
        expect(row.messages[message]).toMatchObject({ role: "assistant", content: said });
      }
      expect(logprobs!.map((logprob) => logprob !== null)).toEqual(sources.map((source) => source === "assistant"));

      using _ = torch.scope();
      using __ = torch.noGrad();
      const ids_BT = torch.tensor(BigInt64Array.from(ids, BigInt), { shape: [1, ids.length] });
      const logp_TC = model.logits(model.forward(ids_BT)).log_softmax(-1).select(0, 0);
      const table = logp_TC.toTypedArray() as Float32Array;
      for (const [i, logprob] of logprobs!.entries()) {
        if (logprob === null) continue;
        const expected = table[(i - 1) * tokenizer.vocabSize + ids[i]!]!;
        // The bar of issue 5: both in float32, sums in another order.
        expect(Math.abs(logprob - expected)).toBeLessThanOrEqual(1e-5);
      }
    }
    model.dispose();
  },
);

test("a model that reads other ids than the agent's is an error; one that tells none has no tokens in its record", async () => {
  const tokenizer = byteTokenizer();
  const liar: LanguageModel = {
    name: "liar",
    async *stream({ promptIds }) {
      yield { type: "start", promptIds: promptIds!.map((id, i) => (i === 9 ? id + 1 : id)) };
      yield { type: "tokens", tokens: [{ id: 65 }] };
      yield { type: "finish", reason: "stop" };
    },
  };
  const options = { tokenizer, template: "instruct-v2" } as const;
  const error = await runEpisode(liar, new WorldEnvironment(world), 1, options).catch((e: unknown) => e);
  expect(error).toMatchObject({ code: "agent.prompt" });
  expect(String(error)).toContain("at place 9");
  const silent = await runEpisode(new ScriptedModel([{ text: "Done." }]), new WorldEnvironment(world), 1, options);
  expect(silent.tokens).toBeUndefined();
  await expect(runEpisode(liar, new WorldEnvironment(world), 1, { tokenizer })).rejects.toMatchObject({
    code: "agent.options",
  });
});
