/** Prometheus text (exposition format 0.0.4) under vLLM's names, so that its dashboards and load tools read it, and what
 *  only Massif counts under its own. */
import type { Gauges } from "./backend.ts";

type Labels = Readonly<Record<string, string>>;

/** Seconds; vLLM's. */
const buckets: Record<string, readonly number[]> = {
  "vllm:time_to_first_token_seconds": [
    ...[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160],
  ],
  "vllm:inter_token_latency_seconds": [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 5],
  "vllm:e2e_request_latency_seconds": [0.01, 0.05, 0.1, 0.3, 0.5, 1, 1.5, 2.5, 5, 10, 20, 40, 60, 120, 240, 480, 960],
  "vllm:request_queue_time_seconds": [0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1, 2.5, 5, 10, 30, 60, 120],
  "vllm:request_params_n": [1, 2, 5, 10, 20],
  "vllm:request_params_max_tokens": [1, 10, 100, 1000, 10_000, 100_000],
};

const help: Record<string, string> = {
  "vllm:prompt_tokens_total": "Tokens of prompts",
  "vllm:generation_tokens_total": "Tokens generated",
  "vllm:inter_token_latency_seconds": "Seconds between two tokens: an answer's mean, once for each",
  "vllm:request_success_total": "Requests that ended, by finish reason",
  "massif:http_requests_total": "Answers, by route and status",
  "massif:tool_calls_total": "Tool calls, by what their check against the schema said",
  "massif:disconnects_total": "Clients that left before their answer ended",
  "massif:upstream_requests_total": "Requests to upstreams, by outcome",
};

interface Histogram {
  counts: number[];
  sum: number;
  count: number;
}

const escaped = (value: string) => value.replace(/[\\"\n]/g, (c) => (c === "\n" ? "\\n" : `\\${c}`));
/** A request counts under the same labels again and again. */
const labelTexts = new WeakMap<Labels, string>();
const labelText = (labels: Labels) => {
  const known = labelTexts.get(labels);
  if (known !== undefined) return known;
  const parts = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value)}"`);
  const text = parts.length ? `{${parts.join(",")}}` : "";
  labelTexts.set(labels, text);
  return text;
};

export class Metrics {
  readonly #counters = new Map<string, Map<string, { labels: Labels; value: number }>>();
  readonly #histograms = new Map<string, Map<string, Histogram & { labels: Labels }>>();

  add(name: string, labels: Labels, by = 1): void {
    let rows = this.#counters.get(name);
    if (!rows) this.#counters.set(name, (rows = new Map()));
    const key = labelText(labels);
    const row = rows.get(key);
    if (row) row.value += by;
    else rows.set(key, { labels, value: by });
  }

  value(name: string, labels: Labels = {}): number {
    return this.#counters.get(name)?.get(labelText(labels))?.value ?? 0;
  }

  /** The same value may stand for many. */
  observe(name: string, labels: Labels, value: number, times = 1): void {
    let rows = this.#histograms.get(name);
    if (!rows) this.#histograms.set(name, (rows = new Map()));
    const key = labelText(labels);
    const edges = buckets[name] ?? [];
    let row = rows.get(key);
    if (!row) rows.set(key, (row = { labels, counts: edges.map(() => 0), sum: 0, count: 0 }));
    const at = edges.findIndex((edge) => value <= edge);
    if (at >= 0) row.counts[at]! += times;
    row.sum += value * times;
    row.count += times;
  }

  /** The text, with the gauges of each model as they are now. */
  render(models: readonly { name: string; gauges: Gauges }[]): string {
    const lines: string[] = [];
    const head = (name: string, type: string) =>
      lines.push(`# HELP ${name} ${help[name] ?? name}`, `# TYPE ${name} ${type}`);
    const gauges: [string, "gauge" | "counter", (g: Gauges) => number][] = [
      ["vllm:num_requests_running", "gauge", (g) => g.running],
      ["vllm:num_requests_waiting", "gauge", (g) => g.waiting],
      ["vllm:kv_cache_usage_perc", "gauge", (g) => g.cacheUsage],
      ["vllm:prefix_cache_queries_total", "counter", (g) => g.prefixQueries],
      ["vllm:prefix_cache_hits_total", "counter", (g) => g.prefixHits],
      ["vllm:num_preemptions_total", "counter", (g) => g.preemptions],
      ["vllm:spec_decode_num_drafts_total", "counter", (g) => g.drafts ?? 0],
      ["vllm:spec_decode_num_draft_tokens_total", "counter", (g) => g.draftTokens ?? 0],
      ["vllm:spec_decode_num_accepted_tokens_total", "counter", (g) => g.acceptedTokens ?? 0],
    ];
    for (const [name, type, read] of gauges) {
      head(name, type);
      for (const { name: model_name, gauges } of models)
        lines.push(`${name}${labelText({ model_name, engine: "0" })} ${read(gauges)}`);
    }
    for (const [name, rows] of this.#counters) {
      head(name, "counter");
      for (const [labels, { value }] of rows) lines.push(`${name}${labels} ${value}`);
    }
    for (const [name, rows] of this.#histograms) {
      head(name, "histogram");
      for (const { labels, counts, sum, count } of rows.values()) {
        let below = 0;
        for (const [i, edge] of (buckets[name] ?? []).entries()) {
          below += counts[i]!;
          lines.push(`${name}_bucket${labelText({ ...labels, le: String(edge) })} ${below}`);
        }
        lines.push(`${name}_bucket${labelText({ ...labels, le: "+Inf" })} ${count}`);
        lines.push(`${name}_sum${labelText(labels)} ${sum}`, `${name}_count${labelText(labels)} ${count}`);
      }
    }
    return `${lines.join("\n")}\n`;
  }
}
