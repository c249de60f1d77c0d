/** The report of a training run, from its folder; a metric that is not there leaves its section out. */
import { readdirSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { count, duration } from "../../common/index.ts";
import { type Chart, type Line, type Point, thin } from "./chart.ts";
import type { MetricsRow, Sample } from "./folder.ts";
import { figure } from "./format.ts";
import { type Heatmap, thinColumns } from "./heatmap.ts";
import type { Cell, ReportData, Section } from "./report.ts";
import { readRows } from "./step-log.ts";

export interface RunReportOptions {
  title?: string;
  /** QK-Clip's τ, drawn beside the logits. */
  logitThreshold?: number;
  /** What to do next. */
  commands?: { command: string; why: string }[];
  /** Facts beside those of the start event (parameters, tokens of the data). */
  facts?: [string, string][];
  /** Sections of the caller, before the samples. */
  sections?: Section[];
}

export function runReport(dir: string, options: RunReportOptions = {}): ReportData {
  const rows = readRows(join(dir, "metrics.jsonl")).filter((row): row is MetricsRow => typeof row.step === "number");
  const sections: (Section | undefined)[] = [
    summaryTable(rows),
    charts("Learning", "The band is the spread of single steps around their mean.", [
      lineChart("training loss (nats a token)", rows, "loss"),
      // Of text, bits per byte; of conversations, the loss itself.
      rows.some((row) => row.evalBitsPerByte !== undefined)
        ? lineChart("held-out bits per byte", rows, "evalBitsPerByte")
        : lineChart("held-out loss (nats a token)", rows, "evalLoss"),
    ]),
    logitSection(rows, options.logitThreshold),
    loadSection(rows),
    charts("Expert load imbalance", undefined, [
      lineChart("busiest expert over the mean, worst layer", rows, "loadImbalance"),
    ]),
    charts("Steps", undefined, [
      lineChart("tokens a second", rows, "tokensPerSecond", true),
      lineChart("learning rate", rows, "lr", true),
      lineChart("gradient norm, before clipping", rows, "gradNorm", true),
      lineChart("model FLOPs utilization", rows, "mfu", true),
    ]),
    ...(options.sections ?? []),
    sampleSection(dir),
    options.commands?.length ? { title: "What to do next", kind: "commands", items: options.commands } : undefined,
  ];
  return {
    title: options.title ?? `Run ${basename(resolve(dir))}`,
    summary: summaryOf(rows),
    facts: [...(options.facts ?? []), ...startFacts(dir)],
    sections: sections.filter((section) => section !== undefined),
  };
}

type NumberKey =
  | "loss"
  | "evalBitsPerByte"
  | "evalLoss"
  | "gradNorm"
  | "maxLogit"
  | "clippedHeads"
  | "loadImbalance"
  | "tokensPerSecond"
  | "lr"
  | "mfu";

const series = (rows: MetricsRow[], key: NumberKey): Point[] =>
  rows.flatMap((row) => (typeof row[key] === "number" ? [[row.step, row[key]] as Point] : []));

function lineChart(title: string, rows: MetricsRow[], key: NumberKey, zero = false): Chart {
  return { title, x: "step", zero, lines: [{ name: title, ...thin(series(rows, key)) }] };
}

function charts(title: string, note: string | undefined, panels: Chart[]): Section | undefined {
  const shown = panels.filter((chart) => chart.lines.some((line) => line.points.length));
  if (!shown.length) return undefined;
  const banded = shown.some((chart) => chart.lines.some((line) => line.band));
  return { title, ...(note && banded ? { note } : {}), kind: "chart", panels: shown };
}

function summaryOf(rows: MetricsRow[]): string {
  const last = rows.at(-1);
  if (!last) return "No step has been taken yet.";
  const tokens = rows.findLast((row) => typeof row.tokens === "number")?.tokens;
  const bits = series(rows, "evalBitsPerByte");
  const loss = series(rows, "loss");
  const [what, values] = bits.length ? ["held-out bits per byte", bits] : ["training loss", loss];
  const steps = `${count(last.step)} step${last.step === 1 ? "" : "s"}${tokens ? ` over ${count(tokens)} tokens` : ""}`;
  if (!values.length) return `${steps}.`;
  const [first, final] = [values[0]![1], values.at(-1)![1]];
  return values.length > 1
    ? `${steps}: ${what} went from ${figure(first)} to ${figure(final)}.`
    : `${steps}: ${what} is ${figure(final)}.`;
}

/** What the start event says, in the order in which it says it. */
function startFacts(dir: string): [string, string][] {
  const events = readRows(join(dir, "events.jsonl"));
  const start = events.find((row) => row.event === "start" || row.event === "resume");
  if (!start) return [];
  const { event: _event, step: _step, time, machine, ...facts } = start;
  const here = (machine ?? {}) as Record<string, unknown>;
  const resumes = events.filter((row) => row.event === "resume").length;
  const all: [string, unknown][] = [
    ["machine", here.cpu && `${here.cpu}, ${here.cores} cores, ${here.memory} GiB, ${here.system}`],
    ["commit", here.commit],
    ["Node", here.node],
    ["began", time && String(time).replace("T", " ").replace(/\..*/, " UTC")],
    ["resumed", resumes ? `${resumes} time${resumes > 1 ? "s" : ""}` : undefined],
    ...Object.entries(facts),
  ];
  return all.flatMap(([name, value]) =>
    value === undefined || value === null || value === ""
      ? []
      : [[name, typeof value === "object" ? JSON.stringify(value) : String(value)] as [string, string]],
  );
}

function summaryTable(rows: MetricsRow[]): Section | undefined {
  const wanted: [string, NumberKey, "low" | "high"][] = [
    ["held-out bits per byte", "evalBitsPerByte", "low"],
    ["held-out loss", "evalLoss", "low"],
    ["training loss", "loss", "low"],
    ["largest attention logit", "maxLogit", "high"],
    ["heads clipped in a step", "clippedHeads", "high"],
    ["expert load, largest over mean", "loadImbalance", "high"],
    ["gradient norm", "gradNorm", "high"],
    ["tokens a second", "tokensPerSecond", "high"],
  ];
  const table = wanted.flatMap(([name, key, extreme]): Cell[][] => {
    const values = series(rows, key);
    if (!values.length) return [];
    const peak = values.reduce((a, b) => ((extreme === "low" ? b[1] < a[1] : b[1] > a[1]) ? b : a));
    return [
      [
        name,
        values[0]![1],
        values.at(-1)![1],
        peak[1],
        `${extreme === "low" ? "lowest" : "highest"}, at step ${peak[0]}`,
      ],
    ];
  });
  const seconds = rows.reduce((sum, row) => sum + (typeof row.seconds === "number" ? row.seconds : 0), 0);
  if (!table.length) return undefined;
  const note = seconds ? `${duration(seconds)} of training.` : undefined;
  return {
    title: "In numbers",
    ...(note ? { note } : {}),
    kind: "table",
    columns: ["", "first", "last", "extreme", ""],
    rows: table,
  };
}

/** The largest logit of each layer before and after QK-Clip, and down from it a band to the calmest head. */
function logitSection(rows: MetricsRow[], tau: number | undefined): Section | undefined {
  const layers = rows.findLast((row) => row.maxLogits?.length)?.maxLogits?.length ?? 0;
  const clips = rows.some((row) => row.maxLogitsAfter?.length);
  const threshold = tau === undefined ? {} : { threshold: { y: tau, name: "clip above" } };
  // Up to eight layers have a panel each; above that a panel stands for a run of layers.
  const groups = Math.min(8, layers);
  const panels = Array.from({ length: groups }, (_, g): Chart => {
    const [from, to] = [Math.floor((g * layers) / groups), Math.floor(((g + 1) * layers) / groups)];
    const lines: Line[] = [{ name: "before", colour: 1, ...headLine(rows, "maxLogits", from, to) }];
    if (clips) {
      delete lines[0]?.band;
      lines.push({ name: "after clipping", colour: 0, ...headLine(rows, "maxLogitsAfter", from, to) });
    }
    const title = to - from > 1 ? `layers ${from} – ${to - 1}` : `layer ${from}`;
    return { title, x: "step", lines, ...threshold, zero: true };
  });
  if (!layers) panels.push({ ...lineChart("largest of all heads", rows, "maxLogit", true), ...threshold });
  panels.push({
    title: "heads clipped in a step",
    x: "step",
    zero: true,
    lines: [{ name: "heads", ...thin(series(rows, "clippedHeads"), 80) }],
  });
  const note = layers ? "Each line is the largest head of its layer, the band reaches down to the calmest." : undefined;
  return charts("Attention logits and QK-Clip", note, panels);
}

/** The greatest and least logit of the heads of some layers; where steps share a point, none of their peaks is lost. */
function headLine(rows: MetricsRow[], key: "maxLogits" | "maxLogitsAfter", from: number, to: number, most = 240) {
  const all = rows.flatMap((row) => {
    const heads = (row[key] ?? []).slice(from, to).flat().filter(Number.isFinite);
    return heads.length ? [{ step: row.step, low: Math.min(...heads), high: Math.max(...heads) }] : [];
  });
  const n = Math.min(most, all.length);
  const parts = Array.from({ length: n }, (_, i) =>
    all.slice(Math.floor((i * all.length) / n), Math.floor(((i + 1) * all.length) / n)),
  );
  const highs = parts.map((part) => Math.max(...part.map(({ high }) => high)));
  return {
    points: parts.map((part, i): Point => [part.at(-1)!.step, highs[i]!]),
    band: parts.map((part, i): [number, number] => [Math.min(...part.map(({ low }) => low)), highs[i]!]),
  };
}

function loadSection(rows: MetricsRow[]): Section | undefined {
  const last = rows.findLast((row) => row.expertLoad?.length)?.expertLoad;
  if (!last) return undefined;
  const loads = rows.filter((row) => row.expertLoad?.length === last.length);
  const steps = loads.map((row) => row.step);
  const panels = last.map((_, layer): Heatmap => {
    const shares = loads.map((row) => row.expertLoad?.[layer] ?? []);
    const values = shares.map((column) => column.map((share) => share * column.length));
    return { title: `expert layer ${layer}`, x: "step", row: "expert", ...thinColumns(steps, values) };
  });
  const note = "Each row is an expert over time; grey is an even share, blue less, orange more.";
  return { title: "Expert load", note, kind: "heatmap", panels };
}

/** Samples of the first, the last, and up to three steps between. */
function sampleSection(dir: string): Section | undefined {
  let names: string[] = [];
  try {
    names = readdirSync(join(dir, "samples"));
  } catch {
    return undefined;
  }
  const steps = names
    .flatMap((name) => /^step-(\d+)\.json$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
  const picked = [...new Set(Array.from({ length: 5 }, (_, i) => steps[Math.round((i * (steps.length - 1)) / 4)]))];
  const items = picked.flatMap((step) => {
    if (step === undefined) return [];
    const samples = JSON.parse(readFileSync(join(dir, `samples/step-${step}.json`), "utf8")) as Sample[];
    return samples.slice(0, 2).map(({ prompt, text }) => ({ label: `step ${step}`, prompt, text }));
  });
  return items.length ? { title: "What it writes", note: "The prompt in bold.", kind: "samples", items } : undefined;
}
