/** A table that scrolls by itself where it is wider than the page, by keyboard too. */
import { type ComponentChildren, h } from "preact";

interface Props {
  caption?: string;
  head?: ComponentChildren[];
  /** Rows. */
  children?: ComponentChildren;
}

export const Table = ({ caption, head, children }: Props) =>
  h(
    "div",
    { class: "table", tabIndex: 0 },
    h(
      "table",
      null,
      caption && h("caption", null, caption),
      head &&
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            head.map((cell) => h("th", { scope: "col" }, cell)),
          ),
        ),
      h("tbody", null, children),
    ),
  );
