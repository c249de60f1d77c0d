/** `massif chat`: a conversation in the terminal. `massif chat render` and `parse` are in chat-format.ts. */
import { readFileSync } from "node:fs";
import { readTemplateName, readTools, templateNames } from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import { type LanguageModel, LlmError, OpenAiModel, type Sampling, SamplingSchema } from "../llm/index.ts";
import { loadTokenizer } from "../tokenizer/index.ts";
import { chatFormat } from "./chat-format.ts";
import { type Command, parse } from "./command.ts";
import { converse } from "./conversation.ts";

const help = `
usage: massif chat (--model DIR | --url URL) [options]

A conversation: a line is a message, and Ctrl-C stops an answer. /help lists what else there is.
  --model DIR      a checkpoint or a run folder, in our own engine
  --template NAME  its chat format: ${templateNames.join(", ")} (default instruct)
  --url URL        an OpenAI-compatible server, such as massif serve; its key in MASSIF_API_KEY
  --name NAME      the model's name there (default: the first it lists)
  --system TEXT    the system prompt
  --tools FILE     a JSON list of tools in OpenAI's shape: you are asked what they return
  --temperature T, --top-p P, --top-k K, --min-p P, --max-tokens N, --seed N

From a pipe, each line is a message, answers go to standard output, and all else to standard error.

Examples:
  massif chat --model runs/speedrun
  echo "What is a massif?" | massif chat --url http://127.0.0.1:8000
`;

export const chat: Command = {
  summary: "talk with a model; render and parse: the K2 chat format on rows",
  help: `${help.trim()}\n\n${chatFormat.help.trim()}`,
  async run(args) {
    if (args[0] !== undefined && !args[0].startsWith("-")) return chatFormat.run(args);
    const { values } = parse(
      args,
      {
        model: { type: "string" },
        template: { type: "string" },
        url: { type: "string" },
        name: { type: "string" },
        system: { type: "string" },
        tools: { type: "string" },
        temperature: { type: "string" },
        "top-p": { type: "string" },
        "top-k": { type: "string" },
        "min-p": { type: "string" },
        "max-tokens": { type: "string" },
        seed: { type: "string" },
      },
      false,
    );
    const { model: folder, url, name, system, template: asked } = values;
    const usage = (found: string, expected: string) => new MassifError("cli.usage", { found, expected });
    if ((folder === undefined) === (url === undefined))
      throw usage(folder ? "--model and --url" : "no model", "either --model DIR or --url URL");
    if (url !== undefined && asked !== undefined) throw usage("--template with --url", "a server has its own");
    if (folder !== undefined && name !== undefined) throw usage("--name with --model", "--name with --url");
    const sampling = samplingOf({
      temperature: values.temperature,
      topP: values["top-p"],
      topK: values["top-k"],
      minP: values["min-p"],
      maxTokens: values["max-tokens"],
      seed: values.seed,
    });
    const tools = values.tools === undefined ? [] : toolsIn(values.tools);
    const template = folder === undefined ? undefined : readTemplateName(asked ?? "instruct");
    using stack = new DisposableStack();
    let model: LanguageModel;
    if (template && folder !== undefined) {
      // A conversation with a server needs no torch.
      const { engineModel, openEngine } = await import("../engine/index.ts");
      const dir = (await import("./paths.ts")).modelFolder(folder);
      const engine = stack.use(openEngine({ model: dir, tokenizer: await loadTokenizer(dir), maxRunning: 1 }));
      model = engineModel(engine, { template, name: folder });
    } else model = stack.use(await modelAt(url!, name));
    const { stdin: input, stdout: out, stderr: aside } = process;
    const all = await converse({
      ...{ model, tools, input, out, aside, terminal: !!input.isTTY && !!aside.isTTY },
      ...(system !== undefined && { system }),
      ...(sampling && { sampling }),
      ...(template && { template }),
    });
    return all ? 0 : 1;
  },
};

function samplingOf(given: Partial<Record<keyof Sampling, string>>): Sampling | undefined {
  const numbers = Object.entries(given).flatMap(([key, text]) => (text === undefined ? [] : [[key, Number(text)]]));
  if (!numbers.length) return undefined;
  const { data, error } = SamplingSchema.safeParse(Object.fromEntries(numbers));
  if (data) return data;
  const key = String(error.issues[0]!.path[0]) as keyof Sampling;
  const option = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  throw new MassifError("cli.usage", { found: `--${option} ${given[key]}: ${error.issues[0]!.message}` });
}

function toolsIn(file: string) {
  try {
    return readTools(JSON.parse(readFileSync(file, "utf8")));
  } catch (cause) {
    if (cause instanceof MassifError) throw cause;
    throw new MassifError("cli.usage", { found: `--tools ${file}: ${(cause as Error).message}`, cause });
  }
}

/** The model of a server, by name or the first that it lists. The address may leave out its version. */
async function modelAt(url: string, name: string | undefined): Promise<OpenAiModel> {
  if (!URL.canParse(url)) throw new MassifError("cli.usage", { found: `--url ${url}`, expected: "http://HOST:PORT" });
  const base = new URL(url);
  const baseURL = base.pathname === "/" ? `${base.origin}/v1` : url.replace(/\/$/, "");
  const { MASSIF_API_KEY: apiKey } = process.env;
  const model = name ?? (await firstModel(baseURL, apiKey));
  return new OpenAiModel({ baseURL, model, ...(apiKey && { apiKey }) });
}

async function firstModel(baseURL: string, apiKey: string | undefined): Promise<string> {
  const failed = (found: string, cause?: unknown) =>
    new LlmError("llm.connect", {
      found: `${baseURL}/models: ${found}`,
      fix: "is the server up, and its key in MASSIF_API_KEY?",
      cause,
    });
  const headers = apiKey ? { authorization: `Bearer ${apiKey}` } : undefined;
  const response = await fetch(`${baseURL}/models`, {
    ...(headers && { headers }),
    signal: AbortSignal.timeout(10_000),
  }).catch((cause: Error) => {
    throw failed(cause.cause instanceof Error ? cause.cause.message : cause.message, cause);
  });
  if (!response.ok) throw failed(`HTTP ${response.status}`);
  const { data } = (await response.json().catch(() => ({}))) as { data?: { id?: unknown }[] };
  const id = data?.[0]?.id;
  if (typeof id === "string") return id;
  throw failed("it lists no model");
}
