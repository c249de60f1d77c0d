/** `massif chat render` and `massif chat parse`: the K2 format on rows, both ways. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { z } from "zod";
import {
  assemble,
  encodeSegments,
  FinishReasonSchema,
  parse as parseMessage,
  type RenderRequest,
  readMessages,
  readTemplateName,
  readTools,
  render,
  renderedText,
  type ToolStyle,
  thinks,
  toolStyles,
} from "../chat/index.ts";
import { MassifError, nearest, readJsonl, writeJsonl } from "../common/index.ts";
import { loadTokenizer, type Tokenizer } from "../tokenizer/index.ts";
import { type Command, parse } from "./command.ts";

const help = `
usage: massif chat render [FILE] [--tokenizer PATH] [--tools STYLE] [--keep-reasoning] [--sources]
       massif chat parse  [FILE] [--tokenizer PATH]

The Kimi K2 chat format, both ways. Rows are JSONL from FILE or standard input (also .xz, .gz, .zst), and JSONL on
standard output.

render: {template, messages, tools, add_generation_prompt} → {rendered, ids}
  template       thinking, instruct (= instruct-v2), instruct-v0 or instruct-v1; also for all rows: --template NAME
  messages       OpenAI's, with reasoning_content; ids of calls from other systems become K2's
  ids            token ids; only with --tokenizer. Control tokens come from the template alone: text that looks like
                 one stays text
  A row with tools also gets rendered_sorted_compact_tools, unless a style is chosen:
  --tools STYLE  json (default: as given), json-compact, json-sorted (as released with K2 Thinking), typescript
  --sort-tools   the same as --tools json-sorted
  --keep-reasoning  reasoning of every turn, not only of the current chain of calls
  --sources      adds for each token its source (template, system, user, tool, assistant) and message

parse: {text} or {ids} → {message, events, finish}
  What a model wrote after <|im_assistant|>assistant<|im_middle|>. In text, every spelling of a control token is one.
  More, where known: template (an Instruct model has no think tags in text), tools, finish_reason (what the engine
  said: a message without its end marker is "length" if it stops inside of something).

--tokenizer PATH         tokenizer.json, a tiktoken rank file, or a folder with either
--tokenizer-config FILE  special tokens of a rank file; default: tokenizer_config.json beside it

Examples:
  echo '{"template":"thinking","messages":[{"role":"user","content":"Hi"}],"add_generation_prompt":true}' |
    massif chat render
  echo '{"text":"<think>Greet.</think>Hello!<|im_end|>"}' | massif chat parse
`;

const options = {
  template: { type: "string" },
  tokenizer: { type: "string" },
  "tokenizer-config": { type: "string" },
  tools: { type: "string" },
  "sort-tools": { type: "boolean" },
  "keep-reasoning": { type: "boolean" },
  sources: { type: "boolean" },
} as const;
type Options = ReturnType<typeof parse<typeof options>>["values"];

const RenderRow = z.object({
  template: z.unknown().optional(),
  messages: z.unknown().optional(),
  tools: z.unknown().optional(),
  add_generation_prompt: z.boolean().nullish(),
});
const ParseRow = z.object({
  ids: z.array(z.int().nonnegative()).nullish(),
  text: z.string().nullish(),
  template: z.unknown().optional(),
  tools: z.unknown().optional(),
  finish_reason: FinishReasonSchema.nullish(),
});

export const chatFormat: Command = {
  summary: "the K2 chat format: render messages to prompts and ids, parse what a model wrote",
  help,
  async run(args) {
    const { values, positionals } = parse(args, options);
    const [verb, file, ...more] = positionals;
    const verbs: Record<string, (row: unknown, values: Options, tokenizer: Tokenizer | undefined) => object> = {
      render: renderRow,
      parse: parseRow,
    };
    const work = verb === undefined ? undefined : verbs[verb];
    if (!work || more.length) {
      const like = verb && nearest(verb, Object.keys(verbs));
      throw new MassifError("cli.usage", {
        found: verb === undefined || work ? "massif chat takes render or parse, and one file" : `massif chat ${verb}`,
        fix: like && !work ? `did you mean massif chat ${like}?` : "see massif chat --help",
      });
    }
    toolStyle(values);
    const tokenizer = values.tokenizer === undefined ? undefined : await tokenizerAt(values.tokenizer, values);
    await writeJsonl(
      undefined,
      eachRow(readJsonl(file), (row) => work(row, values, tokenizer)),
    );
    return 0;
  },
};

/** Maps rows; an error says which row (from 1, blank lines not counted). */
async function* eachRow(rows: AsyncIterable<unknown>, map: (row: unknown) => object): AsyncGenerator<object> {
  let number = 0;
  for await (const row of rows) {
    number++;
    try {
      yield map(row);
    } catch (error) {
      if (!(error instanceof MassifError)) throw error;
      throw new MassifError(error.code, {
        ...error.trouble,
        found: `row ${number}: ${error.trouble.found}`,
        cause: error,
      });
    }
  }
}

