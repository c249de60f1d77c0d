/** llama.cpp's server in a process of its own, for tests. */
import { type ChildProcess, spawn } from "node:child_process";
import { resolve } from "node:path";
import { createInterface } from "node:readline";

/** The Python that has it; undefined where those tests are to be skipped. */
export const python = process.env.MASSIF_LLAMA_PYTHON;
const script = resolve(import.meta.dirname, "../../../../../deploy/local/llama_cpp.py");
/** Milliseconds that anything asked of it may take. */
export const PATIENCE = 30_000;

export interface LlamaServer extends AsyncDisposable {
  url: string;
  process: ChildProcess;
  /** Requests that hold a slot. */
  busy(): Promise<number>;
}

export async function startLlama(port = 0): Promise<LlamaServer> {
  const child = spawn(python!, [
    script,
    ...["--port", `${port}`, "--threads", "1", "--slots", "2", "--context", "4096"],
  ]);
  child.stderr.resume();
  const gone = new Promise<void>((done) => child.once("exit", () => done()));
  const url = await new Promise<string>((ready, fail) => {
    createInterface(child.stdout).on("line", (line) => {
      const at = /listening at (\S+)\/v1$/.exec(line)?.[1];
      if (at) ready(at);
    });
    void gone.then(() => fail(new Error("llama.cpp ended before it listened")));
  });
  return {
    url,
    process: child,
    async busy() {
      const response = await fetch(`${url}/slots`, { signal: AbortSignal.timeout(PATIENCE) });
      return ((await response.json()) as { is_processing: boolean }[]).filter((slot) => slot.is_processing).length;
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      const late = setTimeout(() => child.kill("SIGKILL"), 3000);
      await gone;
      clearTimeout(late);
    },
  };
}
