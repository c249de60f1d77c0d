/** A process of gateway.ts: an upstream over a paced model, or a gateway before one.
 *
 *    node bench/gateway-server.ts upstream | gateway URL
 *
 *  Writes its address on standard output; ends with its standard input. The model says `chunks` pieces a stream, one every
 *  `pause` milliseconds (0: as fast as it can), both from the last message, "CHUNKS/PAUSE". Each piece begins with the
 *  time at which it was said, `@NANOSECONDS;`, on the clock that all processes of a machine share. */
import { textOf } from "../packages/massif/src/chat/index.ts";
import type { ChatRequest, LanguageModel, ModelEvent } from "../packages/massif/src/llm/index.ts";
import { listen, openGateway, Service } from "../packages/massif/src/server/index.ts";

const model: LanguageModel = {
  name: "paced",
  async *stream({ messages, signal }: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const [chunks, pause] = textOf(messages.at(-1)!.content).split("/").map(Number) as [number, number];
    const began = performance.now();
    yield { type: "start", model: "paced" };
    for (let i = 0; i < chunks && !signal?.aborted; i++) {
      const wait = began + i * pause - performance.now();
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
      // A model takes its time: the loop of events has its turn between two pieces.
      else await new Promise((resolve) => setImmediate(resolve));
      yield { type: "text", text: `@${process.hrtime.bigint()};word ` };
    }
    yield { type: "usage", usage: { promptTokens: 1, completionTokens: chunks } };
    yield { type: "finish", reason: "stop" };
  },
};

const [role, url] = process.argv.slice(2) as [string, string | undefined];
const service = new Service();
if (role === "upstream") service.add({ names: ["m"], model });
else service.add((await openGateway({ urls: [`${url}/v1`], names: ["m"], metrics: service.metrics })).backend);
const server = await listen({ service });
console.log(server.url);
process.stdin.resume().on("end", () => process.exit(0));