function renderRow(raw: unknown, values: Options, tokenizer: Tokenizer | undefined): object {
  const row = checked(RenderRow, raw);
  const style = toolStyle(values);
  const request: RenderRequest = {
    template: readTemplateName(row.template ?? values.template),
    messages: readMessages(row.messages),
    tools: readTools(row.tools),
    addGenerationPrompt: row.add_generation_prompt ?? false,
    toolStyle: style ?? "json",
    keepReasoning: values["keep-reasoning"],
  };
  const segments = render(request);
  const out: Record<string, unknown> = { rendered: renderedText(segments) };
  if (!style && request.tools?.length)
    out.rendered_sorted_compact_tools = renderedText(render({ ...request, toolStyle: "json-sorted" }));
  if (!tokenizer) return out;
  const { ids, sources, messages } = encodeSegments(segments, tokenizer);
  return values.sources ? { ...out, ids, sources, messages } : { ...out, ids };
}

function parseRow(raw: unknown, values: Options, tokenizer: Tokenizer | undefined): object {
  const row = checked(ParseRow, raw);
  const input = row.ids ?? row.text;
  if (input === null || input === undefined || (row.ids && row.text)) {
    throw new MassifError("chat.row", {
      found: input ? "both ids and text" : "neither ids nor text",
      expected: 'one of them: {"text":…} or {"ids":[…]}',
    });
  }
  if (row.ids && !tokenizer)
    throw new MassifError("chat.row", { found: "ids, and no tokenizer to read them", fix: "add --tokenizer PATH" });
  const template = row.template ?? values.template;
  const events = parseMessage(
    input,
    {
      tokenizer: row.ids ? tokenizer : undefined,
      think: template === undefined || thinks(readTemplateName(template)),
      tools: readTools(row.tools).flatMap((tool) => tool.function?.name ?? []),
    },
    row.finish_reason ?? undefined,
  );
  const { message, finish } = assemble(events);
  return { message, events, finish };
}

function checked<T>(schema: z.ZodType<T>, row: unknown): T {
  const { data, error } = schema.safeParse(row);
  if (!error) return data;
  const [issue] = error.issues;
  throw new MassifError("chat.row", {
    found: `${issue?.path.length ? `${issue.path.join(".")}: ` : ""}${issue?.message}`,
  });
}

function toolStyle(values: Options): ToolStyle | undefined {
  const name = values.tools ?? (values["sort-tools"] ? "json-sorted" : undefined);
  const style = toolStyles.find((style) => style === name);
  if (style || name === undefined) return style;
  throw new MassifError("cli.usage", { found: `--tools ${name}`, expected: `one of ${toolStyles.join(", ")}` });
}

/** A rank file called X_tiktoken.model has its special tokens in X_tokenizer_config.json, as published copies are named. */
async function tokenizerAt(path: string, values: Options): Promise<Tokenizer> {
  const named = /([^/\\]+_)tiktoken\.model(\.\w+)?$/.exec(path);
  const beside = named ? join(dirname(path), `${named[1]}tokenizer_config.json`) : undefined;
  return loadTokenizer(path, {
    config: values["tokenizer-config"] ?? (beside && existsSync(beside) ? beside : undefined),
  });
}
