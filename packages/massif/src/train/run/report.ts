/**
 * A report as data, so that every stage (pre-training, SFT, RL) adds its sections and two renderers show them all:
 * report-md.ts as Markdown, report-html.ts as one page that needs no network.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Chart } from "./chart.ts";
import { writeWhole } from "./disk.ts";
import type { Heatmap } from "./heatmap.ts";
import { reportHtml } from "./report-html.ts";
import { reportMarkdown } from "./report-md.ts";

export interface ReportData {
  title: string;
  /** One or two sentences: what came out. */
  summary: string;
  /** What was run, and where: machine, seed, commit. */
  facts: [name: string, value: string][];
  sections: Section[];
}

export type Section = { title: string; note?: string } & (
  | { kind: "text"; text: string }
  | { kind: "table"; columns: string[]; rows: Cell[][] }
  | { kind: "chart"; panels: Chart[] }
  | { kind: "heatmap"; panels: Heatmap[] }
  | { kind: "samples"; items: { label: string; prompt?: string; text: string }[] }
  | { kind: "transcript"; turns: { role: string; text: string; note?: string }[] }
  | { kind: "commands"; items: { command: string; why: string }[] }
);

/** A cell of a table; an interval shows its value with its bounds (a share with its Wilson interval). */
export type Cell = string | number | { value: number; low: number; high: number };

/** Writes report.md, report.html, and report.json (the data itself) into `dir`. */
export function writeReport(dir: string, data: ReportData): void {
  writeWhole(fileOf(dir), JSON.stringify(data));
  writeWhole(join(dir, "report.md"), reportMarkdown(data));
  writeWhole(join(dir, "report.html"), reportHtml(data));
}

const fileOf = (dir: string) => join(dir, "report.json");

/** The report that was written into `dir`. */
export const readReport = (dir: string): ReportData | undefined =>
  existsSync(fileOf(dir)) ? (JSON.parse(readFileSync(fileOf(dir), "utf8")) as ReportData) : undefined;
