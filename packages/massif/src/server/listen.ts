/** A server on a port: loopback unless told, drained before it ends. */
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { MassifError } from "../common/index.ts";
import { createApp } from "./app.ts";
import type { AppOptions } from "./http.ts";

export interface ListenOptions extends AppOptions {
  /** Default 127.0.0.1. */
  host?: string;
  /** 0, the default, takes a free one. */
  port?: number;
  /** Milliseconds for what is under way when the server closes. Default 30 s. */
  grace?: number;
}

export interface Listening extends AsyncDisposable {
  url: string;
  /** Takes no more requests, lets those under way end, closes. */
  close(): Promise<void>;
}

const isLoopback = (host: string): boolean => host === "localhost" || host === "::1" || /^127\./.test(host);

/** Throws `server.open` for a host that others can reach without keys, `server.listen` where the port is taken. */
export async function listen({
  host = "127.0.0.1",
  port = 0,
  grace = 30_000,
  ...options
}: ListenOptions): Promise<Listening> {
  if (!isLoopback(host) && !options.keys?.size) {
    throw new MassifError("server.open", {
      found: `the host ${host}, which others can reach, and no API keys`,
      expected: "keys, or a loopback address",
      fix: "--api-key-file FILE (one key a line), or leave --host out",
    });
  }
  const server = createAdaptorServer({ fetch: createApp(options).fetch }) as Server;
  // Time for a head, and for a whole body: who dribbles holds a connection, nothing more, and not for long.
  server.headersTimeout = 20_000;
  server.requestTimeout = 120_000;
  server.keepAliveTimeout = 65_000;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) => {
      const fix = "choose another --port";
      reject(new MassifError("server.listen", { found: `${host}:${port}: ${cause.message}`, fix, cause }));
    });
    server.listen(port, host, resolve);
  });
  const at = server.address() as AddressInfo;
  let closed: Promise<void> | undefined;
  const close = async () => {
    const ended = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeIdleConnections();
    await options.service.drain(grace);
    // Answers that have ended are still on their way out.
    setTimeout(() => server.closeAllConnections(), 500).unref();
    server.closeIdleConnections();
    await ended;
  };
  const once = () => (closed ??= close());
  return {
    url: `http://${at.family === "IPv6" ? `[${at.address}]` : at.address}:${at.port}`,
    close: once,
    [Symbol.asyncDispose]: once,
  };
}
