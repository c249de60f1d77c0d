/** Scores an endpoint as K2's vendor verifier does (kimi-k2.md §7.13, serving-and-agent.md §7.2–7.4): do calls name declared
 *  tools and fit their schemas, does it decide to call as the baseline does, do markers leak, is a stream what the whole
 *  answer is. The checks are those of the original; its samples are the user's to bring. */
import { MassifError } from "../../common/index.ts";
import { type Completion, complete, type LanguageModel, LlmError } from "../../llm/index.ts";
import { Validator } from "../validate.ts";
import type { VerifyCase } from "./cases.ts";

type Mode = "whole" | "stream";
const modes: readonly Mode[] = ["whole", "stream"];

/** One answer, judged. */
export interface Judged {
  id: string;
  mode: Mode;
  /** Undefined where there was no answer: then `troubles` says why. */
  finish: string | undefined;
  calls: { id: string; name: string; arguments: string }[];
  text: string;
  troubles: string[];
  leaks: string[];
  /** It said that no legal answer fits in so many tokens: right at once, where an engine that does not know says it late
   *  or never. */
  refused: boolean;
}

export interface Ratio {
  good: number;
  of: number;
}

export interface Score {
  /** Requests that got an answer, of those that were not refused. */
  answered: Ratio;
  /** Requests whose answer cannot fit, and that were refused for it. */
  refused: Ratio;
  /** Answers with finish "tool_calls" whose every call names a declared tool and fits its schema. */
  schemaAccuracy: Ratio;
  /** Forced calls that came. */
  forced: Ratio;
  /** Calls with K2's own ids. */
  nativeIds: Ratio;
  /** Answers in which no marker stands. */
  clean: Ratio;
  /** Of the decision to call, against the baseline. */
  decision?: { precision: number; recall: number; f1: number; of: number };
}

export interface Verification {
  scores: Record<Mode, Score>;
  /** Cases whose streamed answer is the whole one: true of every server, where sampling is greedy and exact. */
  streamIsWhole: Ratio;
  judged: Judged[];
}

export interface VerifyOptions {
  whole: LanguageModel;
  stream: LanguageModel;
  cases: readonly VerifyCase[];
  /** Finish reasons of the official run, by id. */
  baseline?: ReadonlyMap<string, string>;
  /** Requests at once. Default 4. */
  concurrency?: number;
  onProgress?: (done: number, of: number) => void;
}

export async function verifyEndpoint(options: VerifyOptions): Promise<Verification> {
  const { cases, baseline, concurrency = 4, onProgress } = options;
  const validator = new Validator();
  const work = cases.flatMap((one) => modes.map((mode) => ({ one, mode })));
  const judged: Judged[] = [];
  let next = 0;
  const worker = async () => {
    while (next < work.length) {
      const at = next++;
      const { one, mode } = work[at]!;
      judged[at] = await ask(options[mode], mode, one, validator);
      onProgress?.(judged.filter(Boolean).length, work.length);
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, work.length) }, worker));

  const forced = new Set(
    cases
      .filter(({ request: { toolChoice } }) => toolChoice === "required" || typeof toolChoice === "object")
      .map(({ id }) => id),
  );
  const score = (mode: Mode) =>
    scoreOf(
      judged.filter((one) => one.mode === mode),
      forced,
      baseline,
    );
  const pairs = cases.map((_, i) => [judged[2 * i]!, judged[2 * i + 1]!] as const);
  const both = pairs.filter(([a, b]) => a.finish !== undefined && b.finish !== undefined);
  const said = ({ finish, calls, text }: Judged) =>
    JSON.stringify([finish, text, calls.map((call) => [call.name, call.arguments])]);
  return {
    scores: { whole: score("whole"), stream: score("stream") },
    streamIsWhole: { good: both.filter(([a, b]) => said(a) === said(b)).length, of: both.length },
    judged,
  };
}

