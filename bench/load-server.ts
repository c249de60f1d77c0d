/** The process under load.ts: our server over our engine, random weights. Tells its address, and on "state" how it is. */
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { engineBackend, listen, Service } from "../packages/massif/src/server/index.ts";
import { torch } from "../packages/torch/src/index.ts";
import { served } from "./serve-parts.ts";

/** What must come back to nothing, and what must not grow. */
export interface State {
  /** MiB. */
  rss: number;
  heap: number;
  slots: number;
  queued: number;
  running: number;
  waiting: number;
  blocksHeld: number;
  generated: number;
  tensors: number;
}

const [name, maxRunning] = process.argv.slice(2) as [string, string];
const { model, tokenizer } = served(name);
const engine = openEngine({ model, tokenizer, maxRunning: Number(maxRunning), cacheBytes: 48 << 20 });
const service = new Service({ running: Number(maxRunning) });
service.add(await engineBackend(engine, { names: ["m"], template: "instruct-v2" }));
const server = await listen({ service });
process.on("message", () => {
  const { rss, heapUsed } = process.memoryUsage();
  const { running, waiting, blocks, generatedTokens } = engine.metrics();
  const state: State = {
    ...{ rss: rss / 2 ** 20, heap: heapUsed / 2 ** 20, slots: service.slots.held, queued: service.slots.queued },
    ...{ running, waiting, blocksHeld: blocks.held, generated: generatedTokens, tensors: torch.memory().tensors },
  };
  process.send!(state);
});
process.on("disconnect", () => process.exit(0));
process.send!(server.url);
