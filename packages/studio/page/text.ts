/** Markdown's tree as elements. */
import { type ComponentChild, h } from "preact";
import { type Block, parseMarkdown, type Span } from "./markdown.ts";
import { Table } from "./table.ts";

export const Markdown = ({ text }: { text: string }) => h("div", { class: "markdown" }, parseMarkdown(text).map(block));

function block(one: Block): ComponentChild {
  switch (one.kind) {
    case "paragraph":
      return h("p", null, one.spans.map(span));
    case "heading":
      // The page's own headings come first.
      return h(`h${Math.min(one.level + 2, 6)}`, null, one.spans.map(span));
    case "code":
      // A wide block scrolls, by keyboard too.
      return h("pre", { tabIndex: 0, "data-language": one.language }, h("code", null, one.text));
    case "quote":
      return h("blockquote", null, one.blocks.map(block));
    case "list": {
      const items = one.items.map((item) => h("li", null, item.length === 1 ? tight(item[0]!) : item.map(block)));
      return one.ordered ? h("ol", { start: one.start }, items) : h("ul", null, items);
    }
    case "table":
      return h(
        Table,
        { head: one.head.map((cell) => cell.map(span)) },
        one.rows.map((row) =>
          h(
            "tr",
            null,
            row.map((cell) => h("td", null, cell.map(span))),
          ),
        ),
      );
    case "rule":
      return h("hr", null);
  }
}

const tight = (one: Block): ComponentChild => (one.kind === "paragraph" ? one.spans.map(span) : block(one));

function span(one: Span): ComponentChild {
  switch (one.kind) {
    case "text":
      return one.text;
    case "code":
      return h("code", null, one.text);
    case "strong":
      return h("strong", null, one.spans.map(span));
    case "emphasis":
      return h("em", null, one.spans.map(span));
    case "link":
      return [one.text, h("span", { class: "faint" }, ` (${one.url})`)];
  }
}
