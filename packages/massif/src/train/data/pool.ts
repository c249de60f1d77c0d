import { Worker } from "node:worker_threads";
import { MassifError } from "../../common/index.ts";
import type { Encoded, EncoderFacts, FromWorker } from "./encode.worker.ts";

/** Worker threads that tokenize, each with the tokenizer loaded from its folder. */
export class EncoderPool {
  readonly #workers: { worker: Worker; waiting: PromiseWithResolvers<Encoded>[] }[] = [];
  #failed: unknown;
  /** Of the tokenizer. */
  facts!: EncoderFacts;

  private constructor() {}

  /** Starts `size` workers. @throws what loading the tokenizer throws */
  static async start(folder: string, size: number): Promise<EncoderPool> {
    const pool = new EncoderPool();
    try {
      const [facts] = await Promise.all(Array.from({ length: size }, () => pool.#add(folder)));
      pool.facts = facts!;
      return pool;
    } catch (error) {
      await pool.close();
      throw error;
    }
  }

  /** Tokenizes texts on the worker with the least to do. */
  encode(texts: string[]): Promise<Encoded> {
    const result = Promise.withResolvers<Encoded>();
    if (this.#failed) result.reject(this.#failed);
    else {
      const least = this.#workers.reduce((a, b) => (b.waiting.length < a.waiting.length ? b : a));
      least.waiting.push(result);
      least.worker.postMessage(texts);
    }
    return result.promise;
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map(({ worker }) => worker.terminate()));
  }

  #add(folder: string): Promise<EncoderFacts> {
    const ready = Promise.withResolvers<EncoderFacts>();
    // Without the command line's own flags: `node --eval …` would be inherited, and means another thing here.
    const worker = new Worker(new URL("./encode.worker.ts", import.meta.url), { workerData: { folder }, execArgv: [] });
    const waiting: PromiseWithResolvers<Encoded>[] = [];
    this.#workers.push({ worker, waiting });
    const fail = (error: unknown) => {
      this.#failed ??= error;
      ready.reject(error);
      for (const { waiting } of this.#workers) for (const result of waiting.splice(0)) result.reject(error);
    };
    worker.on("message", (message: FromWorker) => {
      if ("trouble" in message) fail(new MassifError(message.code, message.trouble));
      else if ("tokenBytes" in message) ready.resolve(message);
      // A worker answers in the order it was asked.
      else waiting.shift()?.resolve(message);
    });
    worker.on("error", fail);
    worker.on("exit", (code) => {
      fail(new MassifError("data.worker", { found: `a tokenizing thread ended with code ${code}` }));
    });
    return ready.promise;
  }
}
