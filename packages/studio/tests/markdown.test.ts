import fc from "fast-check";
import { expect, test } from "vitest";
import { parseMarkdown, parseSpans } from "../page/markdown.ts";

const text = (text: string) => ({ kind: "text", text });

test("spans", () => {
  expect(parseSpans("a **b `c`** *d* `e*f*` 2*3*4 [l](u) __g__")).toEqual([
    text("a "),
    { kind: "strong", spans: [text("b "), { kind: "code", text: "c" }] },
    text(" "),
    { kind: "emphasis", spans: [text("d")] },
    text(" "),
    { kind: "code", text: "e*f*" },
    text(" 2"),
    { kind: "emphasis", spans: [text("3")] },
    text("4 "),
    { kind: "link", text: "l", url: "u" },
    text(" __g__"),
  ]);
});

test("blocks, also while they are being written", () => {
  expect(
    parseMarkdown("# T\n\na\nb\n```ts\nx < 1\n\n- y\n```\n> q\n---\n1. one\n   - in\n2. two\n\nend\n```py\nopen"),
  ).toEqual([
    { kind: "heading", level: 1, spans: [text("T")] },
    { kind: "paragraph", spans: [text("a\nb")] },
    { kind: "code", language: "ts", text: "x < 1\n\n- y" },
    { kind: "quote", blocks: [{ kind: "paragraph", spans: [text("q")] }] },
    { kind: "rule" },
    {
      ...{ kind: "list", ordered: true, start: 1 },
      items: [
        [
          { kind: "paragraph", spans: [text("one")] },
          { kind: "list", ordered: false, start: 1, items: [[{ kind: "paragraph", spans: [text("in")] }]] },
        ],
        [{ kind: "paragraph", spans: [text("two")] }],
      ],
    },
    { kind: "paragraph", spans: [text("end")] },
    { kind: "code", language: "py", text: "open" },
  ]);
});

test("a table has a head, rows and cells", () => {
  expect(parseMarkdown("| a | b |\n|---|:-:|\n| 1 | *2* |")).toEqual([
    {
      kind: "table",
      head: [[text("a")], [text("b")]],
      rows: [[[text("1")], [{ kind: "emphasis", spans: [text("2")] }]]],
    },
  ]);
});

/** All texts of a tree. */
const said = (tree: unknown): string =>
  Array.isArray(tree)
    ? tree.map(said).join("")
    : typeof tree === "object" && tree !== null
      ? Object.entries(tree)
          .map(([key, value]) => (key === "text" || key === "url" || key === "language" ? String(value) : said(value)))
          .join("")
      : "";

test("whatever is written, no letter of it is lost", () => {
  const piece = fc.constantFrom(..."ab \n*`#->|[]()1.~_<".split(""), "```", "\n\n", "\n- ", "\n  ", "\n|-|\n");
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 60 }), (pieces) => {
      const source = pieces.join("");
      const letters = (text: string) => text.replace(/[^ab]/g, "");
      expect(letters(said(parseMarkdown(source)))).toBe(letters(source));
    }),
    { numRuns: 2000 },
  );
});

test("a hostile text takes no longer than its length asks", () => {
  // With a quadratic expression each of these would take minutes.
  for (const piece of ["**a ", "*a ", "`a", "[a](", "| ", "> ", "- "]) {
    const tree = parseMarkdown(piece.repeat(200_000));
    expect(tree.length).toBeGreaterThan(0);
  }
});
