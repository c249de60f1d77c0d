/** Episodes of a run as people read them: the trajectory, and what each token of the model was, with its log-probability. */
import { lstatSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { TrajectorySchema } from "../../chat/index.ts";
import { loadTokenizer, type Tokenizer, tokenizerDigest } from "../../tokenizer/index.ts";
import { isFile } from "./run-folders.ts";

/** Rows of one answer: as many as a list shows. */
const MOST = 256;

interface TokenText {
  text: string;
  logprob: number | null;
}

/** The rows of an episode file; what is no trajectory is passed over and counted. `turns` are the tokens of each of the
 *  model's messages, in their order: without a tokenizer of the trajectory's own they are numbers. */
export async function readEpisodes(dir: string, text: string): Promise<Record<string, unknown>> {
  const lines = text.split("\n").filter(Boolean);
  const tokenizer = await tokenizerOf(dir);
  const digest = tokenizer && tokenizerDigest(tokenizer);
  const rows = lines.slice(0, MOST).flatMap((line) => {
    const row = parse(line);
    if (!row) return [];
    const { tokens, ...rest } = row;
    const names = tokens?.tokenizer === digest ? tokenizer : undefined;
    const turns = tokens?.turns.map(({ message, start, end, weights }) => ({
      message,
      ...(weights !== undefined && { weights }),
      tokens: tokens.ids.slice(start, end).map(
        (id, i): TokenText => ({
          text: names ? textOf(names, id) : `${id} `,
          logprob: tokens.logprobs?.[start + i] ?? null,
        }),
      ),
    }));
    return [{ ...rest, ...(turns && { turns, template: tokens?.template }) }];
  });
  return { total: lines.length, unreadable: Math.min(lines.length, MOST) - rows.length, rows };
}

function parse(line: string) {
  try {
    return TrajectorySchema.safeParse(JSON.parse(line)).data;
  } catch {
    return undefined;
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** A token that is part of a character shows its bytes. */
function textOf(tokenizer: Tokenizer, id: number): string {
  try {
    return utf8.decode(tokenizer.tokenBytes(id));
  } catch {
    return id < tokenizer.vocabSize
      ? `⟨${Buffer.from(tokenizer.tokenBytes(id)).toString("hex").toUpperCase()}⟩`
      : `${id} `;
  }
}

const loaded = new Map<string, Promise<Tokenizer | undefined>>();

/** Of the run's last checkpoint, or beside its data. */
function tokenizerOf(dir: string): Promise<Tokenizer | undefined> {
  const folder = tokenizerFolder(dir);
  if (!folder) return Promise.resolve(undefined);
  let tokenizer = loaded.get(folder);
  if (!tokenizer) {
    // A run that goes on leaves its older checkpoints behind: two or three are in use at a time.
    if (loaded.size >= 4) loaded.delete(loaded.keys().next().value!);
    tokenizer = loadTokenizer(folder).catch(() => undefined);
    loaded.set(folder, tokenizer);
  }
  return tokenizer;
}

function tokenizerFolder(dir: string): string | undefined {
  const own = (path: string) => lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const checkpoints = join(dir, "checkpoints");
  const steps = own(checkpoints)
    ? readdirSync(checkpoints, { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && /^step-\d+$/.test(entry.name))
        .map(({ name }) => Number(name.slice(5)))
    : [];
  const folders = [
    ...steps.sort((a, b) => b - a).map((step) => join(checkpoints, `step-${step}`)),
    join(dir, "tokenizer"),
  ];
  return folders.find(
    (folder) => own(folder) && ["tiktoken.model", "tokenizer.json"].some((f) => isFile(join(folder, f))),
  );
}
