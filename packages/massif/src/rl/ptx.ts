/** Rows for K2's auxiliary language-model loss (arXiv 2507.20534 §3.2.3): conversations from files, or what the oracles of the
 *  worlds do. */
import { resolve } from "node:path";
import { readLines } from "../common/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import { type Conversation, examplesOf, PackedOrder, readConversation } from "../train/index.ts";
import { oracle, play, quizOracle, SingleTurn } from "../worlds/index.ts";
import type { RlRecipe } from "./recipe.ts";
import type { Arena } from "./rollouts.ts";

/** Demonstrations of each world, where no files are given. */
const DEMONSTRATIONS = 256;

/** Throws `sft.row`, and what reading throws. */
export async function ptxOrder(
  { ptx, template, batch, seed }: RlRecipe,
  base: string,
  tokenizer: Tokenizer,
  arenas: readonly Arena[],
): Promise<PackedOrder> {
  const conversations = ptx.data.length ? await fromFiles(ptx.data, base) : await fromOracles(arenas);
  const { seqLen } = batch;
  const options = { tokenizer, template, keepReasoning: true, seqLen };
  const examples = conversations.flatMap((conversation) => examplesOf(conversation, options));
  return new PackedOrder(examples, { seqLen, seed });
}

async function fromFiles(files: readonly string[], base: string): Promise<Conversation[]> {
  const found: Conversation[] = [];
  for (const file of files)
    for await (const line of readLines(resolve(base, file)))
      if (line.trim()) found.push(readConversation(JSON.parse(line)));
  return found;
}

async function fromOracles(arenas: readonly Arena[]): Promise<Conversation[]> {
  const found: Conversation[] = [];
  for (const arena of arenas) {
    const env = arena.open();
    for (let seed = 0; seed < DEMONSTRATIONS; seed++) {
      const { messages, tools } =
        env instanceof SingleTurn ? await play(env, seed, quizOracle) : await play(env, seed, oracle);
      found.push({ messages, tools, silent: new Set() });
    }
  }
  return found;
}
