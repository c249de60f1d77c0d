/** The server's throughput against the engine's without HTTP: the same engine, prompts and ids, all answers at once.
 *
 *    node bench/serve.ts [--preset small|base] [--streams 1,16,64] [--new 512] [--path chat|completions] [--rounds 9]
 *      [--threads 2] [--json FILE] [--profile]
 *
 *  The engine's side reads the text of every answer in this process. The other asks for the same over HTTP, streamed, from
 *  a client in a process of its own, which competes for the cores: on two of them `--threads 1` leaves it one. Its CPU time
 *  is told apart. The texts must be the same. “ours” is the server, “peer” the engine. */
import { controls, encodeSegments, render } from "../packages/massif/src/chat/index.ts";
import { Random } from "../packages/massif/src/common/index.ts";
import { openEngine } from "../packages/massif/src/engine/index.ts";
import { engineBackend, listen, Service } from "../packages/massif/src/server/index.ts";
import { alternate, begin, introduce, median } from "./harness.ts";
import { Client, served, words } from "./serve-parts.ts";

const { own, ...settings } = await begin({
  preset: { type: "string", default: "small" },
  streams: { type: "string", default: "1,16,64" },
  new: { type: "string", default: "512" },
  path: { type: "string", default: "chat" },
});
const fresh = Number(own.new);
const { model, tokenizer } = served(own.preset);
const random = new Random(3);
using engine = openEngine({ model, tokenizer, maxRunning: 64, cacheBytes: 256 << 20 });
const service = new Service();
service.add(await engineBackend(engine, { names: ["m"], template: "instruct-v2" }));
await using server = await listen({ service });
using client = new Client();

introduce(settings);
for (const streams of own.streams.split(",").map(Number)) {
  /** Another text each round, so that no prefix is found. */
  const next = () =>
    Array.from({ length: streams }, () => {
      const content = words(tokenizer, 48, (n) => random.int(n));
      const messages = [{ role: "user" as const, content }];
      const segments = render({ template: "instruct-v2", messages, addGenerationPrompt: true });
      return { messages, ids: encodeSegments(segments, tokenizer).ids };
    });
  const stopIds = [tokenizer.idOf(controls.end)];
  const bare = (prompts: ReturnType<typeof next>) =>
    Promise.all(
      prompts.map(async ({ ids }) => {
        let said = "";
        const salt = "bare";
        for await (const { text } of engine.generate({ prompt: ids, maxTokens: fresh, temperature: 0, stopIds, salt }))
          said += text;
        return said;
      }),
    );
  const url = `${server.url}/v1/${own.path === "chat" ? "chat/completions" : "completions"}`;
  const ask = ({ messages, ids }: ReturnType<typeof next>[number]) => ({
    ...{ model: "m", max_tokens: fresh, temperature: 0, stream: true },
    ...(own.path === "chat" ? { messages } : { prompt: ids }),
  });
  let prompts = next();
  let expected: string[] = [];
  const cpu: Record<"server" | "engine" | "client", number[]> = { server: [], engine: [], client: [] };
  const events: number[] = [];
  const timed = async <T>(side: "server" | "engine", work: () => Promise<T>): Promise<T> => {
    const before = process.cpuUsage();
    const result = await work();
    const { user, system } = process.cpuUsage(before);
    cpu[side].push((user + system) / 1e6);
    return result;
  };
  const same = (texts: string[]) => {
    if (expected.length && JSON.stringify(texts) !== JSON.stringify(expected)) throw new Error("the texts differ");
    [expected, prompts] = expected.length ? [[], next()] : [texts, prompts];
  };
  await alternate(settings, {
    name: `server ${own.preset}, ${own.path}, ${streams} streams`,
    peer: client,
    amount: streams * fresh,
    unit: "tokens/s",
    ours: async () => {
      const told = await timed("server", () => client.ask(url, prompts.map(ask)));
      cpu.client.push(told.cpu);
      events.push(told.events);
      same(told.texts);
      return [told.seconds];
    },
    theirs: async () => {
      const began = performance.now();
      const texts = await timed("engine", () => bare(prompts));
      const seconds = (performance.now() - began) / 1e3;
      same(texts);
      return [seconds];
    },
    more: () => ({ cpu, events: median(events) }),
  });
  const micro = (seconds: number[]) => ((1e6 * median(seconds)) / (streams * fresh)).toFixed(1);
  console.log(
    `CPU µs a token: server ${micro(cpu.server)}, engine ${micro(cpu.engine)}, client ${micro(cpu.client)}; ${median(events)} events`,
  );
}
model.dispose();
