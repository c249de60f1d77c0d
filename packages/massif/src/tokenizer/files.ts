/** Tokenizers on disk. */
import { existsSync, statSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { MassifError, readText } from "../common/index.ts";
import { parseHuggingFace, writeHuggingFace } from "./huggingface.ts";
import type { PatternName } from "./pattern.ts";
import { parseConfig, parseRanks, writeConfig, writeRanks } from "./tiktoken.ts";
import { Tokenizer } from "./tokenizer.ts";

const JSON_FILE = "tokenizer.json";
const RANKS_FILE = "tiktoken.model";
const CONFIG_FILE = "tokenizer_config.json";

export interface LoadOptions {
  /** The tokenizer_config.json of a rank file; left out: the one beside it, if there is one. */
  config?: string;
  /** The pattern of a rank file; left out: what the config says (`pat_str`), else Kimi K2's. */
  pattern?: PatternName | (string & {});
}

/** Reads a tokenizer: a tokenizer.json, a tiktoken rank file, or a folder with either (tokenizer.json first, since it is
 *  whole in itself); packed with xz, gzip or zstd too. Throws `tokenizer.missing`, `tokenizer.file`,
 *  `tokenizer.unsupported`, `tokenizer.vocabulary`, `tokenizer.pattern`. */
export async function loadTokenizer(path: string, options: LoadOptions = {}): Promise<Tokenizer> {
  const file = find(path);
  const text = await readText(file);
  if (text.trimStart().startsWith("{")) return parseHuggingFace(parseJson(text, file), file);
  const tokens = parseRanks(text, file);
  const beside = join(dirname(file), CONFIG_FILE);
  const configPath = options.config ?? (existsSync(beside) ? beside : undefined);
  const config = configPath
    ? parseConfig(parseJson(await readText(configPath), configPath), configPath, tokens.length)
    : { specials: [] };
  return new Tokenizer({ tokens, specials: config.specials, pattern: options.pattern ?? config.pattern });
}

function find(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false });
  const inside = stat?.isDirectory() ? [JSON_FILE, RANKS_FILE].map((name) => join(path, name)) : [path];
  const found = stat && inside.find((file) => existsSync(file));
  if (found) return found;
  throw new MassifError("tokenizer.missing", {
    found: stat ? `${path} has no ${JSON_FILE} and no ${RANKS_FILE}` : `${path} does not exist`,
    expected: `a ${JSON_FILE}, a tiktoken rank file, or a folder with ${JSON_FILE} or ${RANKS_FILE}`,
    fix: "massif tokenizer train FILES --vocab-size 4096 --out FOLDER makes one",
  });
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new MassifError("tokenizer.file", { found: `${path} is not JSON: ${(cause as Error).message}`, cause });
  }
}

/** Writes tokenizer.json, tokenizer_config.json and, where it can say the same, tiktoken.model to a folder, which is made
 *  if need be; Python's `tokenizers`, `transformers` and `tiktoken` read them. */
export async function saveTokenizer(tokenizer: Tokenizer, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, JSON_FILE), writeHuggingFace(tokenizer));
  await writeFile(join(folder, CONFIG_FILE), writeConfig(tokenizer));
  const ranks = writeRanks(tokenizer);
  if (ranks === undefined) await rm(join(folder, RANKS_FILE), { force: true });
  else await writeFile(join(folder, RANKS_FILE), ranks);
}
