import { MassifError, readJsonl } from "../common/index.ts";
import { OpenAiModel } from "../llm/index.ts";
import {
  builtInSchemas,
  passes,
  readBaseline,
  readCase,
  schemaCase,
  verificationTable,
  verifyEndpoint,
} from "../server/index.ts";
import { type Command, parse } from "./command.ts";

export const verify: Command = {
  summary: "scores an endpoint as K2's vendor verifier does: schemas, decisions, leaks, streams",
  help: `massif verify URL [options]

URL has its version: http://127.0.0.1:8000/v1. Exit code 1 where a call does not fit, a marker leaks or an answer is missing.
  --model NAME       default: the first that the endpoint lists
  --api-key-env V    the variable that holds its key
  --schemas FILE     JSONL of schemas, bare or {"schema": …}: a forced call each (default: ${builtInSchemas.length} built in)
  --cases FILE       JSONL of OpenAI bodies (K2-Vendor-Verifier's samples.jsonl)
  --baseline FILE    JSONL of {"request" or "hash", "finish_reason"}: the official run, for the F1 of deciding to call
  --f1 X             least F1 (default 0.73, the threshold of K2 Thinking; 0.8 for 0905)
  --max-tokens N     of a forced call (default 2048)
  --concurrency N    requests at once (default 4)
  --json             scores and every answer as one JSON object

Example:
  massif verify http://127.0.0.1:8000/v1 --schemas schemas.jsonl`,
  async run(args) {
    const { values, positionals } = parse(args, {
      model: { type: "string" },
      "api-key-env": { type: "string" },
      schemas: { type: "string" },
      cases: { type: "string" },
      baseline: { type: "string" },
      f1: { type: "string", default: "0.73" },
      "max-tokens": { type: "string", default: "2048" },
      concurrency: { type: "string", default: "4" },
      json: { type: "boolean", default: false },
    });
    const [baseURL] = positionals;
    if (!baseURL)
      throw new MassifError("cli.usage", { found: "no URL", fix: "massif verify http://127.0.0.1:8000/v1" });
    const number = (name: "f1" | "max-tokens" | "concurrency", least: number) => {
      const value = Number(values[name]);
      if (value >= least) return value;
      throw new MassifError("cli.usage", { found: `--${name} ${values[name]}`, expected: `a number from ${least}` });
    };
    const [f1, maxTokens, concurrency] = [number("f1", 0), number("max-tokens", 1), number("concurrency", 1)];
    const keyName = values["api-key-env"];
    const apiKey = keyName === undefined ? undefined : process.env[keyName];
    const model = values.model ?? (await firstModel(baseURL, apiKey));
    const rows = async (file: string) => {
      const read = await Array.fromAsync(readJsonl<Record<string, unknown>>(file));
      if (read.length) return read;
      throw new MassifError("cli.usage", { found: `no row in ${file}`, expected: "JSONL, a row at least" });
    };
    const given = values.cases === undefined ? [] : await rows(values.cases);
    const usual = given.length ? [] : builtInSchemas;
    const chosen = values.schemas === undefined ? usual : await rows(values.schemas);
    const cases = [
      ...chosen.map((row) => schemaCase(schemaIn(row), maxTokens)),
      ...given.map((body) => readCase(body)),
    ];
    const at = { baseURL, model, ...(apiKey !== undefined && { apiKey }) };
    using whole = new OpenAiModel({ ...at, stream: false });
    using stream = new OpenAiModel(at);
    const verification = await verifyEndpoint({
      ...{ whole, stream, cases, concurrency },
      ...(values.baseline !== undefined && { baseline: readBaseline(await rows(values.baseline)) }),
      onProgress: (done, of) => {
        if (process.stderr.isTTY) process.stderr.write(`\r${done}/${of}${done === of ? "\n" : ""}`);
      },
    });
    const passed = passes(verification, f1);
    if (values.json) console.log(JSON.stringify({ url: baseURL, model, passed, ...verification }));
    else console.log(`${model} at ${baseURL}\n\n${verificationTable(verification)}\n\n${passed ? "passed" : "failed"}`);
    return passed ? 0 : 1;
  },
};

function schemaIn(row: Record<string, unknown>): Record<string, unknown> {
  const schema = typeof row.schema === "string" ? JSON.parse(row.schema) : (row.schema ?? row);
  return schema as Record<string, unknown>;
}

async function firstModel(url: string, apiKey: string | undefined): Promise<string> {
  const headers = apiKey === undefined ? undefined : { authorization: `Bearer ${apiKey}` };
  const fix = "start the server, or name the model with --model";
  try {
    const response = await fetch(`${url.replace(/\/+$/, "")}/models`, { ...(headers && { headers }) });
    const { data } = (await response.json()) as { data?: { id?: string }[] };
    if (data?.[0]?.id) return data[0].id;
    throw new MassifError("verify.model", { found: `${url} lists no models (status ${response.status})`, fix });
  } catch (cause) {
    if (cause instanceof MassifError) throw cause;
    throw new MassifError("verify.model", { found: `${url}: ${(cause as Error).message}`, fix, cause });
  }
}
