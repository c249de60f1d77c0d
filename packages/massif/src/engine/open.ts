/** Opening an engine: how it computes, and as much cache as memory allows. */
import { torch } from "@massif/torch";
import { MassifError, Random } from "../common/index.ts";
import { cacheType } from "../model/index.ts";
import { bytesPerPosition } from "./cache.ts";
import { Engine, type EngineOptions } from "./engine.ts";
import { openRuntime, type RuntimeOptions } from "./runtime.ts";

export interface OpenOptions extends RuntimeOptions, Partial<Omit<EngineOptions, "cacheBlocks">> {
  /** Memory for the cache. Default: a quarter of what the machine has free, and no more than `maxRunning` sequences of full
   *  length need. */
  cacheBytes?: number;
}

/** Throws `checkpoint.*`, `model.config`, `engine.exact`, `engine.weights`, `engine.int4`, and `engine.memory` where not one
 *  block fits. */
export function openEngine({ cacheBytes, ...given }: OpenOptions): Engine {
  const options = {
    blockSize: 16,
    tokenBudget: 512,
    maxRunning: 64,
    maxWaiting: 1024,
    random: new Random("engine"),
    now: () => performance.now(),
    ...given,
  };
  using stack = new DisposableStack();
  const runtime = stack.use(openRuntime(given));
  const { model } = runtime;
  const itemSize = torch.tidy(() => torch.empty([1], { dtype: cacheType(model) }).nbytes);
  const perBlock = bytesPerPosition(model.config, itemSize) * options.blockSize;
  const most = options.maxRunning * Math.ceil(model.config.maxPositionEmbeddings / options.blockSize);
  const memory = cacheBytes ?? process.availableMemory() / 4;
  const cacheBlocks = Math.min(most, Math.floor(memory / perBlock));
  if (cacheBlocks < 1)
    throw new MassifError("engine.memory", {
      found: `${memory} bytes for the cache`,
      expected: `at least the ${perBlock} of one block of ${options.blockSize} positions`,
    });
  const engine = new Engine(runtime, { ...options, cacheBlocks });
  stack.move();
  return engine;
}
