/** `massif tokenizer`: train a vocabulary; rows of text to ids and back. */
import { z } from "zod";
import { MassifError, nearest, Progress, readJsonl, readText, writeJsonl } from "../common/index.ts";
import { loadTokenizer, saveTokenizer, Trainer } from "../tokenizer/index.ts";
import { type Command, parse } from "./command.ts";

const textRow = z.looseObject({ text: z.string() });
const idsRow = z.looseObject({ ids: z.array(z.int().nonnegative()) });

export const tokenizer: Command = {
  summary: "train a byte-level BPE vocabulary, encode text to ids, decode ids",
  help: `
massif tokenizer train FILES… --vocab-size N --out DIR [--pattern k2]
massif tokenizer encode [FILE] --tokenizer FILE_OR_FOLDER [--allow-special]
massif tokenizer decode [FILE] --tokenizer FILE_OR_FOLDER [--skip-special]

train   reads .txt files (a document each) and .jsonl files (field "text"), also packed (.gz, .zst, .xz), and writes
        tokenizer.json, tiktoken.model and tokenizer_config.json. The same texts give the same files.
encode  reads {"text": …} a line and writes {"ids": […]}; decode does the reverse. Other fields pass through.
        FILE may be packed; without it, or as "-", it is standard input.

  --vocab-size N    all tokens, with 256 bytes and 17 special tokens
  --out DIR         the folder to write
  --pattern NAME    k2 (default), gpt2, cl100k, qwen, or a regular expression
  --tokenizer PATH  a tokenizer.json, a tiktoken rank file, or a folder with one
  --tokenizer-config FILE  special tokens of a rank file; default: tokenizer_config.json beside it
  --allow-special   special-token text in the input becomes special tokens; by default it stays text
  --skip-special    leaves special tokens out of decoded text

Example:
  printf 'to be or not to be, that is the question\\n' > /tmp/lines.txt
  massif tokenizer train /tmp/lines.txt --vocab-size 280 --out /tmp/tokens
  echo '{"text":"to be"}' | massif tokenizer encode --tokenizer /tmp/tokens | massif tokenizer decode --tokenizer /tmp/tokens
`,
  async run([action, ...args]) {
    const act = Object.hasOwn(actions, action ?? "") ? actions[action as keyof typeof actions] : undefined;
    if (act) return act(args);
    const like = nearest(action ?? "", Object.keys(actions));
    throw wrong(
      action ? `there is no 'massif tokenizer ${action}'` : "nothing to do",
      like && `did you mean '${like}'?`,
    );
  },
};

const source = { tokenizer: { type: "string" }, "tokenizer-config": { type: "string" } } as const;

const wrong = (found: string, fix = "massif tokenizer --help tells more") =>
  new MassifError("cli.usage", { found, fix });

async function train(args: string[]): Promise<number> {
  const { values, positionals } = parse(args, {
    "vocab-size": { type: "string" },
    out: { type: "string" },
    pattern: { type: "string" },
  });
  const { out, pattern } = values;
  if (!positionals.length) throw wrong("no files to train on");
  if (!values["vocab-size"] || !out) throw wrong(`--${out ? "vocab-size" : "out"} is missing`);
  const progress = new Progress();
  const vocabSize = Number(values["vocab-size"]);
  let merging: ReturnType<typeof progress.stage> | undefined;
  const trainer = new Trainer({ vocabSize, pattern, onProgress: ({ done }) => merging?.update(done) });
  const reading = progress.stage("read", "counts words", { total: positionals.length });
  for (const [i, file] of positionals.entries()) {
    if (/\.jsonl(\.\w+)?$/.test(file)) for await (const { text } of readJsonl(file, textRow)) trainer.add(text);
    else trainer.add(await readText(file));
    reading.update(i + 1);
  }
  reading.done(`${positionals.length} files`);
  merging = progress.stage("merge", "", { total: vocabSize });
  const made = trainer.finish();
  merging.done(`${made.vocabSize} tokens`);
  await saveTokenizer(made, out);
  progress.print(`${out} is written. Next: massif tokenizer encode --tokenizer ${out}`);
  return 0;
}

async function encode(args: string[]): Promise<number> {
  const { values, positionals } = parse(args, {
    ...source,
    "allow-special": { type: "boolean", default: false },
  });
  const loaded = await load(values, positionals);
  await writeJsonl(
    undefined,
    map(readJsonl(positionals[0], textRow), ({ text, ...rest }) => {
      return { ...rest, ids: [...loaded.encode(text, { allowSpecial: values["allow-special"] })] };
    }),
  );
  return 0;
}

async function decode(args: string[]): Promise<number> {
  const { values, positionals } = parse(args, {
    ...source,
    "skip-special": { type: "boolean", default: false },
  });
  const loaded = await load(values, positionals);
  const ids = idsRow.extend({
    ids: z.array(
      z
        .int()
        .nonnegative()
        .max(loaded.vocabSize - 1, `an id is not below ${loaded.vocabSize}`),
    ),
  });
  await writeJsonl(
    undefined,
    map(readJsonl(positionals[0], ids), ({ ids, ...rest }) => {
      return { ...rest, text: loaded.decode(ids, { skipSpecial: values["skip-special"] }) };
    }),
  );
  return 0;
}

const actions = { train, encode, decode };

function load(values: { tokenizer?: string; "tokenizer-config"?: string }, positionals: string[]) {
  if (!values.tokenizer) throw wrong("--tokenizer is missing");
  if (positionals.length > 1) throw wrong(`one file at most, not ${positionals.length}`);
  return loadTokenizer(values.tokenizer, { config: values["tokenizer-config"] });
}

async function* map<A, B>(rows: AsyncIterable<A>, f: (row: A) => B): AsyncGenerator<B> {
  for await (const row of rows) yield f(row);
}
