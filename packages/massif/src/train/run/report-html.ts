/** A report as one HTML page: style and script inside, charts as SVG, nothing fetched; all text escaped. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { chartSvg, thresholdInView } from "./chart.ts";
import { cellText, escapeHtml as e, figure } from "./format.ts";
import { heatmapSvg } from "./heatmap.ts";
import type { Cell, ReportData, Section } from "./report.ts";

const part = (name: string) => readFileSync(join(import.meta.dirname, name), "utf8");

export function reportHtml({ title, summary, facts, sections }: ReportData): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${e(title)}</title>
<link rel="icon" href="data:,">
<style>
${part("report.css")}</style>
</head>
<body>
<main>
<header>
<h1>${e(title)}</h1>
<p class="summary">${e(summary)}</p>
<dl class="facts">${facts.map(([name, value]) => `<div><dt>${e(name)}</dt><dd>${e(value)}</dd></div>`).join("")}</dl>
</header>
${sections.map(sectionHtml).join("\n")}
</main>
<div id="tip" role="status" hidden></div>
<script>
${part("report-page.js")}</script>
</body>
</html>
`;
}

function sectionHtml(section: Section): string {
  const note = section.note ? `<p class="note">${e(section.note)}</p>` : "";
  return `<section>\n<h2>${e(section.title)}</h2>\n${note}${bodyHtml(section)}\n</section>`;
}

function bodyHtml(section: Section): string {
  switch (section.kind) {
    case "text":
      return section.text
        .split(/\n{2,}/)
        .map((paragraph) => `<p>${e(paragraph)}</p>`)
        .join("\n");
    case "table":
      return tableHtml(section.columns, section.rows);
    case "chart":
      return panelsHtml(
        section.panels.map((chart) => {
          const names =
            chart.lines.length > 1 ? chart.lines.map((line, i) => key(line.name, line.colour ?? i, line.dashed)) : [];
          const { threshold } = chart;
          if (threshold && !thresholdInView(chart)) {
            names.push(`<span>${e(threshold.name)} ${figure(threshold.y)} is far above</span>`);
          }
          return { title: chart.title, keys: names.join(""), picture: chartSvg(chart) };
        }),
      );
    case "heatmap": {
      const scale = Array.from({ length: 11 }, (_, level) => `<i class="h${level}"></i>`).join("");
      const keys = `<span class="scale">¼ ${scale} 4 × the mean</span>`;
      return panelsHtml(section.panels.map((map) => ({ title: map.title, keys, picture: heatmapSvg(map) })));
    }
    case "samples":
      return section.items
        .map(({ label, prompt, text }) => {
          const start = prompt ? `<b>${e(prompt)}</b>` : "";
          return `<figure class="sample"><figcaption>${e(label)}</figcaption><blockquote>${start}${e(text)}</blockquote></figure>`;
        })
        .join("\n");
    case "transcript": {
      const turns = section.turns.map(({ role, text, note }) => {
        const aside = note ? ` <small>${e(note)}</small>` : "";
        return `<li class="${/^[a-z]+$/.test(role) ? role : "other"}"><span>${e(role)}${aside}</span><pre>${e(text)}</pre></li>`;
      });
      return `<ol class="transcript">${turns.join("\n")}</ol>`;
    }
    case "commands":
      return `<dl class="commands">${section.items
        .map(({ command, why }) => `<dt>${e(why)}</dt><dd><code>${e(command)}</code></dd>`)
        .join("\n")}</dl>`;
  }
}

function tableHtml(columns: string[], rows: Cell[][]): string {
  const kind = (i: number) => (rows.some((row) => typeof row[i] === "string") ? "" : ' class="number"');
  const head = columns.map((name, i) => `<th scope="col"${kind(i)}>${e(name)}</th>`).join("");
  const body = rows.map((row) => {
    const cells = row.map((cell, i) => {
      const text = e(cellText(cell));
      return i === 0
        ? `<th scope="row">${text}</th>`
        : `<td${typeof cell === "string" ? "" : ' class="number"'}>${text}</td>`;
    });
    return `<tr>${cells.join("")}</tr>`;
  });
  return `<div class="wide"><table><thead><tr>${head}</tr></thead><tbody>${body.join("\n")}</tbody></table></div>`;
}

function panelsHtml(panels: { title: string; keys: string; picture: string }[]): string {
  const figures = panels.map(
    ({ title, keys, picture }) =>
      `<figure><figcaption><span class="name">${e(title)}</span>${keys}</figcaption>${picture}</figure>`,
  );
  return `<div class="panels">${figures.join("\n")}</div>`;
}

const key = (name: string, colour: number, dashed = false) =>
  `<span class="key c${colour % 6}${dashed ? " dashed" : ""}">${e(name)}</span>`;
