import type { DType } from "@massif/torch";
import { MassifError, Random } from "../common/index.ts";
import { loadModel, generate as tokens } from "../model/index.ts";
import { loadTokenizer } from "../tokenizer/index.ts";
import { type Command, parse } from "./command.ts";
import { modelFolder } from "./paths.ts";

const DTYPES = ["float32", "bfloat16", "float64"];

export const generate: Command = {
  summary: "let a model write",
  help: `massif generate --model DIR --prompt TEXT [options]

DIR is a checkpoint or a run folder (its last checkpoint).
  --max-tokens N     at most so many tokens (default 200)
  --temperature T    0 takes the likeliest token (default 0.8)
  --top-k K, --top-p P, --min-p P
  --seed N           the same seed gives the same text (default: a new one, printed)
  --device D         cpu, cuda, mps (default cpu)
  --dtype D          float32, bfloat16 or float64 (default: as stored)

Example:
  massif generate --model runs/speedrun --prompt "The state of the Union is"`,
  async run(args) {
    const { values } = parse(
      args,
      {
        model: { type: "string" },
        prompt: { type: "string", default: "" },
        "max-tokens": { type: "string", default: "200" },
        temperature: { type: "string", default: "0.8" },
        "top-k": { type: "string" },
        "top-p": { type: "string" },
        "min-p": { type: "string" },
        seed: { type: "string" },
        device: { type: "string", default: "cpu" },
        dtype: { type: "string" },
      },
      false,
    );
    if (!values.model)
      throw new MassifError("cli.usage", {
        found: "no --model",
        fix: "massif generate --model runs/speedrun --prompt TEXT",
      });
    if (values.dtype && !DTYPES.includes(values.dtype))
      throw new MassifError("cli.usage", { found: `--dtype ${values.dtype}`, expected: DTYPES.join(", ") });
    const number = (
      name: "max-tokens" | "temperature" | "top-k" | "top-p" | "min-p" | "seed",
      low: number,
      high: number,
    ) => {
      const text = values[name];
      if (text === undefined) return undefined;
      const value = Number(text);
      if (!(value >= low && value <= high))
        throw new MassifError("cli.usage", { found: `--${name} ${text}`, expected: `a number from ${low} to ${high}` });
      return value;
    };
    const [maxNewTokens, temperature, topK, topP, minP] = [
      number("max-tokens", 1, 1e6),
      number("temperature", 0, 100),
      number("top-k", 1, 1e6),
      number("top-p", 0, 1),
      number("min-p", 0, 1),
    ];
    const seed = number("seed", 0, 2 ** 32) ?? Math.floor(Math.random() * 2 ** 32);
    const folder = modelFolder(values.model);
    const tokenizer = await loadTokenizer(folder);
    const model = loadModel(folder, { device: values.device, ...(values.dtype && { dtype: values.dtype as DType }) });
    const end = [model.config.eosTokenId ?? []].flat();
    const prompt = [...end.slice(0, 1), ...tokenizer.encode(values.prompt)];
    if (!prompt.length)
      throw new MassifError("cli.usage", {
        found: "an empty prompt, and the model has no eos_token_id to begin with",
        fix: "--prompt TEXT",
      });
    if (values.seed === undefined) console.error(`seed ${seed}`);
    const decoder = tokenizer.decoder();
    process.stdout.write(values.prompt);
    const options = {
      maxNewTokens: maxNewTokens!,
      random: new Random(seed),
      stop: end,
      ...(temperature !== undefined && { temperature }),
      ...(topK !== undefined && { topK }),
      ...(topP !== undefined && { topP }),
      ...(minP !== undefined && { minP }),
    };
    for (const id of tokens(model, prompt, options)) {
      process.stdout.write(decoder.push(id));
      await new Promise(setImmediate);
    }
    process.stdout.write(`${decoder.end()}\n`);
    return 0;
  },
};
