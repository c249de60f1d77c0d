/** The server under load: many connections at once, clients that leave, slow readers, wrong requests. Fails (exit code 1)
 *  on any 5xx, on an answer that is not whole, and where slots, blocks, tensors or memory do not come back.
 *
 *    node bench/load.ts [--minutes 10] [--connections 256] [--storm 20] [--preset small|base] [--threads 1] [--json FILE]
 *
 *  Each connection asks one request after the other: streams and whole answers in OpenAI's and Anthropic's dialects, calls
 *  that a schema holds, slow readers of large answers, wrong requests. Every `--storm` seconds half of those under way are
 *  cut. The server is a process of its own. Memory is judged by the slope of its resident set after the first half, of which
 *  1 % a minute may be noise; a run of less than five minutes is all warm-up, and is not judged. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { appendFileSync } from "node:fs";
import { Agent, type ClientRequest, type IncomingMessage, request } from "node:http";
import { join } from "node:path";
import { Random } from "../packages/massif/src/common/index.ts";
import { begin, machine, quantile } from "./harness.ts";
import type { State } from "./load-server.ts";

const { own, ...settings } = await begin({
  minutes: { type: "string", default: "10" },
  connections: { type: "string", default: "256" },
  storm: { type: "string", default: "20" },
  preset: { type: "string", default: "small" },
});
const [seconds, connections, storm] = [60 * Number(own.minutes), Number(own.connections), Number(own.storm)];

const server: ChildProcess = fork(join(import.meta.dirname, "load-server.ts"), [own.preset, "64"]);
const [url] = (await once(server, "message")) as [string];
async function state(): Promise<State> {
  server.send("state");
  return ((await once(server, "message")) as [State])[0];
}

const random = new Random(13);
const text = (words: number) => Array.from({ length: words }, () => `w${random.int(2000)}`).join(" ");
/** Some conversations go on from the same beginning. */
const beginnings = Array.from({ length: 8 }, () => text(60));
const schema = { type: "object", properties: { city: { type: "string", maxLength: 40 } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "get_weather", parameters: schema } }];

interface Kind {
  share: number;
  path: string;
  body(): object;
  /** What a whole answer ends with; a wrong request is a 400. */
  whole?: RegExp;
  slow?: boolean;
}
const chat = (more: object, words = random.int(40) + 4) => ({
  model: "m",
  messages: [{ role: "user", content: random.float() < 0.5 ? `${random.pick(beginnings)} ${text(8)}` : text(words) }],
  max_tokens: 8 + random.int(120),
  ...more,
});
const completions = "/v1/chat/completions";
const stop = /"finish_reason":"(stop|length|tool_calls)".*data: \[DONE\]\n\n$/s;
const kinds: Record<string, Kind> = {
  stream: { share: 38, path: completions, body: () => chat({ stream: true }), whole: stop },
  whole: { share: 25, path: completions, body: () => chat({}), whole: /"usage":\{.*\}$/s },
  anthropic: { share: 12, path: "/v1/messages", body: () => chat({ stream: true }), whole: /message_stop/ },
  call: {
    share: 10,
    path: completions,
    body: () => chat({ stream: true, tools, tool_choice: "required", max_tokens: 96 }),
    whole: stop,
  },
  slow: {
    share: 10,
    path: completions,
    body: () => chat({ stream: true, max_tokens: 400, logprobs: true, top_logprobs: 20 }),
    whole: stop,
    slow: true,
  },
  wrong: { share: 5, path: completions, body: () => chat({ temperature: "hot" }) },
};
const draw = (): [string, Kind] => {
  let at = random.float() * 100;
  for (const entry of Object.entries(kinds)) if ((at -= entry[1].share) < 0) return entry;
  return ["stream", kinds.stream!];
};

const counts = new Map<string, number>();
const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1);
const faults: string[] = [];
const underWay = new Set<ClientRequest>();
const cut = new WeakSet<ClientRequest>();
let over = false;

