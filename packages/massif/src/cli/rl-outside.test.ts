import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Progress } from "../common/index.ts";
import { openEngine } from "../engine/index.ts";
import { loadModel, type Model } from "../model/index.ts";
import { gym, RlRecipe } from "../rl/index.ts";
import { emptyModel } from "../rl/testing.ts";
import { engineBackend, type Listening, listen, Service } from "../server/index.ts";
import { loadTokenizer } from "../tokenizer/index.ts";

/** Our own server as the engine outside: another model of the same shape, whose weights come over HTTP alone. */
let empty: Awaited<ReturnType<typeof emptyModel>>;
let root: string;
let model: Model;
let engine: ReturnType<typeof openEngine>;
let server: Listening;
beforeAll(async () => {
  empty = await emptyModel();
  root = mkdtempSync(join(tmpdir(), "massif-outside-"));
  model = loadModel(empty.folder, { dtype: "float32" });
  engine = openEngine({ model, tokenizer: await loadTokenizer(empty.folder), cacheBytes: 1 << 24 });
  const service = new Service();
  service.add(await engineBackend(engine, { names: ["policy"], template: "instruct-v2", pace: 0 }));
  server = await listen({ service, weightsRoot: root, grace: 500 });
});
afterAll(async () => {
  await server.close();
  engine[Symbol.dispose]();
  model.dispose();
  empty.remove();
  rmSync(root, { recursive: true, force: true });
});

const run = (name: string, more: object = {}) => {
  const recipe = RlRecipe.parse({
    model: empty.folder,
    worlds: [{ world: "style-rubric", maxTokens: 48 }],
    ...{ steps: 2, groups: 8, groupSize: 8, length: { weight: 1, warmup: 0 }, optimizer: { learningRate: 0.02 } },
    ...{ trust: { bound: 20 }, batch: { rows: 4, seqLen: 256 }, evaluation: { episodes: 2, lastEpisodes: 2 } },
    rollouts: { url: server.url },
    ...more,
  });
  const dir = join(root, name);
  mkdirSync(dir, { recursive: true });
  return { dir, done: gym(recipe, { base: "/", dir, progress: new Progress({ silent: true }) }) };
};

test("rollouts over HTTP are learned: ids, log-probabilities and versions are the trainer's", async () => {
  const { dir, done } = run("run");
  await done;
  const rows = readFileSync(join(dir, "metrics.jsonl"), "utf8").trim().split("\n").slice(1);
  const steps = rows.map((row) => JSON.parse(row) as Record<string, number>);
  expect(steps.map(({ step }) => step)).toEqual([1, 2]);
  for (const { mismatch, updates } of steps) {
    expect(updates).toBe(2);
    // Weights of an iteration ago would be off by orders of magnitude: rates here are large.
    expect(mismatch).toBeLessThan(1e-5);
  }
  // Both steps and the last weights: what the server has is what the trainer ended with.
  expect(readdirSync(join(dir, "weights")).sort()).toEqual(["step-1", "step-2"]);
  const state = await (await fetch(`${server.url}/weight_version`)).json();
  expect(state).toMatchObject({ weight_version: "step-2" });
  const played = readFileSync(join(dir, "rollouts/step-2.jsonl"), "utf8").trim().split("\n");
  for (const row of played) {
    const { tokens } = JSON.parse(row) as { tokens: { turns: { weights: string }[]; logprobs: number[] } };
    for (const { weights } of tokens.turns) expect(weights).toBe("step-2");
  }
  const trained = loadModel(join(dir, "checkpoints", readdirSync(join(dir, "checkpoints")).at(-1)!), {
    dtype: "float32",
  });
  for (const [name, tensor] of trained.parameters) expect(model.parameter(name).toArray()).toEqual(tensor.toArray());
  trained.dispose();
});

test("somebody else's weights in the engine end the run: their answers are not learned", async () => {
  const other = await emptyModel();
  const theirs = join(root, "theirs");
  cpSync(other.folder, theirs, { recursive: true });
  other.remove();
  const { done } = run("disturbed");
  let ended = false;
  const over = done.finally(() => {
    ended = true;
  });
  over.catch(() => {});
  // Again and again: whenever an iteration begins, these are the weights that answer.
  while (!ended) {
    const body = JSON.stringify({ model_path: theirs, weight_version: "theirs" });
    const headers = { "content-type": "application/json" };
    await fetch(`${server.url}/update_weights_from_disk`, { method: "POST", headers, body });
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await expect(over).rejects.toMatchObject({
    code: "rl.version",
    message: expect.stringContaining("theirs"),
  });
});

test("an engine that takes no weights, or is not there, is named with what to do", async () => {
  const outside = mkdtempSync(join(tmpdir(), "massif-elsewhere-"));
  const recipe = RlRecipe.parse({
    model: empty.folder,
    worlds: [{ world: "style-rubric", maxTokens: 8 }],
    steps: 1,
    rollouts: { url: server.url },
  });
  const at = { base: "/", dir: join(outside, "run"), progress: new Progress({ silent: true }) };
  // Its folder is not under the server's root.
  await expect(gym(recipe, at)).rejects.toMatchObject({
    code: "rl.sync",
    message: expect.stringContaining("--weights-root"),
  });
  expect(existsSync(join(outside, "run/checkpoints/step-1"))).toBe(false);
  const away = RlRecipe.parse({ ...recipe, rollouts: { url: "http://127.0.0.1:9" } });
  const elsewhere = { ...at, dir: join(outside, "away") };
  await expect(gym(away, elsewhere)).rejects.toMatchObject({
    code: "rl.sync",
    message: expect.stringContaining("no answer"),
  });
  rmSync(outside, { recursive: true, force: true });
});
