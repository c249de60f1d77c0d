/** The gateway before an upstream against the upstream itself: throughput, and what each chunk takes longer.
 *
 *    node bench/gateway.ts [--streams 64] [--chunks 200] [--pauses 20,0] [--rounds 9] [--json FILE]
 *
 *  The upstream is our own server over a model that says a chunk every `pause` milliseconds, 0 as fast as it can. Upstream,
 *  gateway and client are a process each: on two cores the last case shares them out, and tells CPU time more than speed.
 *  “ours” is through the gateway, “peer” direct. A chunk's latency is from its saying to its arrival at the client. */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { alternate, begin, introduce, median, quantile } from "./harness.ts";
import { type Answers, Client } from "./serve-parts.ts";

const { own, ...settings } = await begin({
  streams: { type: "string", default: "64" },
  chunks: { type: "string", default: "200" },
  pauses: { type: "string", default: "20,0" },
});
const [streams, chunks] = [Number(own.streams), Number(own.chunks)];

async function start(...args: string[]): Promise<{ url: string; child: ChildProcess }> {
  const script = join(import.meta.dirname, "gateway-server.ts");
  const child = spawn(process.execPath, [script, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  for await (const url of createInterface(child.stdout)) return { url, child };
  throw new Error(`${args[0]} ended`);
}
const upstream = await start("upstream");
const gateway = await start("gateway", upstream.url);
using client = new Client();

introduce(settings);
for (const pause of own.pauses.split(",").map(Number)) {
  const body = { model: "m", messages: [{ role: "user", content: `${chunks}/${pause}` }], stream: true };
  const bodies = Array.from({ length: streams }, () => body);
  const late: Record<"gateway" | "direct", number[]> = { gateway: [], direct: [] };
  const ask = async (side: "gateway" | "direct", url: string): Promise<number[]> => {
    const told: Answers = await client.ask(`${url}/v1/chat/completions`, bodies);
    if (told.late.length !== streams * chunks) throw new Error(`${told.late.length} chunks came`);
    late[side].push(median(told.late));
    return [told.seconds];
  };
  await alternate(settings, {
    name: `gateway, ${streams} streams, ${pause ? `${1000 / pause} chunks/s each` : "as fast as it can"}`,
    peer: client,
    pids: [upstream.child.pid!, gateway.child.pid!],
    amount: streams * chunks,
    unit: "chunks/s",
    ours: () => ask("gateway", gateway.url),
    theirs: () => ask("direct", upstream.url),
    more: () => ({ late }),
  });
  // The first of each is the warm-up.
  const added = late.gateway.slice(1).map((ms, i) => ms - late.direct[i + 1]!);
  const [low, mid, high] = [0.25, 0.5, 0.75].map((q) => quantile(added, q).toFixed(2));
  console.log(`added latency of a chunk: ${mid} ms (${low}–${high}); direct ${median(late.direct).toFixed(2)} ms`);
}
for (const { child } of [gateway, upstream]) child.stdin!.end();
