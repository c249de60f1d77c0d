/** The client of serve.ts, ttft.ts and gateway.ts: a job a line on standard input, {"url", "bodies"}, what came of it a line
 *  back (`Answers` of serve-parts.ts). While the clock runs it only keeps what comes; it reads it afterwards. */
import { Agent, request } from "node:http";
import { createInterface } from "node:readline";
import type { Answers } from "./serve-parts.ts";

const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY });

interface Piece {
  at: bigint;
  bytes: Buffer;
}

/** The pieces of an answer, with the clock that all processes of a machine share. */
function ask(url: string, body: Buffer): Promise<Piece[]> {
  return new Promise((resolve, reject) => {
    const pieces: Piece[] = [];
    const headers = { "content-type": "application/json", "content-length": body.length };
    const outgoing = request(url, { method: "POST", agent, headers }, (incoming) => {
      incoming.on("data", (bytes: Buffer) => pieces.push({ at: process.hrtime.bigint(), bytes }));
      incoming.on("error", reject);
      incoming.on("end", () => {
        if (incoming.statusCode === 200) return resolve(pieces);
        reject(new Error(`${incoming.statusCode}: ${Buffer.concat(pieces.map(({ bytes }) => bytes))}`));
      });
    });
    outgoing.setNoDelay(true);
    outgoing.on("error", reject).end(body);
  });
}

interface Chunk {
  choices?: { text?: string; delta?: { content?: string | null } }[];
  error?: { message: string };
}

/** The events of an answer: text, and when the piece that completed it came. */
function* events(pieces: readonly Piece[]): Generator<{ text: string; at: bigint }> {
  let pending = "";
  const utf8 = new TextDecoder();
  for (const { at, bytes } of pieces) {
    const frames = (pending + utf8.decode(bytes, { stream: true })).split("\n\n");
    pending = frames.pop()!;
    for (const frame of frames) {
      if (!frame.startsWith("data: ") || frame === "data: [DONE]") continue;
      const chunk = JSON.parse(frame.slice(6)) as Chunk;
      if (chunk.error) throw new Error(chunk.error.message);
      const [choice] = chunk.choices ?? [];
      yield { text: choice?.text ?? choice?.delta?.content ?? "", at };
    }
  }
}

async function work({ url, bodies }: { url: string; bodies: object[] }): Promise<Answers> {
  const written = bodies.map((body) => Buffer.from(JSON.stringify(body)));
  const cpu = process.cpuUsage();
  const began = process.hrtime.bigint();
  const answers = await Promise.all(written.map((body) => ask(url, body)));
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  const { user, system } = process.cpuUsage(cpu);
  const read = answers.map((pieces) => [...events(pieces)]);
  return {
    seconds,
    cpu: (user + system) / 1e6,
    texts: read.map((list) => list.map(({ text }) => text).join("")),
    events: read.reduce((sum, { length }) => sum + length, 0),
    first: read.map((list) => Number((list.find(({ text }) => text)?.at ?? began) - began) / 1e6),
    late: read.flatMap((list) =>
      list.flatMap(({ text, at }) => Array.from(text.matchAll(/@(\d+);/g), ([, ns]) => Number(at - BigInt(ns!)) / 1e6)),
    ),
  };
}

for await (const line of createInterface(process.stdin)) {
  try {
    process.stdout.write(`${JSON.stringify(await work(JSON.parse(line)))}\n`);
  } catch (error) {
    process.stderr.write(`${(error as Error).stack}\n`);
    process.exit(1);
  }
}
process.exit(0);
