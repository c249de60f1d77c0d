import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { openRun } from "./folder.ts";
import { type ReportData, writeReport } from "./report.ts";
import { reportHtml } from "./report-html.ts";
import { reportMarkdown, sparkline } from "./report-md.ts";
import { runReport } from "./run-report.ts";

const evil = "<script>alert('x')</script> & \"y\" `z`";
const data: ReportData = {
  title: evil,
  summary: evil,
  facts: [["seed", evil]],
  sections: [
    { title: evil, kind: "text", text: `${evil}\n\nsecond` },
    {
      title: "table",
      kind: "table",
      columns: ["", evil],
      rows: [
        [evil, { value: 0.5, low: 0.25, high: 0.75 }],
        ["a|b", 12_345],
      ],
    },
    {
      title: "chart",
      kind: "chart",
      panels: [
        {
          title: evil,
          x: evil,
          lines: [
            { name: evil, points: [[1, 2]] },
            { name: "b", points: [] },
          ],
        },
      ],
    },
    { title: "map", kind: "heatmap", panels: [{ title: evil, x: evil, row: evil, steps: [1], values: [[0.5, 1.5]] }] },
    { title: "samples", kind: "samples", items: [{ label: evil, prompt: evil, text: `${evil} \x07` }] },
    { title: "talk", kind: "transcript", turns: [{ role: 'x" onclick="', text: "```\nfenced\n```", note: evil }] },
    { title: "next", kind: "commands", items: [{ command: "massif generate --prompt 'a'", why: evil }] },
  ],
};

test("the page stands alone, and no text of the run becomes markup", () => {
  const html = reportHtml(data);
  expect(html.match(/<script/g)).toHaveLength(1);
  expect(html).not.toContain("alert('x')");
  expect(html).not.toContain('onclick="');
  expect(html).toContain("<h1>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot; `z`</h1>");
  expect(html).not.toMatch(/(src|href)="(?!data:,")/);
  expect(html).not.toMatch(/https?:|@import|url\(/);
  expect(html).toContain('<td class="number">0.5 (0.25 – 0.75)</td>');
  expect(html).toContain("<dd><code>massif generate --prompt &#39;a&#39;</code></dd>");
  expect(html).not.toContain("\x07");
});

test("the page's script parses, and so do the values it reads", () => {
  const html = reportHtml(data);
  const script = /<script>([\s\S]*)<\/script>/.exec(html)?.[1] ?? "";
  expect(() => new Function(script)).not.toThrow();
  const plots = [...html.matchAll(/data-plot="([^"]*)"/g)].map(([, text]) =>
    JSON.parse(
      text!
        .replace(/&quot;/g, '"')
        .replace(/&#39;/g, "'")
        .replace(/&lt;/g, "<")
        .replace(/&gt;/g, ">")
        .replace(/&amp;/g, "&"),
    ),
  );
  expect(plots.map((plot) => plot.x)).toEqual([evil, evil]);
});

test("Markdown: tables keep their columns, and a fence is longer than what it holds", () => {
  const markdown = reportMarkdown(data);
  expect(markdown).toContain("| a\\|b | 12.3k |");
  expect(markdown).toContain("````text\n```\nfenced\n```\n````");
  expect(markdown).toContain("\\<script\\>alert('x')\\</script\\> & \"y\" \\`z\\`");
  expect(markdown).toContain("```sh\nmassif generate --prompt 'a'\n```");
});

test("a sparkline shows a course in 24 characters at most", () => {
  expect(sparkline([1, 2, 3, 4, 5, 6, 7, 8])).toBe("▁▂▃▄▅▆▇█");
  expect(sparkline([2, 2])).toBe("▄▄");
  expect(sparkline(Array.from({ length: 1000 }, (_, i) => i))).toHaveLength(24);
});

const fresh = () => join(mkdtempSync(join(tmpdir(), "report-")), "demo");
const titles = (report: ReportData) => report.sections.map((section) => section.title);