async function slowly(incoming: IncomingMessage): Promise<string> {
  let said = "";
  for await (const piece of incoming) {
    said += piece;
    if (!over) await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return said;
}

async function ask(agent: Agent, name: string, { path, body, whole, slow }: Kind): Promise<void> {
  const bytes = Buffer.from(JSON.stringify(body()));
  const headers = {
    "content-type": "application/json",
    "anthropic-version": "2023-06-01",
    "content-length": bytes.length,
  };
  const outgoing = request(url + path, { method: "POST", agent, headers });
  underWay.add(outgoing);
  try {
    outgoing.end(bytes);
    const [incoming] = (await once(outgoing, "response")) as [IncomingMessage];
    const said = slow ? await slowly(incoming) : (await Array.fromAsync(incoming)).join("");
    const status = incoming.statusCode!;
    count(`${name} ${status}`);
    if (status !== (whole ? 200 : 400)) faults.push(`${name}: ${status} ${said.slice(0, 200)}`);
    else if (whole && !whole.test(said)) faults.push(`${name}: not whole: …${said.slice(-200)}`);
  } catch (error) {
    if (cut.has(outgoing)) count(`${name} cut`);
    else faults.push(`${name}: ${(error as Error).message}`);
  } finally {
    underWay.delete(outgoing);
  }
}

async function connection(): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  while (!over) await ask(agent, ...draw());
  agent.destroy();
}

const began = performance.now();
const at = () => (performance.now() - began) / 1e3;
const health: number[] = [];
const samples: { at: number; state: State }[] = [];
const storms = setInterval(() => {
  for (const outgoing of underWay) {
    if (random.float() < 0.5) continue;
    cut.add(outgoing);
    outgoing.destroy();
  }
}, storm * 1000);
const probe = async () => {
  while (!over) {
    const asked = performance.now();
    const response = await fetch(`${url}/health`);
    await response.text();
    health.push(performance.now() - asked);
    if (response.status !== 200) faults.push(`health: ${response.status}`);
    samples.push({ at: at(), state: await state() });
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
};
const work = Promise.all([probe(), ...Array.from({ length: connections }, connection)]);
await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
over = true;
clearInterval(storms);
await work;
const lasted = at();
// What was cut last is noticed in a moment.
await new Promise((resolve) => setTimeout(resolve, 1000));
const end = await state();
server.disconnect();

for (const name of ["slots", "queued", "running", "waiting", "blocksHeld"] as const)
  if (end[name]) faults.push(`${end[name]} ${name} are left`);
/** Of least squares, a minute. */
function slope(points: { at: number; value: number }[]): number {
  const mean = (list: number[]) => list.reduce((a, b) => a + b, 0) / list.length;
  const [x, y] = [mean(points.map(({ at }) => at)), mean(points.map(({ value }) => value))];
  const top = points.reduce((sum, { at, value }) => sum + (at - x) * (value - y), 0);
  return (60 * top) / points.reduce((sum, { at }) => sum + (at - x) ** 2, 0);
}
const warm = samples.filter(({ at }) => at > lasted / 2);
const rise = slope(warm.map(({ at, state }) => ({ at, value: state.rss })));
const rss = warm.map(({ state }) => state.rss);
const share = rise / quantile(rss, 0.5);
if (share > 0.01 && seconds >= 300)
  faults.push(`resident memory rises by ${rise.toFixed(1)} MiB a minute, ${(100 * share).toFixed(1)} %`);
const first = warm[0]!.state;
const busiest = Math.max(...samples.map(({ state }) => state.tensors));
if (end.tensors > first.tensors) faults.push(`${end.tensors} tensors at the end, ${first.tensors} under load`);

const requests = [...counts].toSorted().map(([what, n]) => `${what}: ${n}`);
const ms = (q: number) => quantile(health, q).toFixed(1);
console.log(`${connections} connections, ${(lasted / 60).toFixed(1)} minutes, a storm every ${storm} s`);
console.log(`answers: ${requests.join(", ")}`);
console.log(
  `tokens: ${end.generated.toLocaleString("en")}, ${Math.round(end.generated / lasted).toLocaleString("en")}/s`,
);
console.log(`health: median ${ms(0.5)} ms, 99th percentile ${ms(0.99)} ms, worst ${ms(1)} ms`);
console.log(
  `resident: ${Math.round(samples[0]!.state.rss)} MiB at first, ${Math.round(first.rss)} half way, ${Math.round(end.rss)} at the end, ${rise.toFixed(2)} MiB a minute after that; tensors ${busiest} at most, ${end.tensors} at the end`,
);
for (const fault of faults.slice(0, 20)) console.log(`FAULT ${fault}`);
console.log(faults.length ? `${faults.length} faults` : "no 5xx, no leak");
if (settings.json) {
  const result = { name: "load", connections, seconds: lasted, counts: Object.fromEntries(counts), rise, faults, end };
  appendFileSync(
    settings.json,
    `${JSON.stringify({ ...result, ...machine(settings), health: [ms(0.5), ms(0.99)] })}\n`,
  );
}
process.exitCode = faults.length ? 1 : 0;
