/** tiktoken's rank files, and the tokenizer_config.json that names the special tokens beside one (the form of the Kimi K2
 *  release). */
import { z } from "zod";
import { MassifError } from "../common/index.ts";
import type { SpecialToken, Tokenizer } from "./tokenizer.ts";
import { NONE } from "./vocabulary.ts";

/** Tokens by id from the text of a rank file: lines `base64 rank`. Throws `tokenizer.file` with the line. */
export function parseRanks(text: string, path: string): (Uint8Array | undefined)[] {
  const tokens: (Uint8Array | undefined)[] = [];
  let number = 0;
  for (const line of text.split("\n")) {
    number++;
    if (!line.trim()) continue;
    const match = /^([A-Za-z0-9+/]+={0,2}) (\d+)\r?$/.exec(line);
    if (!match || tokens[Number(match[2])]) {
      throw new MassifError("tokenizer.file", {
        found: `${path}:${number}: ${match ? `rank ${match[2]} is there twice` : JSON.stringify(line.slice(0, 60))}`,
        expected: "a token in base64, a space, its rank: a tiktoken file",
      });
    }
    tokens[Number(match[2])] = Buffer.from(match[1]!, "base64");
  }
  return tokens;
}

/** The rank file of a tokenizer, or undefined where it does not do what such a file says: merge in the order of ids, and
 *  take a piece that is a token as a whole. */
export function writeRanks({ vocabulary, wholePieces }: Tokenizer): string | undefined {
  const lines: string[] = [];
  let last = -1;
  for (let id = 0; id < vocabulary.size; id++) {
    const bytes = vocabulary.bytes(id);
    if (!bytes.length) continue;
    lines.push(`${Buffer.from(bytes).toString("base64")} ${id}\n`);
    if (bytes.length === 1) continue;
    const rank = vocabulary.ranks[id]!;
    const merged = vocabulary.halves(id) !== undefined;
    if (rank === NONE ? merged || !wholePieces : rank <= last || !(merged || wholePieces)) return undefined;
    if (rank !== NONE) last = rank;
  }
  return lines.join("");
}

const configSchema = z.looseObject({
  added_tokens_decoder: z
    .record(z.string().regex(/^\d+$/), z.looseObject({ content: z.string(), special: z.boolean().default(false) }))
    .default({}),
  /** Ours: the pre-tokenizer pattern under the name of tiktoken's own argument. */
  pat_str: z.string().optional(),
});

/** Special tokens and pattern from a tokenizer_config.json. Between `ordinary` and the highest id that it names, ids
 *  without a name are `<|reserved_token_{id}|>`, as in Kimi K2's code. Throws `tokenizer.file`. */
export function parseConfig(
  json: unknown,
  path: string,
  ordinary: number,
): { specials: SpecialToken[]; pattern?: string } {
  const config = configSchema.safeParse(json);
  if (!config.success) {
    throw new MassifError("tokenizer.file", {
      found: `${path}: ${config.error.issues[0]?.path.join(".")}: ${config.error.issues[0]?.message}`,
      expected: "a tokenizer_config.json with added_tokens_decoder",
    });
  }
  const specials = Object.entries(config.data.added_tokens_decoder).map(([id, token]) => ({
    name: token.content,
    id: Number(id),
    special: token.special,
  }));
  const named = new Set(specials.map(({ id }) => id));
  for (let id = ordinary; id < Math.max(...named); id++) {
    if (!named.has(id)) specials.push({ name: `<|reserved_token_${id}|>`, id, special: true });
  }
  return { specials, pattern: config.data.pat_str };
}

/** The tokenizer_config.json of a tokenizer. */
export function writeConfig(tokenizer: Tokenizer): string {
  const role = (name: string) => (tokenizer.special.has(name) ? name : undefined);
  const decoder = tokenizer.specials.map(({ name, id, special }) => [
    id,
    { content: name, lstrip: false, normalized: false, rstrip: false, single_word: false, special },
  ]);
  const config = {
    added_tokens_decoder: Object.fromEntries(decoder),
    bos_token: role("[BOS]"),
    eos_token: role("[EOS]"),
    unk_token: role("[UNK]"),
    pad_token: role("[PAD]"),
    clean_up_tokenization_spaces: false,
    model_max_length: Number.MAX_SAFE_INTEGER,
    pat_str: tokenizer.splitter.pattern,
    tokenizer_class: "PreTrainedTokenizerFast",
  };
  return `${JSON.stringify(config, null, 2)}\n`;
}