async function ask(
  model: LanguageModel,
  mode: Mode,
  { id, request }: VerifyCase,
  validator: Validator,
): Promise<Judged> {
  const judged: Judged = { id, mode, finish: undefined, calls: [], text: "", troubles: [], leaks: [], refused: false };
  let answer: Completion;
  try {
    answer = await complete(model, request);
  } catch (error) {
    if (refusesBudget(error)) return { ...judged, refused: true };
    return { ...judged, troubles: [(error as Error).message] };
  }
  const { message, finish } = answer;
  const text = typeof message.content === "string" ? message.content : "";
  const calls = (message.tool_calls ?? []).map(({ id = "", function: { name, arguments: args } }) => ({
    ...{ id, name, arguments: typeof args === "string" ? args : JSON.stringify(args) },
  }));
  const troubles = calls.flatMap(({ name, arguments: args }) => {
    const wrong = validator.check(request.tools ?? [], name, args);
    return wrong === undefined ? [] : [`${name}: ${wrong}`];
  });
  if (finish === "tool_calls" && !calls.length) troubles.push('finish "tool_calls" without a call');
  if (finish === "stop" && calls.length) troubles.push('calls, but finish "stop"');
  const leaks = [text, message.reasoning_content ?? "", ...calls.map(({ name }) => name)].flatMap(
    (said) => said.match(/<\|[a-z_]{3,40}\|>|<\/?think>|functions\.[\w.-]+:\d+\s*[<{]/g) ?? [],
  );
  return { ...judged, finish, calls, text, troubles, leaks };
}

/** Our engine's word for it, here or over HTTP. */
const refusesBudget = (error: unknown): boolean =>
  (error instanceof MassifError && error.code === "schema.budget") ||
  (error instanceof LlmError && error.upstream.status === 400 && error.upstream.error?.code === "schema_budget");

function scoreOf(
  judged: readonly Judged[],
  forced: ReadonlySet<string>,
  baseline: ReadonlyMap<string, string> | undefined,
): Score {
  const ratio = <T>(rows: readonly T[], good: (row: T) => boolean): Ratio => ({
    good: rows.filter(good).length,
    of: rows.length,
  });
  const answered = judged.filter(({ finish }) => finish !== undefined);
  const called = answered.filter(({ finish, calls }) => finish === "tool_calls" || calls.length > 0);
  const compared = answered.filter(({ id }) => baseline?.has(id));
  const decides = (finish: string | undefined) => finish === "tool_calls";
  const count = (ours: boolean, theirs: boolean) =>
    compared.filter(({ id, finish }) => decides(finish) === ours && decides(baseline?.get(id)) === theirs).length;
  const [both, ours, theirs] = [count(true, true), count(true, false), count(false, true)];
  const [precision, recall] = [both / (both + ours || 1), both / (both + theirs || 1)];
  return {
    answered: { good: answered.length, of: judged.filter(({ refused }) => !refused).length },
    refused: ratio(judged, ({ refused }) => refused),
    schemaAccuracy: ratio(called, ({ troubles }) => troubles.length === 0),
    forced: ratio(
      answered.filter(({ id }) => forced.has(id)),
      ({ calls }) => calls.length > 0,
    ),
    nativeIds: ratio(
      called.flatMap(({ calls }) => calls),
      ({ id, name }) => id.startsWith(`functions.${name}:`),
    ),
    clean: ratio(answered, ({ leaks }) => leaks.length === 0),
    ...(compared.length && {
      decision: { precision, recall, f1: (2 * precision * recall) / (precision + recall || 1), of: compared.length },
    }),
  };
}

/** Every answer came, every call fits, nothing leaked, and (with a baseline) the decisions are near enough. */
export function passes({ scores }: Verification, f1: number): boolean {
  const full = ({ good, of }: Ratio) => good === of;
  return modes.every((mode) => {
    const { answered, schemaAccuracy, forced, clean, decision } = scores[mode];
    return full(answered) && full(schemaAccuracy) && full(forced) && full(clean) && (decision?.f1 ?? 1) >= f1;
  });
}

/** A table for people. */
export function verificationTable({ scores, streamIsWhole, judged }: Verification): string {
  const percent = ({ good, of }: Ratio) => (of ? `${((100 * good) / of).toFixed(1)} % (${good}/${of})` : "–");
  const rows: [string, (score: Score) => string][] = [
    ["answered", (s) => percent(s.answered)],
    ["refused: cannot fit", (s) => (s.refused.good ? percent(s.refused) : "0")],
    ["schema accuracy", (s) => percent(s.schemaAccuracy)],
    ["forced calls made", (s) => percent(s.forced)],
    ["native call ids", (s) => percent(s.nativeIds)],
    ["no marker leaked", (s) => percent(s.clean)],
    ["tool-call F1", ({ decision: d }) => (d ? `${(100 * d.f1).toFixed(1)} % (n ${d.of})` : "– (no baseline)")],
  ];
  const table = [
    ["", "whole", "streamed"],
    ...rows.map(([name, tell]) => [name, tell(scores.whole), tell(scores.stream)]),
  ];
  const widths = [0, 1, 2].map((column) => Math.max(...table.map((row) => row[column]!.length)));
  const lines = table.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join("  ")
      .trimEnd(),
  );
  const bad = judged.flatMap(({ id, mode, troubles, leaks }) =>
    [...troubles, ...leaks.map((leak) => `leaked ${leak}`)].map((what) => `${id.slice(0, 8)} ${mode}: ${what}`),
  );
  return [
    ...lines,
    `stream is whole    ${percent(streamIsWhole)}`,
    ...(bad.length ? ["", ...bad.slice(0, 20), ...(bad.length > 20 ? [`and ${bad.length - 20} more`] : [])] : []),
  ].join("\n");
}
