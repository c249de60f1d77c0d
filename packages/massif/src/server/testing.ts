/** What this room's tests share: a server over a script, and its clients. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { type Script, ScriptedModel, type ScriptOptions } from "../llm/index.ts";
import type { Backend } from "./backend.ts";
import { Keys } from "./keys.ts";
import { type Listening, type ListenOptions, listen } from "./listen.ts";
import { Service, type ServiceOptions } from "./service.ts";

export interface Scripted extends AsyncDisposable {
  url: string;
  model: ScriptedModel;
  service: Service;
  close: Listening["close"];
  post(path: string, body: unknown, init?: RequestInit): Promise<Response>;
}

type Options = Partial<ListenOptions> & ServiceOptions & ScriptOptions & { backend?: Partial<Backend> };

/** A running server whose model `m` says what the script says. */
export async function scripted(
  script: Script,
  { backend, running, waiting, ...options }: Options = {},
): Promise<Scripted> {
  const model = new ScriptedModel(script, options);
  const service = new Service({ ...(running !== undefined && { running }), ...(waiting !== undefined && { waiting }) });
  service.add({ names: ["m"], model, ...backend });
  const server = await listen({ service, grace: 1000, ...options });
  return { ...server, model, service, post: (path, body, init) => post(server.url + path, body, init) };
}

/** The keys of two people. */
export const alice: string = "alice-key-123";
export const bob: string = "bob-key-12345";

export interface Kept extends AsyncDisposable {
  readonly url: string;
  clientOf(key: string): OpenAI;
  /** Another server over the same folder. */
  restart(): Promise<void>;
}

/** The same with a folder for what it keeps, and Alice's and Bob's keys. */
export async function kept(script: Script, options: Options = {}): Promise<Kept> {
  const state = mkdtempSync(join(tmpdir(), "massif-state-"));
  const start = () => {
    const keys = new Keys([alice, bob].map((key, i) => ({ key, name: ["alice", "bob"][i]! })));
    return scripted(script, { state, keys, ...options });
  };
  let server = await start();
  return {
    get url() {
      return server.url;
    },
    clientOf: (apiKey) => new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 0 }),
    async restart() {
      await server.close();
      server = await start();
    },
    async [Symbol.asyncDispose]() {
      await server.close();
      rmSync(state, { recursive: true });
    },
  };
}

export const post = (url: string, body: unknown, init: RequestInit = {}): Promise<Response> =>
  fetch(url, {
    method: "POST",
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...init,
    headers: { "content-type": "application/json", ...init.headers },
  });

/** The data of a stream's events. */
export async function events(response: Response): Promise<Record<string, unknown>[]> {
  const lines = (await response.text())
    .split("\n")
    .filter((line) => line.startsWith("data: ") && !line.endsWith("[DONE]"));
  return lines.map((line) => JSON.parse(line.slice(6)));
}

/** Waits until it is true. Throws after 40 s: a machine may be busy. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const begun = performance.now();
  while (!(await condition())) {
    if (performance.now() - begun > 40_000) throw new Error("it never came true");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

export const weather = {
  type: "function" as const,
  function: {
    name: "get_weather",
    description: "weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
