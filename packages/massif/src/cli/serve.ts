import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { DType } from "@massif/torch";
import { readTemplateName } from "../chat/index.ts";
import { MassifError } from "../common/index.ts";
import { engineBackend, Keys, listen, openGateway, Service, searchEndpoint } from "../server/index.ts";
import { loadTokenizer } from "../tokenizer/index.ts";
import { shippedWorlds } from "../worlds/index.ts";
import { type Command, parse } from "./command.ts";

/** Milliseconds between two looks at the upstreams. */
const PROBE = 10_000;

export const serve: Command = {
  summary: "serve a model, or a gateway to other engines, as OpenAI, Anthropic and Responses APIs",
  help: `massif serve (--model DIR | --upstream URL…) [options]

  --model DIR          a checkpoint or a run folder: our own engine
  --upstream URL       an OpenAI-compatible engine, with version (http://127.0.0.1:8000/v1); several share the load
  --name NAME          what clients call the model; several, and * for any (default: its own name)
  --host H, --port P   default 127.0.0.1 and 8000; a host that others can reach needs keys
  --api-key-file FILE  one key a line, or JSON with names and limits; or the variable MASSIF_API_KEY
  --max-running N      requests at once (default 64); --max-waiting N behind them (default 1024), then 429
  --cors ORIGIN        browsers of this origin may ask; several
  --ignore-unknown     drop fields that are not known, instead of a 400 that names them
  --state DIR          keep files, batches, stored completions and context caches here; without it no files and batches
  --search URL         a search endpoint for $web_search: {query} is replaced, JSON as SearXNG's comes back
  --debug              allow "explain": the prompt, its ids and timings with the answer
  --world W            a world whose user a person may play in the chat page: a shipped one, or a file; several (default:
                       all that are shipped; none for none)
  --runs DIR           run folders for the page /runs; several (default: the model's own, where it is one)

Engine:
  --template T         instruct (default), instruct-v0, -v1, -v2 or thinking
  --dtype D            of the weights (default: as stored); --cache-mib N for the cache (default: a quarter of what is free)
  --weights W          bfloat16 or int4 (routed experts): products in it, whatever is stored
  --exact              the same bits whatever else runs (float32)
  --speculate N        guess up to N tokens a step from what stood before or what a schema forces, and verify them
  --weights-root DIR   reinforcement learning: pause, sleep, weights from folders under DIR or as tensors, under vLLM's
                       and SGLang's names

Gateway:
  --upstream-model M   the model's name there (default: the first it lists)
  --upstream-key-env V the variable that holds the upstream's key
  --verify MODE        repair (default): a wrong tool call is asked for once more, constrained; count; off
  --raw                upstreams continue bare text: the K2 format of --template is made and read here
  --tokenizer DIR      the upstream's, for ids in place of text, and to count tokens

Example:
  massif serve --model runs/speedrun --port 8000
  curl http://127.0.0.1:8000/v1/models`,
  async run(args) {
    const { values } = parse(
      args,
      {
        model: { type: "string" },
        upstream: { type: "string", multiple: true, default: [] },
        name: { type: "string", multiple: true, default: [] },
        host: { type: "string", default: "127.0.0.1" },
        port: { type: "string", default: "8000" },
        "api-key-file": { type: "string" },
        "max-running": { type: "string", default: "64" },
        "max-waiting": { type: "string", default: "1024" },
        cors: { type: "string", multiple: true, default: [] },
        "ignore-unknown": { type: "boolean", default: false },
        state: { type: "string" },
        search: { type: "string" },
        debug: { type: "boolean", default: false },
        world: { type: "string", multiple: true, default: [] },
        runs: { type: "string", multiple: true, default: [] },
        template: { type: "string", default: "instruct" },
        dtype: { type: "string" },
        weights: { type: "string" },
        "cache-mib": { type: "string" },
        exact: { type: "boolean", default: false },
        speculate: { type: "string" },
        "weights-root": { type: "string" },
        "upstream-model": { type: "string" },
        "upstream-key-env": { type: "string" },
        verify: { type: "string", default: "repair" },
        raw: { type: "boolean", default: false },
        tokenizer: { type: "string" },
      },
      false,
    );
    const { model: source, upstream, name: names, verify, "weights-root": weightsRoot } = values;
    const usage = (found: string, expected: string) => new MassifError("cli.usage", { found, expected });
    if ((source === undefined) === (upstream.length === 0))
      throw usage(source ? "--model and --upstream" : "no model", "either --model DIR or --upstream URL");
    if (verify !== "off" && verify !== "count" && verify !== "repair")
      throw usage(`--verify ${verify}`, "off, count or repair");
    const number = (option: "port" | "max-running" | "max-waiting" | "cache-mib" | "speculate", least: number) => {
      const value = Number(values[option]);
      if (Number.isInteger(value) && value >= least) return value;
      throw usage(`--${option} ${values[option]}`, `a whole number from ${least}`);
    };
    const { weights } = values;
    if (weights !== undefined && weights !== "bfloat16" && weights !== "int4")
      throw usage(`--weights ${weights}`, "bfloat16 or int4");
    const template = readTemplateName(values.template);
    const [running, waiting] = [number("max-running", 1), number("max-waiting", 0)];
    const service = new Service({ running, waiting });
    service.loading = source ? `loading ${source}` : "waiting for the upstream";
    const server = await listen({
      service,
      keys: readKeys(values["api-key-file"]),
      ...{ host: values.host, port: number("port", 0), cors: values.cors, debug: values.debug },
      worlds: worldsOf(values.world),
      runs: values.runs.length || !source || !existsSync(join(source, "metrics.jsonl")) ? values.runs : [source],
      ignoreUnknown: values["ignore-unknown"],
      ...(weightsRoot !== undefined && { weightsRoot }),
      ...(values.state !== undefined && { state: values.state }),
      ...(values.search !== undefined && { search: searchEndpoint(values.search) }),
      log: (line) => process.stderr.write(`${JSON.stringify(line)}\n`),
    });
    using stack = new DisposableStack();
    const ended = untilSignal();
    try {
      if (source !== undefined) {
        // On demand: a gateway loads no torch.
        const [{ openEngine }, { modelFolder }] = await Promise.all([
          import("../engine/index.ts"),
          import("./paths.ts"),
        ]);
        const folder = modelFolder(source);
        const tokenizer = await loadTokenizer(folder);
        const engine = stack.use(
          openEngine({
            ...{ model: folder, tokenizer, exact: values.exact, maxRunning: running, maxWaiting: waiting },
            ...(values.dtype !== undefined && { dtype: values.dtype as DType }),
            ...(weights !== undefined && { weights }),
            ...(values.speculate !== undefined && { speculate: { ngram: 3, max: number("speculate", 1) } }),
            ...(values["cache-mib"] !== undefined && { cacheBytes: number("cache-mib", 1) * 2 ** 20 }),
          }),
        );
        console.log(`decoding: ${engine.path}`);
        service.add(await engineBackend(engine, { names: names.length ? names : ["massif"], template }));
      } else {
        const keyName = values["upstream-key-env"];
        const apiKey = keyName === undefined ? undefined : process.env[keyName];
        if (keyName !== undefined && !apiKey) throw usage(`${keyName} is not set`, "the upstream's key in it");
        const tokenizer = values.tokenizer === undefined ? undefined : await loadTokenizer(values.tokenizer);
        const gateway = stack.use(
          await openGateway({
            ...{ urls: upstream, names, verify, metrics: service.metrics },
            ...(apiKey && { apiKey }),
            ...(values["upstream-model"] !== undefined && { model: values["upstream-model"] }),
            ...(values.raw && { raw: { format: { template, ...(tokenizer && { tokenizer }) } } }),
            ...(tokenizer && !values.raw && { format: { tokenizer, template } }),
          }),
        );
        service.add(gateway.backend);
        const timer = setInterval(() => void gateway.upstreams.probe(), PROBE);
        stack.defer(() => clearInterval(timer));
      }
    } catch (error) {
      await server.close();
      throw error;
    }
    service.loading = undefined;
    console.log(`serving ${service.backends.map((b) => b.names.join(", ")).join("; ")} at ${server.url}`);
    console.log(`chat: ${server.url}/ or massif chat --url ${server.url}; runs: ${server.url}/runs`);
    console.log(`try: curl ${server.url}/v1/models`);
    const signal = await ended;
    process.stderr.write(`${signal}: no new requests; those under way have 30 s\n`);
    await server.close();
    return 0;
  },
};

const worldsOf = (named: readonly string[]): readonly string[] =>
  named.length ? named.filter((name) => name !== "none") : shippedWorlds();

function readKeys(file: string | undefined): Keys {
  if (file !== undefined) return Keys.read(readFileSync(file, "utf8"));
  const { MASSIF_API_KEY: key } = process.env;
  return new Keys(key ? [{ key, name: "MASSIF_API_KEY", admin: true }] : []);
}

/** The first signal to end; a second one ends the process at once. */
function untilSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let since = 0;
    const on = (signal: NodeJS.Signals) => {
      if (since && Date.now() - since > 1000) process.exit(130); // a terminal's group signal may come twice
      since ||= Date.now();
      resolve(signal);
    };
    process.on("SIGINT", on).on("SIGTERM", on);
  });
}
