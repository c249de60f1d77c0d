/** What a model answered, kept in a file, and told again without the model: tests of what hangs on a real upstream. */
import { appendFile } from "node:fs/promises";
import { z } from "zod";
import { MassifError, readJsonl } from "../common/index.ts";
import { aborted, LlmError, type LlmErrorCode } from "./errors.ts";
import { ModelEventSchema } from "./event-schema.ts";
import type { LanguageModel, ModelEvent } from "./model.ts";
import { type ChatRequest, canonical, firstDifference } from "./request.ts";

const Recording = z.strictObject({
  model: z.string(),
  request: z.record(z.string(), z.unknown()),
  /** As they came, piece by piece. */
  events: z.array(ModelEventSchema),
  error: z
    .strictObject({
      code: z.string(),
      found: z.string(),
      upstream: z
        .object({
          status: z.number().optional(),
          requestId: z.string().optional(),
          retryAfter: z.number().optional(),
          error: z.record(z.string(), z.string()).optional(),
        })
        .optional(),
    })
    .optional(),
});
type Recording = z.output<typeof Recording>;

/** A model whose answers and errors are added to a JSONL file, one row each. An answer that was left early is not. */
export class RecordingModel implements LanguageModel {
  readonly name: string;
  readonly #model: LanguageModel;
  readonly #file: string;

  constructor(model: LanguageModel, file: string) {
    this.name = model.name;
    this.#model = model;
    this.#file = file;
  }

  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const row: Recording = { model: this.name, request: canonical(request), events: [] };
    try {
      for await (const event of this.#model.stream(request)) {
        row.events.push(event);
        if (event.type === "finish") await this.#write(row);
        yield event;
      }
    } catch (error) {
      if (error instanceof MassifError && error.code !== "llm.aborted") {
        const upstream = error instanceof LlmError ? { upstream: error.upstream } : {};
        await this.#write({ ...row, error: { code: error.code, found: error.trouble.found, ...upstream } });
      }
      throw error;
    }
  }

  #write(row: Recording): Promise<void> {
    return appendFile(this.#file, `${JSON.stringify(row)}\n`);
  }
}

/** A model that answers from a recording: each row once, to the request that it was recorded with. */
export class ReplayedModel implements LanguageModel {
  readonly name: string;
  readonly #file: string;
  readonly #rows: Recording[];

  private constructor(file: string, rows: Recording[]) {
    this.#file = file;
    this.#rows = rows;
    this.name = rows[0]?.model ?? "replayed";
  }

  /** Throws `lines.read`, `lines.json`, `lines.schema`. */
  static async open(file: string): Promise<ReplayedModel> {
    return new ReplayedModel(file, await Array.fromAsync(readJsonl(file, Recording)));
  }

  /** How many rows nobody has asked for yet. */
  get left(): number {
    return this.#rows.length;
  }

  /** Throws what was recorded, and `llm.replay` for a request that was not: it names where the request first differs
   *  from the row that comes next. */
  async *stream(request: ChatRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const asked = canonical(request);
    const at = this.#rows.findIndex((row) => !firstDifference(row.request, asked));
    if (at < 0) throw this.#unknown(asked);
    const [row] = this.#rows.splice(at, 1);
    for (const event of row!.events) {
      if (request.signal?.aborted) throw aborted(request.signal);
      yield event;
    }
    const { error } = row!;
    if (error) throw new LlmError(error.code as LlmErrorCode, { found: error.found }, error.upstream);
  }

  #unknown(asked: Record<string, unknown>): LlmError {
    const [next] = this.#rows;
    const fix = "record it again with RecordingModel";
    if (!next) {
      return new LlmError("llm.replay", { found: `all rows of ${this.#file} were asked for, and one more`, fix });
    }
    const { path, a, b } = firstDifference(next.request, asked)!;
    return new LlmError("llm.replay", {
      found: `no row of ${this.#file} was recorded with this request: ${path} is ${show(b)}`,
      expected: `${show(a)}, as in the row that comes next`,
      fix,
    });
  }
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 120 ? `${text.slice(0, 117)}…` : text;
}
