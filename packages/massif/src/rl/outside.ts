/**
 * Rollouts by an engine outside of this process: after every iteration the weights go to a folder, versioned, and the engine
 * is told to take them (specification §6.6): `POST /update_weights_from_disk`, SGLang's name and ours; where there is none,
 * vLLM's routes for development (0.32: /pause, /collective_rpc `reload_weights`, /update_weight_version, /resume). Prompts
 * and answers travel as token ids, with log-probabilities and the version of the weights that wrote them.
 */
import { rmSync } from "node:fs";
import { resolve } from "node:path";
import { z } from "zod";
import type { TemplateName, Trajectory } from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import { type ChatRequest, K2CompletionsModel, type LanguageModel, type ModelEvent } from "../llm/index.ts";
import { type Model, saveModel } from "../model/index.ts";
import { saveTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import type { RlRecipe } from "./recipe.ts";

const ABSENT = Symbol("no such route");

export interface OutsideOptions {
  /** The trainer's. */
  model: Model;
  tokenizer: Tokenizer;
  template: TemplateName;
  /** Where folders of weights go: the engine must see them under the same path. */
  dir: string;
}

export class OutsideEngine implements LanguageModel, Disposable {
  readonly name: string;
  readonly #config: NonNullable<RlRecipe["rollouts"]>;
  readonly #url: string;
  readonly #apiKey: string | undefined;
  readonly #options: OutsideOptions;
  readonly #queue: (() => void)[] = [];
  #under = 0;
  #pushed = 0;
  /** vLLM: its answers name no version, the engine does. */
  #isVllm = false;
  #upstream: Promise<K2CompletionsModel> | undefined;

  /** Nothing is sent before the first rollout. */
  constructor(config: NonNullable<RlRecipe["rollouts"]>, options: OutsideOptions) {
    this.#config = config;
    this.#options = options;
    this.#url = config.url.replace(/\/+$/, "");
    this.name = `rollouts@${new URL(this.#url).host}`;
    const { key } = config;
    this.#apiKey = key === null ? undefined : process.env[key];
    if (key !== null && !this.#apiKey)
      throw new MassifError("rl.rollouts", {
        found: `no environment variable ${key}`,
        expected: "an admin's key of the engine in it",
        fix: `export ${key}=…, or leave rollouts.key out`,
      });
  }

  /** Of the weights that the engine has, as its answers name it. */
  get version(): string {
    return `step-${this.#pushed}`;
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const upstream = await (this.#upstream ??= this.#begin());
    while (this.#under >= this.#config.concurrency) await new Promise<void>((go) => this.#queue.push(go));
    this.#under++;
    try {
      // Ids come back, so no marker need come as text: not every engine shows them.
      const asked = { ...request, extra: { ...request.extra, skip_special_tokens: undefined } };
      for await (const event of upstream.stream(asked)) yield this.#exact(event, request);
    } finally {
      this.#under--;
      this.#queue.shift()?.();
    }
  }

  /** Nothing is learned of what is not known to the token. Throws `rl.tokens`. */
  #exact(event: ModelEvent, { promptIds }: ChatRequest): ModelEvent {
    const refuse = (found: string) =>
      new MassifError("rl.tokens", {
        found: `${this.#url} ${found}`,
        expected: "the ids of what it read and wrote, with their log-probabilities",
        fix: "roll out on an engine whose /v1/completions takes ids and knows return_token_ids (massif serve, vLLM)",
      });
    // Where the engine does not repeat the ids that it was sent, how many it read tells whether it read them.
    if (event.type === "start")
      return { promptIds: [...(promptIds ?? [])], ...(this.#isVllm && { weights: this.version }), ...event };
    if (event.type === "tokens" && event.tokens.some(({ id, logprob }) => id === undefined || logprob === undefined))
      throw refuse("tells no ids or no log-probabilities of its tokens");
    if (event.type === "usage" && promptIds && event.usage.promptTokens !== promptIds.length)
      throw refuse(`read ${event.usage.promptTokens} tokens of a prompt of ${promptIds.length}`);
    return event;
  }

  /** The trainer's weights as they are now. Throws `rl.sync` where the engine does not take them. */
  async update(): Promise<void> {
    this.#pushed++;
    await this.#push();
  }

  async #begin(): Promise<K2CompletionsModel> {
    await this.#push();
    const { tokenizer, template } = this.#options;
    const listed = z.object({ data: z.array(z.object({ id: z.string() })).min(1) });
    const model = this.#config.model ?? listed.parse(await this.#ask("/v1/models")).data[0]!.id;
    const apiKey = this.#apiKey;
    return new K2CompletionsModel({
      ...{ baseURL: `${this.#url}/v1`, model, tokenizer, template },
      ...(apiKey !== undefined && { apiKey }),
    });
  }

  async #push(): Promise<void> {
    const { model, tokenizer, dir } = this.#options;
    const folder = resolve(dir, "weights", this.version);
    saveModel(model, folder);
    await saveTokenizer(tokenizer, folder);
    const fields = { model_path: folder, weight_version: this.version };
    if (!this.#isVllm)
      this.#isVllm = (await this.#ask("/update_weights_from_disk", fields, { absent: true })) === ABSENT;
    if (this.#isVllm) await this.#reload(folder);
    // The engine has read it whole; the one before stays, to look at.
    if (this.#pushed > 1) rmSync(resolve(dir, "weights", `step-${this.#pushed - 2}`), { recursive: true, force: true });
  }

  /** vLLM's way. A pause empties its cache of prefixes; what is under way of others ends first. */
  async #reload(folder: string): Promise<void> {
    await this.#ask("/pause?mode=wait", {});
    try {
      await this.#ask("/collective_rpc", { method: "reload_weights", kwargs: { weights_path: folder } });
      await this.#ask("/update_weight_version", { new_version: this.version });
    } finally {
      await this.#ask("/resume", {});
    }
  }

  /** The answer's JSON; `ABSENT` for a route that is not there, where that may be. Throws `rl.sync`. */
  async #ask(path: string, body?: object, may: { absent?: boolean } = {}): Promise<unknown> {
    const bearer = this.#apiKey && { authorization: `Bearer ${this.#apiKey}` };
    const post = body && { method: "POST", body: JSON.stringify(body) };
    const refuse = (found: string, cause?: unknown) =>
      new MassifError("rl.sync", {
        found: `${this.#url}${path}: ${found}`,
        expected: "an engine that takes weights from folders of this run",
        fix: `start it over the same model: massif serve --weights-root ${resolve(this.#options.dir)}, or vLLM with VLLM_SERVER_DEV_MODE=1`,
        cause,
      });
    let response: Response;
    try {
      response = await fetch(this.#url + path, { ...post, headers: { "content-type": "application/json", ...bearer } });
    } catch (error) {
      throw refuse("no answer", error);
    }
    if (response.status === 404 && may.absent) return ABSENT;
    if (!response.ok) throw refuse(`${response.status} ${(await response.text()).slice(0, 300)}`);
    return response.json();
  }

  /** Throws `rl.version` for an answer that does not say which of our weights wrote it, and for an engine that has others
   *  by now. */
  async check(trajectories: readonly Trajectory[]): Promise<void> {
    const refuse = (found: string, expected: string) =>
      new MassifError("rl.version", {
        ...{ found, expected },
        fix: "let no one else update that engine; it must tell x-weight-version or weight_version with its answers",
      });
    for (const { id, tokens } of trajectories)
      for (const { weights } of tokens?.turns ?? []) {
        const number = /^step-(\d+)$/.exec(String(weights))?.[1];
        if (number === undefined || Number(number) > this.#pushed)
          throw refuse(
            `trajectory ${id} was written by weights ${weights ?? "without a version"}`,
            `${this.version}, or one before it`,
          );
      }
    if (!this.#isVllm) return;
    const { weight_version: now } = (await this.#ask("/weight_info")) as { weight_version?: unknown };
    if (now !== this.version) throw refuse(`${this.#url} has weights ${now} after its answers`, this.version);
  }

  [Symbol.dispose](): void {
    this.#upstream?.then(
      (upstream) => upstream[Symbol.dispose](),
      () => {},
    );
  }
}
