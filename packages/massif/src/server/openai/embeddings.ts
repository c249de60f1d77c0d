/** `/v1/embeddings`: the mean of the model's last hidden states at unit length, or what the upstream gives. */
import type { Hono } from "hono";
import { z } from "zod";
import type { Engine } from "../../engine/index.ts";
import { readFields } from "../body.ts";
import { ApiError, invalid } from "../errors.ts";
import { type App, body, type Ctx, callerOf, type Env, modelIn } from "../http.ts";

/** What is embedded: texts or ids. */
export type EmbeddingInputs = readonly string[] | readonly (readonly number[])[];

export interface Embedded {
  vectors: Float32Array[];
  /** Of all inputs. */
  tokens: number;
}

export interface EmbedOptions {
  /** Components that are asked for. */
  dimensions: number | undefined;
  signal: AbortSignal;
}

/** OpenAI's. */
const MOST = { inputs: 2048, tokens: 300_000 };

const Ids = z.array(z.int().min(0)).min(1);
const Text = z.string().min(1, "no empty text");
const EmbeddingsBody = z.object({
  model: z.string(),
  input: z.union(
    [Text, Ids, z.array(Text).min(1), z.array(Ids).min(1)],
    "a text that is not empty, ids, or a list of either",
  ),
  encoding_format: z.enum(["float", "base64"]).default("float"),
  dimensions: z.int().min(1).optional(),
  user: z.string().optional(),
});

export function embeddingRoutes(hono: Hono<Env>, app: App): void {
  const { service } = app;
  hono.post("/v1/embeddings", async (c) => {
    const raw = await body(c as Ctx, app);
    const backend = service.backend(modelIn(raw));
    const { model, input, encoding_format, dimensions } = readFields(EmbeddingsBody, raw, app);
    if (!backend.embed)
      throw new ApiError(400, "model: it makes no embeddings", { param: "model", code: "unsupported_model" });
    const inputs = (typeof input === "string" || typeof input[0] === "number" ? [input] : input) as EmbeddingInputs;
    if (inputs.length > MOST.inputs) throw invalid("input", `${inputs.length} inputs; at most ${MOST.inputs}`);
    const embed = backend.embed;
    const { vectors, tokens } = await service.task(backend, callerOf(c as Ctx), async (signal) => {
      const value = await embed(inputs, { dimensions, signal });
      return { value, usage: { promptTokens: value.tokens, completionTokens: 0 } };
    });
    const data = vectors.map((vector, index) => {
      const cut = shorten(vector, dimensions);
      return { object: "embedding", index, embedding: encoding_format === "base64" ? base64(cut) : [...cut] };
    });
    return c.json({ object: "list", data, model, usage: { prompt_tokens: tokens, total_tokens: tokens } });
  });
}

/** What our own engine makes of the inputs, one after the other: between two of them others have their turn. Throws 400
 *  that names the input, and 409 where the engine is paused, or takes other weights meanwhile. */
export async function embedHere(engine: Engine, inputs: EmbeddingInputs, { signal }: EmbedOptions): Promise<Embedded> {
  const { tokenizer, version, contextLength } = engine;
  const ids = inputs.map((one) => (typeof one === "string" ? Array.from(tokenizer!.encode(one)) : one));
  for (const [i, { length }] of ids.entries())
    if (length > contextLength) throw invalid(`input[${i}]`, `${length} tokens; at most ${contextLength}`);
  const tokens = ids.reduce((sum, { length }) => sum + length, 0);
  if (tokens > MOST.tokens) throw invalid("input", `${tokens} tokens; at most ${MOST.tokens} a request`);
  const vectors: Float32Array[] = [];
  for (const [i, one] of ids.entries()) {
    await new Promise(setImmediate);
    signal.throwIfAborted();
    const bad = one.find((id) => id >= tokenizer!.vocabSize);
    if (bad !== undefined) throw invalid(`input[${i}]`, `there is no token ${bad}`);
    if (engine.metrics().paused) throw new ApiError(409, "the engine is paused", { code: "paused" });
    if (engine.version !== version) throw new ApiError(409, "the weights were updated meanwhile", { code: "updating" });
    vectors.push(engine.embed(one));
  }
  return { vectors, tokens };
}

/** The first components, at unit length again. Throws 400 where there are not so many. */
function shorten(vector: Float32Array, dimensions = vector.length): Float32Array {
  if (dimensions > vector.length) throw invalid("dimensions", `at most ${vector.length}`);
  if (dimensions === vector.length) return vector;
  const cut = vector.subarray(0, dimensions);
  const length = Math.hypot(...cut);
  return length > 0 ? cut.map((x) => x / length) : cut;
}

/** Little-endian, as OpenAI's clients read it. */
const base64 = (vector: Float32Array): string =>
  Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString("base64");

/** What upstreams make of the inputs: the first that can be reached. Throws 400 where it makes none. */
export async function embedUpstream(
  urls: readonly string[],
  model: { model: string; apiKey?: string | undefined },
  inputs: EmbeddingInputs,
  options: EmbedOptions,
): Promise<Embedded> {
  for (const [i, url] of urls.entries()) {
    try {
      return await embedAt(url, model, inputs, options);
    } catch (error) {
      if (i === urls.length - 1 || !(error instanceof ApiError) || error.status < 500) throw error;
    }
  }
  throw new ApiError(503, "there is no upstream", { code: "upstream_unreachable" });
}

async function embedAt(
  url: string,
  { model, apiKey }: { model: string; apiKey?: string | undefined },
  input: EmbeddingInputs,
  { dimensions, signal }: EmbedOptions,
): Promise<Embedded> {
  const response = await fetch(`${url.replace(/\/+$/, "")}/embeddings`, {
    ...{ method: "POST", signal },
    headers: { "content-type": "application/json", ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }) },
    body: JSON.stringify({ model, input, encoding_format: "float", ...(dimensions !== undefined && { dimensions }) }),
  }).catch((cause: unknown) => {
    throw new ApiError(503, "the upstream cannot be reached", {
      code: "upstream_unreachable",
      retryAfter: 1000,
      cause,
    });
  });
  const { status } = response;
  if (status === 404 || status === 405 || status === 501) {
    await response.body?.cancel();
    throw new ApiError(400, "model: the upstream makes no embeddings", { param: "model", code: "unsupported_model" });
  }
  const told = (await response.json().catch(() => ({}))) as {
    data?: { index: number; embedding: number[] }[];
    usage?: { prompt_tokens?: number };
    error?: { message?: unknown };
  };
  if (!response.ok || !Array.isArray(told.data) || told.data.length !== input.length) {
    const client = status === 400 || status === 413 || status === 422 || status === 429;
    const message = client && typeof told.error?.message === "string" ? told.error.message : "the upstream failed";
    throw new ApiError(client ? (status === 422 ? 400 : status) : 502, message, {
      ...(!client && { code: "upstream_error" }),
    });
  }
  const vectors = [...told.data].sort((a, b) => a.index - b.index).map((row) => Float32Array.from(row.embedding));
  return { vectors, tokens: told.usage?.prompt_tokens ?? 0 };
}
