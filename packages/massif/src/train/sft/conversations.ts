/** The conversations of a run: read, divided, and turned into examples. Whatever is wrong is said with file and line. */
import { createHash } from "node:crypto";
import { MassifError, readLines } from "../../common/index.ts";
import type { Tokenizer } from "../../tokenizer/index.ts";
import { documentKey, splitDocuments } from "../data/index.ts";
import { type Example, type ExampleOptions, examplesOf, readConversation } from "./examples.ts";
import type { SftRecipe } from "./recipe.ts";

export interface NamedExample extends Example {
  /** FILE:LINE. */
  name: string;
}

export interface Examples {
  train: NamedExample[];
  heldOut: NamedExample[];
  /** Rows read, and rows passed over for their reward. */
  rows: number;
  passedOver: number;
}

/** Troubles that are listed; more are counted. */
const LISTED = 8;

/** Throws `sft.rows` that lists what is wrong by FILE:LINE, `sft.empty` where nothing is left, and what reading throws. */
export async function readExamples(
  files: readonly string[],
  recipe: SftRecipe,
  tokenizer: Tokenizer,
): Promise<Examples> {
  const { template, keepReasoning, batch, minReward } = recipe;
  const options: ExampleOptions = { tokenizer, template, keepReasoning, seqLen: batch.seqLen };
  const found: { key: bigint; examples: NamedExample[] }[] = [];
  const troubles: string[] = [];
  let [rows, passedOver] = [0, 0];
  for (const file of files) {
    let line = 0;
    for await (const text of readLines(file)) {
      line++;
      if (!text.trim()) continue;
      rows++;
      const name = `${file}:${line}`;
      try {
        const conversation = readConversation(JSON.parse(text));
        if (minReward !== null && conversation.reward !== undefined && conversation.reward < minReward) {
          passedOver++;
          continue;
        }
        const examples = examplesOf(conversation, options).map((example) => ({ ...example, name }));
        // By content: a conversation that stands twice stands on one side.
        found.push({ key: documentKey(createHash("sha256").update(text).digest("hex")), examples });
      } catch (error) {
        if (!(error instanceof MassifError || error instanceof SyntaxError)) throw error;
        const { found, expected } = error instanceof MassifError ? error.trouble : { found: "not JSON" };
        troubles.push(`${name}: ${found}${expected ? ` (expected: ${expected})` : ""}`);
      }
    }
  }
  if (troubles.length) throw refused(troubles, rows);
  if (!found.length)
    throw new MassifError("sft.empty", {
      found: rows ? `all ${rows} rows are below minReward ${minReward}` : "no conversations",
      expected: "at least two: one to learn from, one to evaluate on",
      fix: rows ? "lower minReward" : "give files (data), or demonstrations",
    });
  const split = splitDocuments(
    BigUint64Array.from(found, ({ key }) => key),
    recipe.heldOut,
  );
  const side = (numbers: Uint32Array) => Array.from(numbers).flatMap((i) => found[i]!.examples);
  return { train: side(split.train), heldOut: side(split.heldOut), rows, passedOver };
}

function refused(troubles: readonly string[], rows: number): MassifError {
  const more = troubles.length > LISTED ? [`and ${troubles.length - LISTED} more`] : [];
  return new MassifError("sft.rows", {
    found: [`${troubles.length} of ${rows} rows cannot be learned:`, ...troubles.slice(0, LISTED), ...more].join(
      "\n  ",
    ),
    fix: "correct or remove these rows; for long ones raise batch.seqLen",
  });
}
