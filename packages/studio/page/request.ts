/** From settings and conversation to the body of a request, and to a command line that sends the same. */
import type { Turn } from "./answer.ts";

/** As typed: what is left empty is the model's own default, and is not sent. */
export interface Settings {
  model: string;
  system: string;
  /** A JSON list in OpenAI's shape. */
  tools: string;
  toolChoice: string;
  thinking: "" | "enabled" | "disabled";
  temperature: string;
  topP: string;
  topK: string;
  minP: string;
  maxTokens: string;
  seed: string;
  repetitionPenalty: string;
  presencePenalty: string;
  frequencyPenalty: string;
  /** One a line. */
  stop: string;
  /** A JSON object of more fields, over all others. */
  extra: string;
  logprobs: boolean;
  explain: boolean;
}

export const noSettings: Settings = {
  ...{ model: "", system: "", tools: "", toolChoice: "", thinking: "", temperature: "", topP: "", topK: "", minP: "" },
  ...{ maxTokens: "", seed: "", repetitionPenalty: "", presencePenalty: "", frequencyPenalty: "", stop: "", extra: "" },
  ...{ logprobs: false, explain: false },
};

export interface NumberField {
  key: keyof Settings & string;
  wire: string;
  label: string;
  least: number;
  most: number;
  whole?: boolean;
}

export const numberFields: readonly NumberField[] = [
  { key: "temperature", wire: "temperature", label: "Temperature", least: 0, most: 2 },
  { key: "topP", wire: "top_p", label: "Top p", least: 0, most: 1 },
  { key: "topK", wire: "top_k", label: "Top k", least: 1, most: 1e6, whole: true },
  { key: "minP", wire: "min_p", label: "Min p", least: 0, most: 1 },
  { key: "maxTokens", wire: "max_tokens", label: "Most tokens", least: 1, most: 1e7, whole: true },
  { key: "seed", wire: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, whole: true },
  { key: "repetitionPenalty", wire: "repetition_penalty", label: "Repetition penalty", least: 0.01, most: 100 },
  { key: "presencePenalty", wire: "presence_penalty", label: "Presence penalty", least: -2, most: 2 },
  { key: "frequencyPenalty", wire: "frequency_penalty", label: "Frequency penalty", least: -2, most: 2 },
];

/** What is wrong with each setting, by its key; empty where nothing is. */
export function problemsOf(settings: Settings): Partial<Record<keyof Settings, string>> {
  const problems: Partial<Record<keyof Settings, string>> = {};
  for (const { key, least, most, whole } of numberFields) {
    const text = String(settings[key]).trim();
    const value = Number(text);
    if (!text || (value >= least && value <= most && (!whole || Number.isInteger(value)))) continue;
    problems[key] = `${whole ? "a whole number" : "a number"} from ${least} to ${most}`;
  }
  const tools = readTools(settings.tools);
  if (tools.problem) problems.tools = tools.problem;
  const extra = readJson(settings.extra || "{}");
  if (extra.problem) problems.extra = extra.problem;
  else if (!isRecord(extra.value)) problems.extra = 'an object: {"response_format": …}';
  return problems;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function readJson(text: string): { value?: unknown; problem?: string } {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { problem: `not JSON: ${(error as Error).message}` };
  }
}

export function readTools(text: string): { tools: unknown[]; names: string[]; problem?: string } {
  const none = { tools: [], names: [] };
  if (!text.trim()) return none;
  const { value, problem } = readJson(text);
  if (problem) return { ...none, problem };
  if (!Array.isArray(value)) return { ...none, problem: 'a list: [{"type": "function", "function": {"name": …}}]' };
  const names: string[] = [];
  for (const [i, tool] of value.entries()) {
    const at = (path: string, what: string) => ({ ...none, problem: `tools[${i}]${path}: ${what}` });
    if (!isRecord(tool)) return at("", "an object");
    if (tool.type !== "function") return at(".type", 'must be "function"');
    if (!isRecord(tool.function)) return at(".function", "an object with name, description, parameters");
    const { name, parameters } = tool.function;
    if (typeof name !== "string" || !name) return at(".function.name", "is missing");
    if (names.includes(name)) return at(".function.name", `a second tool ${name}`);
    if (parameters !== undefined && !isRecord(parameters)) return at(".function.parameters", "must be a JSON Schema");
    names.push(name);
  }
  return { tools: value, names };
}

/** The conversation in OpenAI's shape. An answer that said nothing is left out, and so are calls that were cut off. */
export function messagesOf(system: string, turns: readonly Turn[]): Record<string, unknown>[] {
  const messages: Record<string, unknown>[] = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    if (turn.role === "user") messages.push({ role: "user", content: turn.content });
    else {
      const calls = turn.state === "done" ? turn.calls : [];
      if (!turn.content && !calls.length) continue;
      messages.push({
        role: "assistant",
        content: turn.content,
        ...(turn.reasoning && { reasoning_content: turn.reasoning }),
        ...(calls.length && {
          tool_calls: calls.map(({ id, name, arguments: args }) => ({
            id,
            type: "function",
            function: { name, arguments: args },
          })),
        }),
      });
      for (const { id, result = "" } of calls) messages.push({ role: "tool", tool_call_id: id, content: result });
    }
  }
  return messages;
}

/** The body for `/v1/chat/completions`. The settings have no problems. */
export function bodyOf(settings: Settings, turns: readonly Turn[]): Record<string, unknown> {
  const { tools, names } = readTools(settings.tools);
  const stop = settings.stop.split("\n").filter(Boolean);
  const numbers = numberFields.flatMap(({ key, wire }) => {
    const text = String(settings[key]).trim();
    return text ? [[wire, Number(text)]] : [];
  });
  const choice = names.includes(settings.toolChoice)
    ? { type: "function", function: { name: settings.toolChoice } }
    : settings.toolChoice;
  return {
    model: settings.model,
    messages: messagesOf(settings.system, turns),
    ...(tools.length && { tools, ...(choice && { tool_choice: choice }) }),
    ...(settings.thinking && { thinking: { type: settings.thinking } }),
    ...Object.fromEntries(numbers),
    ...(stop.length && { stop }),
    ...(settings.logprobs && { logprobs: true, top_logprobs: 5 }),
    ...(settings.explain && { explain: true }),
    stream: true,
    stream_options: { include_usage: true },
    ...(JSON.parse(settings.extra || "{}") as object),
  };
}

/** A command for a POSIX shell. A key is never part of it: it comes from the environment. */
export function curlOf(origin: string, body: Record<string, unknown>, withKey: boolean): string {
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = withKey ? ` \\\n  -H "authorization: Bearer $MASSIF_API_KEY"` : "";
  return `curl -N ${origin}/v1/chat/completions \\\n  -H 'content-type: application/json'${key} \\\n  -d '${json}'`;
}
