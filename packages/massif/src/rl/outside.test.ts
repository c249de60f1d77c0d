import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Progress } from "../common/index.ts";
import { gym } from "./gym.ts";
import { RlRecipe } from "./recipe.ts";
import { emptyModel } from "./testing.ts";
import { startVllm } from "./testing-vllm.ts";

/** Our own server as the engine outside is tested in cli/rl-outside.test.ts; here vLLM, and engines that must be refused. */
let empty: Awaited<ReturnType<typeof emptyModel>>;
let root: string;
beforeAll(async () => {
  // As wide as vLLM's CPU attention has heads.
  empty = await emptyModel({ qkNopeHeadDim: 24 });
  root = mkdtempSync(join(tmpdir(), "massif-outside-"));
});
afterAll(() => {
  empty.remove();
  rmSync(root, { recursive: true, force: true });
});

const run = async (name: string, url: string, more: object = {}) => {
  const recipe = RlRecipe.parse({
    model: empty.folder,
    worlds: [{ world: "style-rubric", maxTokens: 24 }],
    ...{ steps: 2, groups: 4, groupSize: 4, length: { weight: 1, warmup: 0 }, optimizer: { learningRate: 0.02 } },
    ...{ trust: { bound: 20 }, batch: { rows: 4, seqLen: 256 }, evaluation: { episodes: 2, lastEpisodes: 2 } },
    ...{ rollouts: { url, ...more } },
  });
  const dir = join(root, name);
  await gym(recipe, { base: "/", dir, progress: new Progress({ silent: true }) });
  return dir;
};

interface Said {
  ids: number[];
  logprobs?: number[];
  /** Tokens of the prompt, as its usage counts them. */
  read?: number;
}

/** An engine with vLLM's routes, or with SGLang's one, and answers of our making. */
async function engine(
  say: (prompt: readonly number[]) => Said,
  { version, disk = false }: { version?: string; disk?: boolean } = {},
) {
  let now = "default";
  const asked: string[] = [];
  const routes: Record<string, (body: Record<string, unknown>, response: ServerResponse) => object | undefined> = {
    ...(disk && { "/update_weights_from_disk": () => ({ success: true }) }),
    "/v1/models": () => ({ data: [{ id: "policy" }] }),
    "/pause": () => ({}),
    "/collective_rpc": () => ({ results: [null] }),
    "/resume": () => ({}),
    "/weight_info": () => ({ weight_version: version ?? now }),
    "/update_weight_version": ({ new_version }) => {
      now = String(new_version);
      return {};
    },
    "/v1/completions": ({ prompt }, response) => {
      const { ids, logprobs, read } = say(prompt as number[]);
      const tokens = ids.map((id) => `token_id:${id}`);
      const chunk = {
        choices: [
          {
            ...{ index: 0, text: "", token_ids: ids, finish_reason: "stop" },
            ...(logprobs && { logprobs: { tokens, token_logprobs: logprobs } }),
          },
        ],
      };
      const usage = { prompt_tokens: read ?? (prompt as number[]).length, completion_tokens: ids.length };
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.end(
        `data: ${JSON.stringify(chunk)}\n\ndata: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`,
      );
      return undefined;
    },
  };
  const server = createServer(async (request: IncomingMessage, response) => {
    const path = new URL(request.url!, "http://x").pathname;
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    asked.push(path);
    const route = routes[path];
    if (!route) return response.writeHead(404).end("{}");
    const answer = route(JSON.parse(Buffer.concat(pieces).toString() || "{}"), response);
    if (answer) response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer));
    return response;
  });
  await new Promise<void>((up) => server.listen(0, "127.0.0.1", up));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { url, asked, [Symbol.dispose]: () => void server.close() };
}

test("tokens without log-probabilities, or another prompt than was sent, teach nothing", async () => {
  using mute = await engine(() => ({ ids: [65, 66] }));
  await expect(run("mute", mute.url)).rejects.toMatchObject({
    code: "rl.tokens",
    message: expect.stringContaining("no ids or no log-probabilities"),
  });
  using deaf = await engine(() => ({ ids: [65], logprobs: [-1], read: 3 }));
  await expect(run("deaf", deaf.url)).rejects.toMatchObject({
    code: "rl.tokens",
    message: expect.stringMatching(/read 3 tokens of a prompt of \d+/),
  });
});

test("answers that name no version of their weights teach nothing", async () => {
  // Of two lengths, so that there is something to learn.
  let asked = 0;
  const say = () => (asked++ % 2 ? { ids: [65], logprobs: [-1] } : { ids: [65, 66, 67], logprobs: [-1, -1, -1] });
  using nameless = await engine(say, { disk: true });
  await expect(run("nameless", nameless.url)).rejects.toMatchObject({
    code: "rl.version",
    message: expect.stringContaining("without a version"),
  });
});

test("an engine that somebody else updated meanwhile ends the run before anything is learned", async () => {
  using other = await engine(() => ({ ids: [65], logprobs: [-1] }), { version: "theirs" });
  await expect(run("theirs", other.url)).rejects.toMatchObject({
    code: "rl.version",
    message: expect.stringContaining("theirs"),
  });
  // In this order, and once: a pause that stands at the end would hold everybody.
  expect(other.asked.filter((path) => !path.startsWith("/v1/"))).toEqual([
    ...["/update_weights_from_disk", "/pause", "/collective_rpc", "/update_weight_version", "/resume"],
    "/weight_info",
  ]);
});

describe.skipIf(!process.env.MASSIF_VLLM_PYTHON)("vLLM (MASSIF_VLLM_PYTHON)", { timeout: 120_000 }, () => {
  const python = process.env.MASSIF_VLLM_PYTHON!;

  test("rollouts are learned and new weights taken; log-probabilities are the trainer's", async () => {
    const other = await emptyModel({ qkNopeHeadDim: 24, seed: 6 });
    await using vllm = await startVllm(python, other.folder);
    other.remove();
    const dir = await run("vllm", vllm.url);
    const rows = readFileSync(join(dir, "metrics.jsonl"), "utf8").trim().split("\n").slice(1);
    const steps = rows.map((row) => JSON.parse(row) as Record<string, number>);
    expect(steps.map(({ step }) => step)).toEqual([1, 2]);
    // Other weights, those it was started with or those of the step before, are off by orders of magnitude.
    for (const { mismatch } of steps) expect(mismatch).toBeLessThan(1e-5);
    expect(readdirSync(join(dir, "weights")).sort()).toEqual(["step-1", "step-2"]);
    const told = await (await fetch(`${vllm.url}/weight_info`)).json();
    expect(told).toEqual({ weight_version: "step-2" });
  });

  test("started without its routes for development it is refused", async () => {
    await using vllm = await startVllm(python, empty.folder, { dev: false });
    await expect(run("closed", vllm.url)).rejects.toMatchObject({
      code: "rl.sync",
      message: expect.stringContaining("VLLM_SERVER_DEV_MODE=1"),
    });
  });
});
