/** What this room's tests share: an upstream that behaves as told, and time that passes when told. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Clock } from "./clock.ts";

export interface Asked {
  url: string;
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
}

export interface Upstream extends AsyncDisposable {
  baseURL: string;
  asked: Asked[];
  /** Connections that are open now, and that were ever opened. */
  open: Set<Socket>;
  opened: number;
}

/** A real server on loopback; `answer` does with each response what it will. */
export async function upstream(
  answer: (response: ServerResponse, asked: Asked, index: number) => unknown,
): Promise<Upstream> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    const pieces: Buffer[] = [];
    request.on("data", (piece: Buffer) => pieces.push(piece));
    request.on("end", () => {
      const body = JSON.parse(Buffer.concat(pieces).toString()) as Record<string, unknown>;
      const one = { url: request.url!, headers: request.headers, body };
      answer(response, one, asked.push(one) - 1);
    });
  });
  const open = new Set<Socket>();
  const self: Upstream = {
    baseURL: "",
    asked,
    open,
    opened: 0,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  server.on("connection", (socket) => {
    open.add(socket);
    self.opened++;
    socket.on("close", () => open.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  self.baseURL = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  return self;
}

export const sse = (...values: (object | string)[]): string =>
  values.map((value) => `data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`).join("");

export const startSse = (response: ServerResponse): ServerResponse =>
  response.writeHead(200, { "content-type": "text/event-stream", "x-request-id": "req-1" });

/** Choices of a stream: one chunk each. */
export const delta = (delta: object, finish_reason: string | null = null): object => ({
  id: "c-1",
  model: "m-1",
  choices: [{ index: 0, delta, finish_reason }],
});

/** Waits are over at once, and remembered. */
export class InstantClock implements Clock {
  readonly waits: number[] = [];
  now(): number {
    return this.waits.reduce((a, b) => a + b, 0);
  }
  after(ms: number, callback: () => void): () => void {
    // The time-outs of a request stay as they are; only waits between requests are short.
    if (ms >= 10_000) return () => {};
    this.waits.push(ms);
    const timer = setImmediate(callback);
    return () => clearImmediate(timer);
  }
}

export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}
