/** Upstreams as a backend: whatever speaks OpenAI's protocol, or bare completions in K2's format. */
import { MassifError } from "../../common/index.ts";
import { type HttpOptions, K2CompletionsModel, OpenAiModel, RawUpstream } from "../../llm/index.ts";
import { type Backend, type Format, renderPrompt } from "../backend.ts";
import type { Metrics } from "../metrics.ts";
import { embedUpstream } from "../openai/embeddings.ts";
import { Upstreams, type UpstreamsOptions } from "./upstreams.ts";
import { VerifiedModel } from "./verified.ts";

export interface GatewayOptions extends Omit<UpstreamsOptions, "name" | "onAttempt"> {
  /** Of each upstream, with version: `http://127.0.0.1:8000/v1`. */
  urls: readonly string[];
  /** The model's name there. Default: the first that the first upstream lists. */
  model?: string;
  /** What clients call it. Default: the name there. */
  names?: readonly string[];
  apiKey?: string;
  http?: Omit<HttpOptions, "baseURL" | "apiKey">;
  /** Prompts are made and answers read here, over `/completions`: for engines without tool parsers. */
  raw?: { format: Partial<Format> & Pick<Format, "template"> };
  /** Where the upstream makes the prompts, this counts their tokens: the upstream's own tokenizer and template. */
  format?: Format;
  verify?: "off" | "count" | "repair";
  contextLength?: number;
  metrics: Metrics;
}

export interface Gateway extends Disposable {
  backend: Backend;
  upstreams: Upstreams;
}

/** Throws `gateway.model` where no upstream tells a model. */
export async function openGateway(options: GatewayOptions): Promise<Gateway> {
  const { urls, apiKey, http, raw, metrics, verify = "repair" } = options;
  const model = options.model ?? (await firstModel(urls, apiKey));
  const names = options.names?.length ? options.names : [model];
  const models = urls.map((baseURL) => {
    const at = { ...http, baseURL, ...(apiKey !== undefined && { apiKey }), model };
    if (!raw) return new OpenAiModel(at);
    const { template, toolStyle, tokenizer } = raw.format;
    return new K2CompletionsModel({
      ...at,
      template,
      ...(toolStyle && { toolStyle }),
      ...(tokenizer && { tokenizer }),
    });
  });
  const texts = urls.map(
    (baseURL) => new RawUpstream({ ...http, baseURL, ...(apiKey !== undefined && { apiKey }), model }),
  );
  const { now, failures, rest, imbalance } = options;
  const upstreams = new Upstreams(
    models.map((model, i) => ({
      model,
      raw: texts[i]!,
      name: new URL(urls[i]!).host,
      probe: async (signal) => (await listModels(urls[i]!, apiKey, signal)) !== undefined,
    })),
    {
      name: model,
      onAttempt: (upstream, outcome) => metrics.add("massif:upstream_requests_total", { upstream, outcome }),
      ...(now && { now }),
      ...(failures !== undefined && { failures }),
      ...(rest !== undefined && { rest }),
      ...(imbalance !== undefined && { imbalance }),
    },
  );
  const onCall = (outcome: string) => metrics.add("massif:tool_calls_total", { model_name: names[0]!, outcome });
  const format = options.format ?? (raw?.format.tokenizer ? (raw.format as Format) : undefined);
  return {
    upstreams,
    backend: {
      names,
      model: verify === "off" ? upstreams : new VerifiedModel(upstreams, { mode: verify, onCall }),
      passesFields: !raw,
      raw: (request) => upstreams.raw(request),
      rawUpstream: true,
      embed: (inputs, options) => embedUpstream(urls, { model, apiKey }, inputs, options),
      ...(options.contextLength !== undefined && { contextLength: options.contextLength }),
      ...(format && { format, prompt: (request) => renderPrompt(format, request) }),
    },
    [Symbol.dispose]() {
      for (const one of [...models, ...texts]) one[Symbol.dispose]();
    },
  };
}

async function listModels(url: string, apiKey: string | undefined, signal: AbortSignal): Promise<string[] | undefined> {
  const headers = apiKey === undefined ? undefined : { authorization: `Bearer ${apiKey}` };
  const response = await fetch(`${url.replace(/\/+$/, "")}/models`, { signal, ...(headers && { headers }) });
  if (!response.ok) {
    await response.body?.cancel();
    return undefined;
  }
  const { data } = (await response.json()) as { data?: { id?: unknown }[] };
  return (data ?? []).flatMap(({ id }) => (typeof id === "string" ? id : []));
}

async function firstModel(urls: readonly string[], apiKey: string | undefined): Promise<string> {
  const troubles: string[] = [];
  for (const url of urls) {
    try {
      const [first] = (await listModels(url, apiKey, AbortSignal.timeout(5000))) ?? [];
      if (first !== undefined) return first;
      troubles.push(`${url} lists no models`);
    } catch (error) {
      troubles.push(`${url}: ${(error as Error).message}`);
    }
  }
  throw new MassifError("gateway.model", {
    found: troubles.join("; "),
    expected: "an upstream that lists its models at /models",
    fix: "start it, or name the model with --upstream-model",
  });
}
