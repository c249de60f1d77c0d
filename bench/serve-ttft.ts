/** Time to the first token of a prompt of 1,000 tokens: 90 % of it in the cache, against none.
 *
 *    node bench/serve-ttft.ts [--preset small|base] [--prompt 1000] [--cached 0.9] [--repeat 8] [--rounds 9] [--threads 2]
 *      [--json FILE]
 *
 *  Over the engine, and over HTTP (`/v1/completions`, streamed, from a client in a process of its own). “ours” is cached,
 *  “peer” uncached: both ask the same engine for one token, one request after the other, median of a round's. */
import { Random } from "../packages/massif/src/common/index.ts";
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { engineBackend, listen, Service } from "../packages/massif/src/server/index.ts";
import { alternate, begin, introduce } from "./harness.ts";
import { Client, served } from "./serve-parts.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  prompt: { type: "string", default: "1000" },
  cached: { type: "string", default: "0.9" },
  repeat: { type: "string", default: "8" },
});
const [length, share, repeat] = [Number(own.prompt), Number(own.cached), Number(own.repeat)];
const { model, tokenizer } = served(own.preset);
const random = new Random(5);
using engine = openEngine({ model, tokenizer, cacheBytes: 256 << 20 });
const service = new Service();
service.add(await engineBackend(engine, { names: ["m"], template: "instruct-v2" }));
await using server = await listen({ service });
using client = new Client();

const fresh = (n: number) => Array.from({ length: n }, () => random.int(tokenizer.vocabulary.size));
const beginning = fresh(Math.round(length * share));
/** Milliseconds to the first token, and tokens found. */
type Ask = (prompt: number[]) => Promise<number>;
const ways: Record<string, Ask> = {
  engine: async (prompt) => {
    const began = performance.now();
    for await (const _ of engine.generate({ prompt, maxTokens: 1, temperature: 0 })) return performance.now() - began;
    throw new Error("no token");
  },
  HTTP: async (prompt) => {
    const body = { model: "m", prompt, max_tokens: 1, temperature: 0, stream: true, ignore_eos: true };
    const { first } = await client.ask(`${server.url}/v1/completions`, [body]);
    return first[0]!;
  },
};
const found = () => engine.metrics().cachedTokens;

introduce(settings);
for (const [way, ask] of Object.entries(ways)) {
  const side = (prompt: () => number[], cached: boolean) => async () => {
    const seconds: number[] = [];
    for (let i = 0; i < repeat; i++) {
      const before = found();
      seconds.push((await ask(prompt())) / 1e3);
      const tokens = found() - before;
      const [least, most] = cached ? [beginning.length - 16, beginning.length] : [0, 0];
      if (tokens < least || tokens > most) throw new Error(`${tokens} tokens were found, not ${least} to ${most}`);
    }
    return seconds;
  };
  await ask([...beginning, ...fresh(length - beginning.length)]);
  await alternate(settings, {
    name: `first token ${own.preset}, ${way}: ${100 * share} % of ${length} cached against none`,
    peer: client,
    amount: 1,
    unit: "first tokens/s",
    ours: side(() => [...beginning, ...fresh(length - beginning.length)], true),
    theirs: side(() => fresh(length), false),
  });
}
model.dispose();
