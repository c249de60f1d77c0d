/** A report as Markdown: charts become a sparkline with first, last, least and greatest value. */
import type { Chart } from "./chart.ts";
import { cellText, figure } from "./format.ts";
import type { Heatmap } from "./heatmap.ts";
import type { ReportData, Section } from "./report.ts";

export function reportMarkdown({ title, summary, facts, sections }: ReportData): string {
  const parts = [
    `# ${plain(title)}`,
    plain(summary),
    facts.map(([name, value]) => `- ${plain(name)}: ${plain(value)}`).join("\n"),
    ...sections.flatMap((section) => [`## ${plain(section.title)}`, plain(section.note ?? ""), body(section)]),
  ];
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}

function body(section: Section): string {
  switch (section.kind) {
    case "text":
      return plain(section.text);
    case "table":
      return table(
        section.columns,
        section.rows.map((row) => row.map(cellText)),
      );
    case "chart":
      return table(["", "course", "first", "last", "least", "greatest"], section.panels.flatMap(chartRows));
    case "heatmap":
      return table(
        ["", "idlest at the end", "busiest at the end", "busiest over time"],
        section.panels.map(heatmapRow),
      );
    case "samples":
      return section.items
        .map(({ label, prompt, text }) => `${plain(label)}:\n\n${fenced(`${prompt ?? ""}${text}`)}`)
        .join("\n\n");
    case "transcript":
      return section.turns
        .map(({ role, text, note }) => `**${plain(role)}**${note ? ` (${plain(note)})` : ""}\n\n${fenced(text)}`)
        .join("\n\n");
    case "commands":
      return section.items.map(({ command, why }) => `${plain(why)}:\n\n${fenced(command, "sh")}`).join("\n\n");
  }
}

function chartRows({ title, lines }: Chart): string[][] {
  return lines
    .filter((line) => line.points.length)
    .map(({ name, points }) => {
      const ys = points.map(([, y]) => y);
      const values = [ys[0]!, ys.at(-1)!, Math.min(...ys), Math.max(...ys)].map(figure);
      return [lines.length > 1 ? `${title}: ${name}` : title, sparkline(ys), ...values];
    });
}

function heatmapRow({ title, values }: Heatmap): string[] {
  const end = values.at(-1) ?? [];
  const busiest = values.map((column) => Math.max(...column));
  return [title, `${figure(Math.min(...end))} × the mean`, `${figure(Math.max(...end))} ×`, sparkline(busiest)];
}

/** The course of a curve in at most 24 characters. */
export function sparkline(ys: number[]): string {
  const bars = "▁▂▃▄▅▆▇█";
  const n = Math.min(24, ys.length);
  const means = Array.from({ length: n }, (_, i) => {
    const part = ys.slice(Math.floor((i * ys.length) / n), Math.floor(((i + 1) * ys.length) / n));
    return part.reduce((a, b) => a + b, 0) / part.length;
  });
  const [low, high] = [Math.min(...means), Math.max(...means)];
  return means.map((y) => bars[high > low ? Math.round(((y - low) / (high - low)) * 7) : 3]).join("");
}

/** Text that Markdown and the HTML inside it leave as it is. */
const plain = (text: string): string => text.replace(/[\\`*_[\]<>]/g, "\\$&");

const table = (columns: string[], rows: string[][]): string => {
  const line = (cells: string[]) =>
    `| ${cells
      .map((cell) =>
        plain(cell)
          .replace(/\|/g, "\\|")
          .replace(/\s*\n\s*/g, " "),
      )
      .join(" | ")} |`;
  return [line(columns), `|${" --- |".repeat(columns.length)}`, ...rows.map(line)].join("\n");
};

/** A code block whose fence is longer than any run of backticks inside. */
function fenced(text: string, language = "text"): string {
  const longest = Math.max(0, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const fence = "`".repeat(Math.max(3, longest + 1));
  return `${fence}${language}\n${text}\n${fence}`;
}
