/**
 * From rows to what is learned: the tokens of a conversation, and which of them the model must write (source `assistant`).
 * A trajectory with the tokens it was sampled as keeps them; any other row is rendered. Where the template drops reasoning
 * from history, a conversation is one example for each chain of calls, cut after it: as the model saw it when it wrote.
 */
import {
  encodeSegments,
  type Message,
  readMessages,
  readTools,
  render,
  type Segment,
  type TemplateName,
  type ToolSpec,
  type Trajectory,
  TrajectorySchema,
  thinks,
} from "../../chat/index.ts";
import { MassifError } from "../../common/index.ts";
import { type Tokenizer, tokenizerDigest } from "../../tokenizer/index.ts";

export interface Example {
  ids: Int32Array;
  /** For each token, whether it is a target. */
  learn: Uint8Array;
}

export interface ExampleOptions {
  tokenizer: Tokenizer;
  template: TemplateName;
  keepReasoning: boolean;
  /** T: an example's tokens but the last must fit in a row. */
  seqLen: number;
}

/** A row as it stands in a file: a trajectory, or messages and tools. */
export interface Conversation {
  messages: Message[];
  tools: ToolSpec[];
  /** Messages of the model that are context only (OpenAI's `weight: 0`). */
  silent: ReadonlySet<number>;
  tokens?: Trajectory["tokens"];
  reward?: number;
}

/** Throws `sft.row` for what is neither. */
export function readConversation(row: unknown): Conversation {
  const given = row as { schema?: unknown; messages?: unknown; tools?: unknown } | null;
  if (typeof given !== "object" || given === null || !("messages" in given))
    throw bad("no messages", "a massif.trajectory/1, or an object with messages in OpenAI's shape, and tools");
  if (given.schema === undefined) {
    const silent = (given.messages as { weight?: unknown }[]).flatMap?.((m, i) => (m?.weight === 0 ? [i] : [])) ?? [];
    return { messages: readMessages(given.messages), tools: readTools(given.tools), silent: new Set(silent) };
  }
  const parsed = TrajectorySchema.safeParse(row);
  const [issue] = parsed.error?.issues ?? [];
  if (!parsed.success) throw bad(`${issue?.path.join(".")}: ${issue?.message}`, "a massif.trajectory/1");
  const { messages, tools, tokens, reward } = parsed.data;
  return { messages, tools, silent: new Set(), ...(tokens && { tokens }), ...(reward && { reward: reward.total }) };
}

/** Throws `sft.row` where there is nothing to learn, an example is too long, or its ids are another tokenizer's. */
export function examplesOf(conversation: Conversation, options: ExampleOptions): Example[] {
  const examples = conversation.tokens ? [sampled(conversation, options)] : rendered(conversation, options);
  for (const { ids, learn } of examples) {
    if (ids.length - 1 > options.seqLen)
      throw bad(`${ids.length} tokens`, `at most ${options.seqLen + 1} (batch.seqLen and one)`);
    // The first token is predicted from nothing.
    if (!learn.subarray(1).some(Boolean)) throw bad("nothing that the model must write", "a message of the assistant");
  }
  return examples;
}

function sampled({ tokens }: Conversation, { tokenizer, template }: ExampleOptions): Example {
  const { ids, sources, tokenizer: made, template: by } = tokens!;
  const own = tokenizerDigest(tokenizer);
  if (made !== own) throw bad(`tokens of the tokenizer ${made}`, `${own}, the model's own`);
  if (by !== template) throw bad(`tokens in the template ${by}`, `${template}, the recipe's`);
  return {
    ids: Int32Array.from(ids),
    learn: Uint8Array.from(sources, (source) => Number(source === "assistant")),
  };
}

function rendered({ messages, tools, silent }: Conversation, options: ExampleOptions): Example[] {
  const { template, tokenizer } = options;
  const of = (segments: readonly Segment[], from: number): Example => {
    const { ids, sources, messages: owners } = encodeSegments(segments, tokenizer);
    const written = (i: number) => sources[i] === "assistant" && owners[i]! >= from && !silent.has(owners[i]!);
    return { ids: Int32Array.from(ids), learn: Uint8Array.from(ids, (_, i) => Number(written(i))) };
  };
  const reasons = messages.some((m) => m.role === "assistant" && m.reasoning_content);
  if (!thinks(template) || options.keepReasoning || !reasons)
    return [of(render({ template, messages, tools, keepReasoning: true }), 0)];
  return chains(messages).map(({ from, end }) => {
    // The prompt of the chain's last message, then that message with the reasoning it was written after.
    const before = render({ template, tools, messages: messages.slice(0, end) });
    const last = render({ template, tools, messages: messages.slice(0, end + 1), keepReasoning: true });
    return of([...before, ...last.filter(({ message }) => message === end)], from);
  });
}

/** Chains of calls: from the message after an answer to the next answer (or the model's last message). */
function chains(messages: readonly Message[]): { from: number; end: number }[] {
  const own = messages.flatMap((m, i) => (m.role === "assistant" ? [{ i, answers: !m.tool_calls }] : []));
  const found: { from: number; end: number }[] = [];
  let from = 0;
  for (const [n, { i, answers }] of own.entries()) {
    if (!answers && n < own.length - 1) continue;
    found.push({ from, end: i });
    from = i + 1;
  }
  return found;
}

const bad = (found: string, expected: string): MassifError => new MassifError("sft.row", { found, expected });