test("the report of a run tells what its folder holds", () => {
  const dir = fresh();
  using run = openRun(dir, { config: {}, facts: { seed: 7 }, now: () => 0 });
  run.metrics({
    step: 1,
    tokens: 100,
    loss: 8,
    seconds: 2,
    maxLogit: 150,
    maxLogits: [[150, 20]],
    maxLogitsAfter: [[100, 20]],
    expertLoad: [[0.25, 0.75]],
  });
  run.metrics({
    step: 2,
    tokens: 200,
    loss: 6,
    seconds: 3,
    clippedHeads: 1,
    evalBitsPerByte: 4,
    loadImbalance: 1.5,
    lr: 0.1,
  });
  run.metrics({ step: 3, tokens: 300, loss: 7, seconds: 3, evalBitsPerByte: 3 });
  for (const step of [1, 2, 3]) run.samples(step, [{ prompt: "Once", text: ` upon ${step}` }]);
  const report = runReport(dir, { logitThreshold: 100, commands: [{ command: "massif", why: "more" }] });

  expect(report.title).toBe("Run demo");
  expect(report.summary).toBe("3 steps over 300 tokens: held-out bits per byte went from 4 to 3.");
  expect(report.facts).toContainEqual(["seed", "7"]);
  expect(report.facts).toContainEqual(["began", "1970-01-01 00:00:00 UTC"]);
  expect(titles(report)).toEqual([
    "In numbers",
    "Learning",
    "Attention logits and QK-Clip",
    "Expert load",
    "Expert load imbalance",
    "Steps",
    "What it writes",
    "What to do next",
  ]);
  const [numbers, , logits, load, , , written] = report.sections;
  expect(numbers).toMatchObject({
    note: "8.0 s of training.",
    rows: expect.arrayContaining([["training loss", 8, 7, 6, "lowest, at step 2"]]),
  });
  expect(logits).toMatchObject({
    panels: [
      {
        title: "layer 0",
        threshold: { y: 100, name: "clip above" },
        lines: [
          { name: "before", points: [[1, 150]] },
          { name: "after clipping", points: [[1, 100]], band: [[20, 100]] },
        ],
      },
      { title: "heads clipped in a step", lines: [{ points: [[2, 1]] }] },
    ],
  });
  expect(load).toMatchObject({ panels: [{ title: "expert layer 0", steps: [1], values: [[0.5, 1.5]] }] });
  expect(written).toMatchObject({ items: [1, 2, 3].map((n) => ({ label: `step ${n}`, text: ` upon ${n}` })) });

  writeReport(dir, report);
  expect(readFileSync(join(dir, "report.md"), "utf8")).toContain("| training loss | 8 | 7 | 6 | lowest, at step 2 |");
  expect(readFileSync(join(dir, "report.html"), "utf8")).toContain("<h2>Expert load</h2>");
});

test("what was not measured is left out, and an empty run is no error", () => {
  const dir = fresh();
  using run = openRun(dir, { config: {} });
  expect(titles(runReport(dir))).toEqual([]);
  expect(runReport(dir).summary).toBe("No step has been taken yet.");
  run.metrics({ step: 1, loss: 2 });
  expect(titles(runReport(dir))).toEqual(["In numbers", "Learning"]);
  expect(runReport(dir).summary).toBe("1 step: training loss is 2.");
  expect(reportHtml(runReport(dir))).toContain("training loss");
});

test("sixty layers share eight panels, and a peak between two points is not lost", () => {
  const dir = fresh();
  using run = openRun(dir, { config: {} });
  for (let step = 1; step <= 500; step++) {
    run.metrics({ step, maxLogits: Array.from({ length: 60 }, (_, layer) => [layer === 3 && step === 250 ? 999 : 1]) });
  }
  const section = runReport(dir).sections.find((s) => s.kind === "chart");
  expect(section?.panels.map((panel) => panel.title).slice(0, 2)).toEqual(["layers 0 – 6", "layers 7 – 14"]);
  expect(section?.panels).toHaveLength(8);
  expect(Math.max(...section!.panels[0]!.lines[0]!.points.map(([, y]) => y))).toBe(999);
  expect(section!.panels[0]!.lines[0]!.points).toHaveLength(240);
});
